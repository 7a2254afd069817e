"""Turn built samples into the other layout, without their images and annotations.

The samples stay the same; those of the reference can be made compact too. The old
files are removed when all the new ones are there; with --output they are kept.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
from typing import Any, Callable, Dict, Iterator, List, Optional

import numpy as np
from tqdm import tqdm

from util.core import files
from util.core.cli import OneLineParser, command
from util.core.errors import UserError
from util.data import build_info, compact, datasets, sources
from util.data.data_reader import DataReader
from util.data.datasets import Dataset
from util.data.samples import (
    has_samples,
    open_samples,
    remove_samples,
    sample_file,
    write_sample,
)

EXAMPLES = """examples:
  python -m util.convert -d unc -t train
  python -m util.convert -d unc -t train --to npz --output /mnt/scratch
"""

Groups = List[List[int]]  # the numbers of the samples of each image
Read = Callable[[], Dict[str, Any]]  # the next sample, in the order of the groups


def convert(
    dataset: Dataset,
    split: str,
    layout: str = "compact",
    output: Optional[str] = None,
) -> str:
    """Turn the samples of a split into a layout: all of them, or nothing happens.

    Args:
      dataset: see `datasets.get`.
      split: one of its splits.
      layout: a key of WRITERS.
      output: the folder that takes the place of the data set's `batches` for the new
        ones, and the old ones are kept; None: they take the place of the old ones.

    Returns:
      The folder of the new samples.

    Raises:
      UserError: there are no samples, or some are missing or damaged; or there are
        some below `output` already; or another process writes there.
    """
    source, prefix = dataset.sample_dir(split), dataset.prefix(split)
    if output is None:
        with files.locked(source):
            files.remove_parts(source)
            samples = open_samples(source, prefix)
            already, target = samples.layout == layout, source
            if not already:
                with _all_or_nothing(target, prefix, layout):
                    _write(samples, source, target, prefix, layout)
            _write_record(source, target, layout)
            for other in WRITERS.keys() - {layout}:
                REMOVERS[other](source, prefix)
    else:
        samples, already = open_samples(source, prefix), False
        target = dataclasses.replace(dataset, batches=output).build_dir(split)
        if has_samples(target, prefix):
            raise UserError(f"{target} holds samples already: choose another --output")
        with files.whole_folder(target) as folder:
            _write(samples, source, folder, prefix, layout)
            sources.copy(source, folder)
            _write_record(source, folder, layout)
    now = "already" if already else "now"
    print(
        f"{dataset.name} {split}: {len(samples)} samples, {now} {layout}, in {target}"
    )
    return target


def _write_record(source: str, target: str, layout: str) -> None:
    """Say of new samples what the old ones were built from, where that is known."""
    settings = build_info.read(source)
    if settings:
        settings["layout"] = layout
        build_info.write(target, settings, complete=True)


@contextlib.contextmanager
def _all_or_nothing(folder: str, prefix: str, layout: str) -> Iterator[None]:
    """Remove the files of a layout before, and also afterwards if anything fails."""
    REMOVERS[layout](folder, prefix)  # what a conversion that was killed has left
    try:
        yield
    except BaseException:
        REMOVERS[layout](folder, prefix)
        with contextlib.suppress(OSError):  # there is more in it
            os.rmdir(folder)
        raise


def _write(samples, source: str, target: str, prefix: str, layout: str) -> None:
    """Read all samples, image by image, and write them with a progress bar."""
    groups = {}
    for number, image in enumerate(samples.images()):
        groups.setdefault(image, []).append(number)
    order = [number for numbers in groups.values() for number in numbers]
    bar = tqdm(total=len(order), desc=f"{prefix} to {layout}", unit=" samples")
    with bar, DataReader(source, prefix, shuffle=False, order=order) as reader:

        def read():
            bar.update()
            return reader.read_batch()

        WRITERS[layout](list(groups.values()), read, target, prefix)


def _write_npz(groups: Groups, read: Read, folder: str, prefix: str) -> None:
    for numbers in groups:
        for number in numbers:
            sample = read()
            write_sample(
                sample_file(folder, prefix, number),
                sample["text_batch"],
                sample["im_batch"],
                sample["mask_batch"],
                sample["sent_batch"][0],
                sample["im_name_batch"][0],
            )


class _Image:
    """An image and the masks that samples have on it."""

    def __init__(self, number: int, sample: Dict[str, Any]) -> None:
        self.number, self.name = number, sample["im_name_batch"][0]
        self.pixels = sample["im_batch"]
        self._masks = {}

    def mask_number(self, mask: np.ndarray) -> int:
        """Return the number of a mask, a new one if it was not there before."""
        number, _ = self._masks.setdefault(mask.tobytes(), (len(self._masks), mask))
        return number

    def write(self, folder: str, prefix: str) -> None:
        """Write the image with its masks."""
        path = compact.image_file(folder, prefix, self.number)
        masks = [mask for _, mask in self._masks.values()]
        compact.write_image(path, self.pixels, masks)


def _write_compact(groups: Groups, read: Read, folder: str, prefix: str) -> None:
    entries, names = {}, []
    for numbers in groups:
        images = []
        for number in numbers:
            sample = read()
            # Names and checksums can mislead, so the pixels decide: one is the rule.
            for image in images:
                if np.array_equal(image.pixels, sample["im_batch"]):
                    break
            else:
                image = _Image(len(names) + len(images), sample)
                images.append(image)
            mask = image.mask_number(sample["mask_batch"])
            words, sentence = sample["text_batch"], sample["sent_batch"][0]
            entries[number] = (words, sentence, image.number, mask)
        for image in images:
            image.write(folder, prefix)
            names.append(image.name)
    compact.write_index(folder, prefix, compact.make_index(entries, names))


WRITERS = {"npz": _write_npz, "compact": _write_compact}
REMOVERS = {"npz": remove_samples, "compact": compact.remove}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; apart from main() so that tests can use it."""
    parser = OneLineParser(
        prog="python -m util.convert",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-d", dest="dataset", metavar="NAME", required=True, help="the data set")
    add("-t", dest="split", required=True, metavar="SPLIT", help="train, val, ...")
    add("--to", dest="layout", choices=list(WRITERS), default="compact")
    add("--data", default="data", metavar="DIR", help="(default: %(default)s)")
    add("--batches", metavar="DIR", help="where the samples lie (default: --data)")
    add("--output", metavar="DIR", help="where the new ones go; the old ones are kept")
    return parser


def run(args: argparse.Namespace) -> int:
    """Turn the samples that the command line asks for."""
    dataset = datasets.get(args.dataset, args.data, args.batches)
    convert(dataset, args.split, args.layout, args.output)
    return 0


def main(argv=None) -> int:
    """Run the command line and return its exit code."""
    return command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
