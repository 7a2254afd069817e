"""Check all that a run needs: what is there, what is missing, where to get it.

A line each: ok; missing or broken, then no run can start; or optional: not there, or
not in order, but a run does without. What samples are built from is optional once they
are built. The exit code is 0 if a run can start, else 1.
"""

import argparse
import glob
import importlib
import os
import shutil
import sys
from typing import Any, Callable, List, NamedTuple, Sequence

from util.core import files
from util.core.cli import PRECISIONS, OneLineParser, command
from util.core.errors import UserError
from util.data import (
    annotations,
    datasets,
    im_processing,
    sources,
    text_processing,
    vocabularies,
)
from util.data.datasets import Dataset
from util.data.referent import Referent, load

EXAMPLES = """examples:
  python -m util.check -d unc
  python -m util.check -d shapes -t test --json check.json
"""
OPENED = 20  # images, masks and samples of a split that are opened
COMMON_SIZE = (480, 640)  # of images whose annotations do not say it
PUBLIC = "data/README.md says where it comes from"
CUSTOM = "see Your own data in data/README.md"
PACKAGES = {  # module -> what it is for, how to get it
    "pydensecrf": (
        "--crf-backend pydensecrf",
        "pip install pydensecrf2 (up to Python 3.12)",
    ),
    "matplotlib": ("util.plot_log and reports", "pip install -e '.[plot]'"),
}


class Missing(UserError):
    """What is checked is not there."""


class Row(NamedTuple):
    """One line of the table.

    Attributes:
      status: "ok", "missing", "broken" or "optional".
      what: what was checked.
      detail: what was found.
      todo: what to do about it; "": nothing.
    """

    status: str
    what: str
    detail: str
    todo: str = ""


class Space(NamedTuple):
    """Bytes that samples take at most: one file each, and compact."""

    npz: int = 0
    compact: int = 0


def check_all(dataset: Dataset, splits: Sequence[str], has_backbone: bool) -> List[Row]:
    """Check all that a run needs.

    Args:
      dataset: see `datasets.get`.
      splits: those of its splits that have to be there.
      has_backbone: training starts from the weights of a file.

    Returns:
      The table, its rows in the order in which they are printed.
    """
    rows, space = [], []
    for split in splits:
        rows += _split_rows(dataset, split, space)
    rows += [_vocabulary_row(dataset)]
    rows += _tensorflow_rows(dataset, has_backbone)
    rows += [_package_row(name) for name in PACKAGES]
    return rows + [_row("disk", lambda: _disk(dataset, space), "use --batches DIR")]


def _row(what: str, check: Callable[[], str], todo: str, needed: bool = True) -> Row:
    """Return the row of a check, which returns the detail or raises a UserError."""
    try:
        return Row("ok", what, check())
    except UserError as error:
        status = "missing" if isinstance(error, Missing) else "broken"
        return Row(status if needed else "optional", what, str(error), todo)


def _some(things: Sequence[Any]) -> List[Any]:
    """Return OPENED of them, from the first to the last; or all."""
    last, count = len(things) - 1, min(len(things), OPENED)
    return [things[n * last // max(1, count - 1)] for n in range(count)]


# --- A split


def _split_rows(dataset: Dataset, split: str, space: List[Space]) -> List[Row]:
    """Check a split; add the space that its samples will take to `space`."""
    build = dataset.build_command(split)
    get = CUSTOM if dataset.is_custom else PUBLIC
    if dataset.name == "shapes":
        get = build
    found = []  # referents

    def annotations():
        found.extend(_referents(dataset, split))
        published = dataset.splits[split]
        counted = _counted(sum(len(r.sentences) for r in found), published)
        return f"{counted}, in {dataset.annotation_file(split)}"

    samples = _row(f"samples {split}", lambda: _samples(dataset, split), build)
    needed = samples.status != "ok"
    rows = [_row(f"annotations {split}", annotations, get, needed)]
    images = _row(
        f"images {split}", lambda: _images(dataset, split, found), get, needed
    )
    rows.append(images)
    rows.append(_row(f"masks {split}", lambda: _masks(found), get, needed))
    if needed:
        space.append(_space(dataset, split, found))
    return rows + [samples]


def _counted(number, published):
    if published is None:
        return f"{number} sentences"
    if published == number:
        return f"{number} sentences, as published"
    raise UserError(f"{number} sentences, but {published} are published")


def _referents(dataset, split):
    path = dataset.annotation_file(split)
    if not os.path.exists(path):
        raise Missing(f"there is no file {path}")
    found = annotations.referents(dataset, split)
    if not any(referent.sentences for referent in found):
        raise UserError(f"{path} has no sentences for {split}")
    return found


def _require_all(paths):
    """Raise a Missing where one of several files is not there."""
    gone = [path for path in paths if not os.path.isfile(path)]
    if gone:
        raise Missing(f"{len(gone)} of {len(paths)} are missing, first {gone[0]}")


def _images(dataset, split, referents):
    paths = sorted({referent.image for referent in referents})
    if not paths:
        raise Missing("not checked without annotations")
    _require_all(paths)
    some = _some(paths)
    for path in some:
        im_processing.read_image(path)
    sources.check(dataset.build_dir(split), dataset, referents)
    return f"{len(paths)} files, {len(some)} of them opened, in {_folders(paths)}"


def _folders(paths):
    """Return the folders of files, a few of them."""
    folders = sorted({os.path.dirname(path) for path in paths})
    more = f" and {len(folders) - 3} more" if len(folders) > 3 else ""
    return ", ".join(folders[:3]) + more


def _masks(referents):
    paths = {r.mask_file or r.mask_image for r in referents}
    _require_all(sorted(paths - {None}))
    some = _some([r for r in referents if os.path.isfile(r.image)])
    if not some:
        raise Missing("not checked without annotations and images")
    for referent in some:
        load([referent])
    return f"{len(referents)} objects, {len(some)} of them decoded"


def _samples(dataset, split):
    try:
        folder = dataset.sample_dir(split)
    except UserError:
        raise Missing(f"there are none in {dataset.build_dir(split)}") from None
    samples = dataset.samples(split)
    if os.path.isfile(dataset.vocabulary_file):
        vocabularies.check_samples(folder, dataset.vocabulary_file)
    some = _some(range(len(samples)))
    for number in some:
        samples.read(number)
    return f"{len(samples)} in {folder} ({samples.layout}), {len(some)} of them read"


# --- What all splits share


def _vocabulary_row(dataset: Dataset) -> Row:
    path, todo = dataset.vocabulary_file, PUBLIC
    if dataset.is_custom:
        todo = dataset.vocabulary_command
    elif dataset.name == "shapes":
        todo = dataset.build_command("train")

    def check():
        if not os.path.isfile(path):
            raise Missing(f"there is no file {path}")
        known = text_processing.load_vocab_dict_from_file(path)
        size = text_processing.vocabulary_size(path)
        found = f"{size} words, <pad> and <unk> among them, in {path}"
        if text_processing.rule_of(known) == text_processing.UNICODE:
            found += "; it reads the letters of every alphabet"
        return found

    return _row("vocabulary", check, todo)


def _tensorflow_rows(dataset: Dataset, has_backbone: bool) -> List[Row]:
    """Check TensorFlow, and with it what it takes to read."""
    first = _row("TensorFlow", _tensorflow, "pip install -e .")
    if first.status != "ok":
        return [first]
    rows = [first, _row("GPU", _gpus, "pip install -e '.[gpu]'", needed=False)]
    todo = PUBLIC if has_backbone else "none is needed with --backbone random"
    rows.append(_row("backbone", lambda: _backbone(dataset), todo, has_backbone))
    if dataset.glove:
        todo = f"for -emb: python -m util.glove glove.6B.zip -d {dataset.name}"
        rows.append(_row("word vectors", lambda: _vectors(dataset), todo, False))
    return rows


def _tensorflow():
    try:
        from util.graph.process import own_process

        own_process()
        from util.graph.compat import tf
        from util.graph.session import require_precision
    except Exception as error:  # with wrong packages next to it, it raises anything
        raise Missing(f"it does not load: {error}") from error
    usable = []
    for precision in PRECISIONS:
        try:
            require_precision(precision)
            usable.append(precision)
        except UserError:
            pass
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{tf.VERSION}, Python {python}, --precision {', '.join(usable)}"


def _gpus():
    from util.graph.compat import tf

    number = len(tf.config.experimental.list_physical_devices("GPU"))
    if not number:
        raise Missing("none: everything works, but slowly at full size")
    return f"{number}"


def _backbone(dataset):
    from deeplab_resnet import weights

    path = datasets.backbone_file(dataset.root)
    if not glob.glob(glob.escape(path) + "*"):  # one file or several, by its format
        raise Missing(f"there is no {path}")
    return f"{weights.check(path)} variables in {path}"


def _vectors(dataset):
    from util.training import start

    path = dataset.embedding_file
    if not os.path.isfile(path):
        raise Missing(f"there is no file {path}")
    size = text_processing.vocabulary_size(dataset.vocabulary_file)
    vectors = start.load_word_vectors(path, size, dataset.vocabulary_file)
    return f"{vectors.shape[0]} of {vectors.shape[1]} numbers in {path}"


def _package_row(name: str) -> Row:
    use, todo = PACKAGES[name]

    def check():
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise Missing(f"it does not load: {error}") from error
        return f"for {use}"

    return _row(name, check, f"for {use}: {todo}", needed=False)


# --- Disk


def _space(dataset: Dataset, split: str, referents: List[Referent]) -> Space:
    """Return what the samples of a split will take."""
    fixed = 2 * [dataset.input_size] if "train" in split else None

    def pixels(referent):
        height, width = fixed or referent.size or COMMON_SIZE
        return height * width

    images = {referent.image: pixels(referent) for referent in referents}
    return Space(
        sum(4 * pixels(r) * len(r.sentences) for r in referents),
        3 * sum(images.values()) + sum(map(pixels, referents)) // 8,
    )


def _disk(dataset: Dataset, space: List[Space]) -> str:
    folder = os.path.abspath(dataset.batches or dataset.root)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    npz, compact = (sum(sizes) for sizes in zip(Space(), *space))
    found = f"{free / 1e9:.1f} GB are free in {folder}"
    if not npz:
        return f"{found}; nothing is left to build" if not space else found
    found += (
        f"; what is left to build takes about {npz / 1e9:.1f} GB, with --compact at "
        f"most {compact / 1e9:.1f} GB"
    )
    if free < compact:
        raise Missing(found)
    return found


# --- Command line


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; apart from main() so that tests can use it."""
    parser = OneLineParser(
        prog="python -m util.check",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-d", dest="dataset", metavar="NAME", required=True, help="the data set")
    add("-t", dest="split", metavar="SPLIT", help="check this one (default: all)")
    add("--data", default="data", metavar="DIR", help="(default: %(default)s)")
    add("--batches", metavar="DIR", help="where the samples are (default: --data)")
    choices = ("file", "random")
    add("--backbone", choices=choices, help="(default: random for shapes, else file)")
    add("--json", metavar="FILE", help="write the table here as well")
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the table that the command line asks for; return 0 if a run can start."""
    dataset = datasets.get(args.dataset, args.data, args.batches)
    splits = list(dataset.splits)
    if args.split:
        dataset.check_split(args.split)
        splits = [args.split]
    has_backbone = dataset.has_backbone
    if args.backbone:
        has_backbone = args.backbone == "file"
    rows = check_all(dataset, splits, has_backbone)
    for row in rows:
        todo = f" -> {row.todo}" if row.todo else ""
        print(f"{row.status:<9} {row.what:<20} {' '.join(row.detail.split())}{todo}")
    bad = [row for row in rows if row.status in ("missing", "broken")]
    print(f"no run can start: {len(bad)} to mend" if bad else "a run can start")
    if args.json:
        table = {
            "data_set": args.dataset,
            "splits": splits,
            "ready": not bad,
            "rows": [row._asdict() for row in rows],
        }
        files.write_json(args.json, table)
    return 1 if bad else 0


def main(argv=None) -> int:
    """Run the command line and return its exit code."""
    return command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
