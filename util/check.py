"""Look at all that a run needs: what is there, what is missing, where to get it.

A line each: ok; missing or broken, then no run can start; or optional: not there, or
not in order, but a run does without. What samples are built from is optional once they
are built. The exit code is 0 if a run can start, else 1.
"""

import argparse
import importlib
import json
import os
import shutil
import sys
from typing import Any, Callable, List, NamedTuple, Optional, Sequence

from util.core import files
from util.core.cli import PRECISIONS, OneLineParser, exit_code
from util.core.errors import UserError
from util.data import annotations, datasets, im_processing, text_processing
from util.data.referent import Referent, load
from util.data.samples import open_samples

EXAMPLES = """examples:
  python -m util.check -d unc
  python -m util.check -d shapes -t test --json check.json
"""
LOOKED_AT = 20  # images, masks and samples of a split that are opened
COMMON_SIZE = (480, 640)  # reckoned with where annotations do not tell
PUBLIC = "data/README.md says where it comes from"
OWN = "see Your own data in data/README.md"
PACKAGES = {  # module -> what it is for, how to get it
    "pydensecrf": (
        "--crf-backend pydensecrf",
        "pip install pydensecrf2 (up to Python 3.12)",
    ),
    "matplotlib": ("util.plot_log and reports", "pip install -e '.[plot]'"),
}


class Missing(UserError):
    """What is looked at is not there."""


class Row(NamedTuple):
    """One line of the table.

    Attributes:
      status: "ok", "missing", "broken" or "optional".
      what: what was looked at.
      detail: what was found.
      todo: what to do about it; "": nothing.
    """

    status: str
    what: str
    detail: str
    todo: str = ""


class Place(NamedTuple):
    """A data set and its folders, as for `datasets.batch_dir`."""

    dataset: str
    root: str = "data"
    batches: Optional[str] = None


class Space(NamedTuple):
    """Bytes that samples take at most: one file each, and compact."""

    npz: int = 0
    compact: int = 0


def look(
    place: Place, splits: Sequence[str], backbone: Optional[str] = None
) -> List[Row]:
    """Look at all that a run needs.

    Args:
      place: the data set.
      splits: those of its splits that have to be there.
      backbone: "file" or "random", what training starts from; None: as training
        chooses by the data set.

    Raises:
      UserError: there is no such data set.
    """
    about = datasets.get(place.dataset, place.root)
    if backbone is None:
        backbone = "file" if about.backbone else "random"
    rows, space = [], []
    for split in splits:
        rows += _split_rows(place, split, space)
    rows += [_vocabulary_row(place)]
    rows += _tensorflow_rows(place, backbone)
    rows += [_package_row(name) for name in PACKAGES]
    return rows + [_judge("disk", lambda: _disk(place, space), "use --batches DIR")]


def _judge(what: str, check: Callable[[], str], todo: str, needed: bool = True) -> Row:
    """Return the row of a check, which returns the detail or raises a UserError."""
    try:
        return Row("ok", what, check())
    except UserError as error:
        status = "missing" if isinstance(error, Missing) else "broken"
        return Row(status if needed else "optional", what, str(error), todo)


def _some(things: Sequence[Any]) -> List[Any]:
    """Return LOOKED_AT of them, from the first to the last; or all."""
    last, count = len(things) - 1, min(len(things), LOOKED_AT)
    return [things[n * last // max(1, count - 1)] for n in range(count)]


# --- A split


def _split_rows(place: Place, split: str, space: List[Space]) -> List[Row]:
    """Look at a split; add the space that its samples will take to `space`."""
    build = datasets.build_command(place.dataset, split, place.root, place.batches)
    own = datasets.get(place.dataset, place.root).annotations
    get = build if place.dataset == "shapes" else OWN if own else PUBLIC
    found = []  # referents

    def annotations():
        found.extend(_referents(place, split))
        return _counted(place, split, sum(len(r.sentences) for r in found))

    samples = _judge(f"samples {split}", lambda: _samples(place, split), build)
    needed = samples.status != "ok"
    rows = [_judge(f"annotations {split}", annotations, get, needed)]
    rows.append(_judge(f"images {split}", lambda: _images(found), get, needed))
    rows.append(_judge(f"masks {split}", lambda: _masks(found), get, needed))
    if needed:
        space.append(_space(place, split, found))
    return rows + [samples]


def _counted(place, split, number):
    published = datasets.get(place.dataset, place.root).splits[split]
    if published is None:
        return f"{number} sentences"
    if published == number:
        return f"{number} sentences, as published"
    raise UserError(f"{number} sentences, but {published} are published")


def _referents(place, split):
    path = datasets.annotation_file(place.dataset, split, place.root)
    if not os.path.isfile(path):
        raise Missing(f"there is no file {path}")
    found = annotations.referents(place.dataset, split, place.root)
    if not any(referent.sentences for referent in found):
        raise UserError(f"{path} has no sentences for {split}")
    return found


def _require_all(paths):
    """Raise a Missing where one of several files is not there."""
    gone = [path for path in paths if not os.path.isfile(path)]
    if gone:
        raise Missing(f"{len(gone)} of {len(paths)} are missing, first {gone[0]}")


def _images(referents):
    paths = sorted({referent.image for referent in referents})
    if not paths:
        raise Missing("not looked at without annotations")
    _require_all(paths)
    some = _some(paths)
    for path in some:
        im_processing.read_image(path)
    return f"{len(paths)} files, {len(some)} of them opened"


def _masks(referents):
    paths = {r.mask_file or r.mask_image for r in referents}
    _require_all(sorted(paths - {None}))
    some = _some([r for r in referents if os.path.isfile(r.image)])
    if not some:
        raise Missing("not looked at without annotations and images")
    for referent in some:
        load([referent])
    return f"{len(referents)} objects, {len(some)} of them decoded"


def _samples(place, split):
    prefix = datasets.sample_prefix(place.dataset, split)
    try:
        folder = datasets.find_batch_dir(
            place.dataset, split, place.root, place.batches
        )
    except UserError:
        folder = datasets.batch_dir(place.dataset, split, place.root, place.batches)
        raise Missing(f"there are none in {folder}") from None
    samples = open_samples(folder, prefix)
    some = _some(range(len(samples)))
    for number in some:
        samples.read(number)
    return f"{len(samples)} in {folder} ({samples.layout}), {len(some)} of them read"


# --- What all splits share


def _vocabulary_row(place: Place) -> Row:
    path = datasets.vocabulary_file(place.dataset, place.root)
    todo = PUBLIC
    if datasets.get(place.dataset, place.root).annotations:
        root = "" if place.root == "data" else f" --data {place.root}"
        todo = f"python -m util.vocabulary -d {place.dataset}{root} --output {path}"
    elif place.dataset == "shapes":
        todo = "python build_batches.py -d shapes -t train"

    def check():
        if not os.path.isfile(path):
            raise Missing(f"there is no file {path}")
        text_processing.load_vocab_dict_from_file(path)
        size = text_processing.vocabulary_size(path)
        return f"{size} words, <pad> and <unk> among them, in {path}"

    return _judge("vocabulary", check, todo)


def _tensorflow_rows(place: Place, backbone: str) -> List[Row]:
    """Look at TensorFlow, and with it at what it takes to read."""
    first = _judge("TensorFlow", _tensorflow, "pip install -e .")
    if first.status != "ok":
        return [first]
    rows = [first, _judge("GPU", _gpus, "pip install -e '.[gpu]'", needed=False)]
    drawn = backbone == "random"
    todo = "none is needed with --backbone random" if drawn else PUBLIC
    check = _judge("backbone", lambda: _backbone(place.root), todo, needed=not drawn)
    rows.append(check)
    if datasets.get(place.dataset, place.root).glove:
        todo = f"for -emb: python -m util.glove glove.6B.zip -d {place.dataset}"
        check = _judge("word vectors", lambda: _vectors(place), todo, needed=False)
        rows.append(check)
    return rows


def _tensorflow():
    try:
        from util.graph import compat
        from util.graph.session import require_precision
    except Exception as error:  # with wrong packages beside it, it raises anything
        raise Missing(f"it does not load: {error}") from error
    usable = []
    for precision in PRECISIONS:
        try:
            require_precision(precision)
            usable.append(precision)
        except UserError:
            pass
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{compat.tf.VERSION}, Python {python}, --precision {', '.join(usable)}"


def _gpus():
    from util.graph.compat import tf

    number = len(tf.config.experimental.list_physical_devices("GPU"))
    if not number:
        raise Missing("none: everything works, but slowly at full size")
    return f"{number}"


def _backbone(root):
    from util.graph import checkpoint
    from util.training import start

    try:
        path = start.backbone_file(argparse.Namespace(backbone="file", data=root))
    except UserError as error:
        raise Missing(f"there is no {datasets.backbone_file(root)}") from error
    return f"{checkpoint.read_backbone(path)} variables in {path}"


def _vectors(place):
    from util.training import start

    path = datasets.embedding_file(place.dataset, place.root)
    if not os.path.isfile(path):
        raise Missing(f"there is no file {path}")
    vocabulary = datasets.vocabulary_file(place.dataset, place.root)
    size = text_processing.vocabulary_size(vocabulary)
    vectors = start.load_word_vectors(path, size)
    return f"{vectors.shape[0]} of {vectors.shape[1]} numbers in {path}"


def _package_row(name: str) -> Row:
    use, todo = PACKAGES[name]

    def check():
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise Missing(f"it does not load: {error}") from error
        return f"for {use}"

    return _judge(name, check, f"for {use}: {todo}", needed=False)


# --- Disk


def _space(place: Place, split: str, referents: List[Referent]) -> Space:
    """Return what the samples of a split will take."""
    input_size = datasets.get(place.dataset, place.root).input_size
    fixed = (input_size, input_size) if "train" in split else None

    def pixels(referent):
        height, width = fixed or referent.size or COMMON_SIZE
        return height * width

    images = {referent.image: pixels(referent) for referent in referents}
    return Space(
        sum(4 * pixels(r) * len(r.sentences) for r in referents),
        3 * sum(images.values()) + sum(map(pixels, referents)) // 8,
    )


def _disk(place: Place, space: List[Space]) -> str:
    folder = os.path.abspath(place.batches or place.root)
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
    add("-t", dest="split", metavar="SPLIT", help="look at this one (default: all)")
    add("--data", default="data", metavar="DIR", help="(default: %(default)s)")
    add("--batches", metavar="DIR", help="where the samples are (default: --data)")
    choices = ("file", "random")
    add("--backbone", choices=choices, help="(default: random for shapes, else file)")
    add("--json", metavar="FILE", help="write the table here as well")
    return parser


def report(args: argparse.Namespace) -> int:
    """Print the table that the command line asks for; return 0 if a run can start."""
    splits = list(datasets.get(args.dataset, args.data).splits)
    if args.split:
        datasets.check_split(args.dataset, args.split, args.data)
        splits = [args.split]
    rows = look(Place(args.dataset, args.data, args.batches), splits, args.backbone)
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
        with files.writing(args.json) as file:
            file.write(json.dumps(table, indent=2).encode("ascii"))
    return 1 if bad else 0


def main(argv=None) -> int:
    """Run the command line and return its exit code."""
    args = build_parser().parse_args(argv)
    return exit_code(lambda: report(args))


if __name__ == "__main__":
    sys.exit(main())
