"""Samples on disk, one for each sentence with its picture and mask; building them.

Two layouts: one file a sample, that of the reference, in which only `im_name_batch`
is new; and the compact one of `util.compact`. Both give the same samples.
Axes: H rows, W columns.
"""

import contextlib
import functools
import os
import sys
from typing import Any, Dict, Hashable, List, NamedTuple, Optional, Union

import numpy as np
from tqdm import tqdm

from util import (
    compact,
    datasets,
    files,
    im_processing,
    npz,
    processes,
    record,
    refer,
    text_processing,
)
from util.errors import UserError


def sample_file(folder: str, prefix: str, number: int) -> str:
    """Return the path of a sample that is a file of its own."""
    return os.path.join(folder, f"{prefix}_{number}.npz")


def write_sample(
    path: str,
    words: List[int],
    picture: Union[np.ndarray, bytes],
    mask: Union[np.ndarray, bytes],
    sentence: str,
    picture_name: str,
) -> None:
    """Write one sample.

    Args:
      path: the file to make or replace.
      words: 20 ids, padding 0 in front.
      picture: uint8 [H, W, 3], RGB; or `npz.as_npy` of it, where several samples
        show it.
      mask: bool [H, W], True on the object; or `npz.as_npy` of it.
      sentence: the text that `words` come from.
      picture_name: the same for all samples that show the same picture.

    Raises:
      UserError: the file cannot be written.
    """
    arrays = {
        "text_batch": np.array(words, np.int32),
        "im_batch": picture,
        "mask_batch": mask,
        "sent_batch": [sentence],
        "im_name_batch": [picture_name],
    }
    npz.write(path, arrays)


def read_sample(path: str) -> Dict[str, Any]:
    """Read one sample, made by us or by the reference.

    Args:
      path: the file.

    Returns:
      text_batch: int32 [20], ids, padding 0 in front.
      im_batch: uint8 [H, W, 3], RGB.
      mask_batch: bool [H, W], True on the object.
      sent_batch: [sentence].
      im_name_batch: [name of the picture]; [""] in files of the reference.

    Raises:
      UserError: the file is missing or damaged; names it.
    """
    with npz.opened(path, "sample") as arrays:
        sample = {key: arrays[key] for key in arrays}
        sample.setdefault("im_name_batch", np.array([""]))
        return _checked(sample)


def _checked(sample):
    """Return the arrays as `read_sample` promises them; ValueError if they are not."""
    size = sample["im_batch"].shape[:2]
    forms = {
        "text_batch": (np.typecodes["AllInteger"], (text_processing.MAX_WORDS,)),
        "im_batch": (np.dtype(np.uint8).char, size + (3,)),
        "mask_batch": (np.dtype(bool).char, size),
        "sent_batch": ("SU", (1,)),
        "im_name_batch": ("SU", (1,)),
    }
    for key, (types, shape) in forms.items():
        array = sample[key]
        if array.dtype.char not in types or array.shape != shape:
            raise ValueError(f"{key} is {array.dtype} {array.shape}")
    checked = {key: sample[key] for key in forms}
    checked["text_batch"] = checked["text_batch"].astype(np.int32)
    for key in ("sent_batch", "im_name_batch"):
        checked[key] = refer.as_text(checked[key].tolist())
    return checked


def remove_samples(folder: str, prefix: str) -> None:
    """Remove the samples that are files of their own."""
    for path in datasets.numbered_files(folder, prefix).values():
        os.remove(path)


class SampleFiles:
    """The samples of a folder with one file for each; see `open_samples`."""

    layout = "npz"

    def __init__(self, folder: str, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._numbers = datasets.numbered_files(folder, prefix).keys()

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def num_there(self) -> int:
        """How many samples there are."""
        return len(self)

    def check(self) -> None:
        """Refuse samples with a gap in their numbers.

        Raises:
          UserError: names the first one that is missing.
        """
        for number in range(len(self)):
            if number not in self._numbers:
                raise UserError(f"the sample {self.path(number)} is missing")

    def path(self, number: int) -> str:
        """Return the path of a sample."""
        return sample_file(self._folder, self._prefix, number)

    def pictures(self) -> List[Hashable]:
        """Return a key for each sample, the same where the picture is the same.

        Where samples have no name of their picture, those of the reference, it is
        the checksum that their files have of it.

        Raises:
          UserError: a file is damaged; names it.
        """
        return [_picture_key(self.path(number)) for number in range(len(self))]

    def read(self, number: int) -> Dict[str, Any]:
        """Return a sample, see `read_sample`."""
        return read_sample(self.path(number))


def _picture_key(path):
    with npz.opened(path, "sample") as arrays:
        name = arrays["im_name_batch"].item() if "im_name_batch" in arrays else ""
        stored = arrays.zip.getinfo("im_batch.npy")
        return name or (stored.CRC, stored.file_size)


def open_samples(folder: str, prefix: str) -> Union[SampleFiles, compact.Samples]:
    """Open the samples of a folder, in whichever layout they are.

    Args:
      folder: where they lie.
      prefix: `datasets.sample_prefix` of the split.

    Returns:
      An object `samples` with
        len(samples): N; samples have the numbers 0 to N - 1.
        samples.read(n): sample n, see `read_sample`.
        samples.path(n): the path of the file with its picture.
        samples.pictures(): a hashable key for each sample, the same where the
          picture is the same.
        samples.layout: "npz" or "compact".

    Raises:
      UserError: there are none, some are missing, or their build was interrupted.
    """
    # Where files of both layouts lie side by side, after a conversion that was
    # killed, the index says that the compact ones are complete.
    is_compact = os.path.isfile(datasets.index_file(folder, prefix))
    samples = (compact.Samples if is_compact else SampleFiles)(folder, prefix)
    if not len(samples):
        raise UserError(f"there are no samples {sample_file(folder, prefix, '<n>')}")
    record.check_complete(folder, samples.num_there)
    samples.check()
    return samples


class _Object(NamedTuple):
    """A referent, the number of its first sample and the ids of its sentences."""

    referent: refer.Referent
    first: int
    words: List[List[int]]


class _Picture(NamedTuple):
    """A picture, by its number, and the referents in it that have sentences."""

    number: int
    objects: List[_Object]

    @property
    def num_samples(self):
        return sum(len(one.words) for one in self.objects)

    def load(self, size):
        """Return the picture and the masks of its objects, fitted to `size` if any."""
        picture, masks = refer.load([one.referent for one in self.objects])
        if size:
            picture = im_processing.fit_picture(picture, size, size)
            masks = [im_processing.fit_mask(mask, size, size) for mask in masks]
        return picture, masks

    def samples(self):
        """Yield (number, ids, sentence, number of its mask) of each sample."""
        for mask, (referent, first, words) in enumerate(self.objects):
            for n, sentence in enumerate(referent.sentences):
                yield first + n, words[n], sentence, mask


class _FileBuilder(NamedTuple):
    """Builds one file a sample."""

    folder: str
    prefix: str

    def todo(self, pictures):
        """Return the pictures that are still to be built."""
        return [picture for picture in pictures if not self._has(picture)]

    def _has(self, picture):
        numbers = (number for number, *_ in picture.samples())
        return all(npz.is_whole(self._path(number)) for number in numbers)

    def begin(self, pictures):
        """Nothing comes before the pictures."""

    def build(self, picture, size):
        """Write the samples of a picture and return their number."""
        name = picture.objects[0].referent.picture_name
        im, masks = picture.load(size)
        # Turned into bytes once, however many files take them.
        im, masks = npz.as_npy(im), [npz.as_npy(mask) for mask in masks]
        for number, words, sentence, mask in picture.samples():
            path = self._path(number)
            if not npz.is_whole(path):
                write_sample(path, words, im, masks[mask], sentence, name)
        return picture.num_samples

    def _path(self, number):
        return sample_file(self.folder, self.prefix, number)


class _CompactBuilder(NamedTuple):
    """Builds one file a picture, after the index of their samples."""

    folder: str
    prefix: str

    def todo(self, pictures):
        """Return the pictures still to be built: all, if they have another index."""
        if not self._has_index(pictures):
            return pictures
        return [p for p in pictures if not npz.is_whole(self._path(p))]

    def begin(self, pictures):
        """Write the index, if there is none or another one."""
        if not self._has_index(pictures):
            compact.remove(self.folder, self.prefix)
            compact.write_index(self.folder, self.prefix, self._index(pictures))

    def build(self, picture, size):
        """Write a picture and return the number of its samples."""
        compact.write_picture(self._path(picture), *picture.load(size))
        return picture.num_samples

    def _path(self, picture):
        return compact.picture_file(self.folder, self.prefix, picture.number)

    def _has_index(self, pictures):
        try:
            found = compact.read_index(self.folder, self.prefix)
        except UserError:
            return False
        return compact.same(found, self._index(pictures))

    def _index(self, pictures):
        entries = {
            number: (words, sentence, picture.number, mask)
            for picture in pictures
            for number, words, sentence, mask in picture.samples()
        }
        names = [picture.objects[0].referent.picture_name for picture in pictures]
        return compact.make_index(entries, names)


BUILDERS = {"npz": _FileBuilder, "compact": _CompactBuilder}


def build(
    dataset: str,
    split: str,
    root: str = "data",
    batches: Optional[str] = None,
    size: Optional[int] = None,
    jobs: int = 1,
    layout: str = "npz",
) -> str:
    """Write the samples of a split, one for each sentence in file order.

    Goes on where an interrupted build stopped. Training splits are stored at the
    network's input size, others at the size of their pictures.

    Args:
      dataset: its name, see `datasets.get`.
      split: one of its splits.
      root: the data folder.
      batches: where the samples go in place of `root`, or None.
      size: height and width of training samples, in pixels; None: the data set's.
      jobs: number of processes.
      layout: "npz", one file a sample, or "compact".

    Returns:
      The folder of the samples.

    Raises:
      UserError: bad annotations, pictures or vocabulary; or the folder holds
        samples that were built from something else, or in the other layout.
    """
    if dataset == "shapes" and not os.path.isfile(datasets.refs_file(dataset, root)):
        from util import shapes  # not needed for any other data set

        shapes.draw(root)
    referents = refer.referents(dataset, split, root)
    about = datasets.get(dataset, root)
    vocabulary = datasets.vocabulary_file(dataset, root)
    if about.annotations and not os.path.isfile(vocabulary):
        place = "" if root == "data" else f"--data {root} "
        raise UserError(
            f"there is no vocabulary {vocabulary}; make it: python -m util.vocabulary "
            f"-d {dataset} {place}--output {vocabulary}"
        )
    pictures = _plan(referents, text_processing.load_vocab_dict_from_file(vocabulary))
    num_samples = sum(picture.num_samples for picture in pictures)
    if not num_samples:
        raise UserError(f"the annotations of {dataset} have no sentences for {split}")
    size = (size or about.input_size) if "train" in split else None
    settings = {
        "size": size,
        "vocabulary": record.file_checksum(vocabulary),
        "annotations": record.annotation_checksum(referents),
        "sentences": num_samples,
        "layout": layout,
    }
    folder = datasets.batch_dir(dataset, split, root, batches)
    prefix = datasets.sample_prefix(dataset, split)
    record.check_settings(folder, prefix, settings)
    builder = BUILDERS[layout](folder, prefix)
    done = "built" if _build(builder, pictures, settings, jobs) else "already complete"
    print(f"{dataset} {split}: {done}, {num_samples} samples in {folder}")
    _warn_of_count(f"{dataset} {split}", about.splits[split], num_samples)
    return folder


def _warn_of_count(what, expected, num_samples):
    if expected not in (None, num_samples):
        print(
            f"warning: {what} has {num_samples} sentences, "
            f"not the {expected} of the published annotations",
            file=sys.stderr,
        )


def _plan(referents, vocab_dict):
    """Return the pictures, their samples numbered in the file order of referents."""
    pictures, first = {}, 0
    for referent in referents:
        try:
            words = [
                text_processing.preprocess_sentence(sentence, vocab_dict)
                for sentence in referent.sentences
            ]
        except UserError as error:
            raise UserError(f"{referent.name}: {error}") from error
        if words:
            one = _Object(referent, first, words)
            pictures.setdefault(referent.picture, []).append(one)
        first += len(words)
    return [_Picture(n, objects) for n, objects in enumerate(pictures.values())]


def _build(builder, pictures, settings, jobs):
    """Build what is missing, with a progress bar, and return whether anything was."""
    todo = builder.todo(pictures)
    if todo:
        refer.check_files([one.referent for p in todo for one in p.objects])
        record.write(builder.folder, settings, complete=False)
        files.remove_parts(builder.folder)
        builder.begin(pictures)
        work = functools.partial(builder.build, size=settings["size"])
        total = settings["sentences"]
        bar = tqdm(
            total=total,
            initial=total - sum(picture.num_samples for picture in todo),
            desc=builder.prefix,
            unit=" samples",
        )
        with bar, contextlib.closing(
            processes.run(work, todo, min(jobs, len(todo)))
        ) as counts:
            for count in counts:
                bar.update(count)
    record.write(builder.folder, settings, complete=True)
    return bool(todo)
