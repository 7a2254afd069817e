"""Turn the annotations and images of a data set into samples for the network."""

import argparse
import dataclasses
import sys

from util.core.cli import OneLineParser, command
from util.core.errors import Mistakes, UserError
from util.core.surroundings import cores
from util.data import datasets

EXAMPLES = """examples:
  python %(prog)s -d shapes -t train
  python %(prog)s -d unc -t testA --data /mnt/data -j 16
  python %(prog)s -d unc -t train --compact
  python %(prog)s -d mine -t train --annotations mine.json --images images
"""


def build_parser():
    """Return the parser of the command line."""
    parser = OneLineParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-d", dest="dataset", metavar="NAME", required=True, help="the data set")
    add("-t", dest="split", required=True, metavar="SPLIT", help="train, val, ...")
    add("--data", default="data", metavar="DIR", help="(default: %(default)s)")
    add("--batches", metavar="DIR", help="where the samples go (default: --data)")
    number = {"type": int, "metavar": "N"}
    add("--size", **number, help="side of training samples (default: 320; shapes: 160)")
    add("-j", "--jobs", **number, default=cores(), help="(default: %(default)s)")
    compact = "store each image and mask once, in far less space"
    add("--compact", action="store_true", help=compact)
    frame = "pixels that annotations of turned photographs count, where no size tells"
    add("--annotated", choices=datasets.FRAMES, help=f"{frame} (default: upright)")
    skip = "leave out entries that are wrong, and count them"
    add("--skip-damaged", action="store_true", help=skip)
    about = "your own, remembered as NAME: see data/README.md"
    add = parser.add_argument_group("a new data set", about).add_argument
    add("--annotations", metavar="FILE", help="with sentences; see data/README.md")
    add("--images", metavar="DIR", help="folder of its images")
    return parser


def check_size(size):
    """Refuse a size that no network's input has."""
    if size is None:
        return
    from util.data.im_processing import STRIDE  # NumPy loads here, not for -h

    if size < STRIDE or size % STRIDE:
        raise UserError(f"--size {size}: must be a multiple of {STRIDE}")


def run(args):
    """Build the samples that the command line asks for."""
    is_new = args.annotations is not None or args.images is not None
    if is_new and not (args.annotations and args.images):
        raise UserError("--annotations FILE and --images DIR go together: give both")
    if not is_new:
        dataset = datasets.get(args.dataset, args.data, args.batches)
        dataset.check_split(args.split)
    check_size(args.size)
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: must be at least 1")
    from util.data import custom
    from util.data.build import build_samples

    if is_new:
        dataset = custom.register(
            args.dataset,
            args.annotations,
            args.images,
            args.split,
            args.data,
            args.batches,
            args.annotated,
            Mistakes() if args.skip_damaged else None,
        )
    elif args.annotated:
        dataset = dataclasses.replace(dataset, annotated=args.annotated)
    layout = "compact" if args.compact else "npz"
    build_samples(dataset, args.split, args.size, args.jobs, layout, args.skip_damaged)
    return 0


def main(argv=None):
    """Run the command line and return its exit code."""
    return command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
