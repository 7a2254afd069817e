"""Train models and options alike on the embedded data set `shapes`, and compare them.

Each run is trained as the demo is, on the same backbone, and tested without and with
DenseCRF. A run is minutes on a core, all of them hours: called again, the same command
goes on with the runs that are not complete, and several processes may share a folder
if each has its own --networks or --seeds. The table that it ends with is of all
complete runs of the folder. Its seconds a step compare only where nothing else ran on
the machine.
"""

import argparse
import sys

from util.core.cli import OneLineParser, command, count, seed

EXAMPLES = """examples:
  python -m util.compare_models -f ckpts/shapes/compare
  python -m util.compare_models -f ckpts/shapes/compare --networks CMPC_model CMPC_model:loss=region --seeds 0
  python -m util.compare_models -f ckpts/shapes/refined --networks CMPC_model CMPC_model:refine=score --steps 200 --init-from ckpts/shapes/demo/shapes_iter_10000.tfmodel
"""  # noqa: E501


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; apart from main() so that tests can use it."""
    parser = OneLineParser(
        prog="python -m util.compare_models",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-f", dest="folder", required=True, metavar="DIR", help="folder of the runs "
        "and of compare.json, the figures of the table; and of backbone-seed-N.ckpt, "
        "the backbones, which are trained where they are missing")  # fmt: skip
    add("--networks", nargs="+", metavar="NAME[:OPTION=VALUE]", help="models, with an "
        "option or without (default: every model as it is, and with each value of each "
        "of its options but refine, whose step takes 30 times as long)")  # fmt: skip
    add("--steps", type=count, default=2000, metavar="N",
        help="of training (default: %(default)s)")  # fmt: skip
    add("--seeds", nargs="+", type=seed, default=[0, 1, 2], metavar="N",
        help="a run of each network with each of them (default: 0 1 2)")  # fmt: skip
    add("--threads", type=count, default=1, metavar="N", help="of the processor that "
        "train; with 1 a run can be repeated exactly (default: %(default)s)")  # fmt: skip  # noqa: E501
    add("--init-from", metavar="SNAPSHOT", help="start each network from a snapshot of "
        "the demo's size, in place of the backbone")  # fmt: skip
    add("--data", default="data", metavar="DIR", help="the data folder, where "
        "shapes is drawn if it is missing (default: %(default)s)")  # fmt: skip
    add("--batches", metavar="DIR", help="folder of the samples (default: that of "
        "--data)")  # fmt: skip
    return parser


def run(args: argparse.Namespace) -> int:
    """Compare what the command line asks for."""
    from util.graph.process import own_process  # TensorFlow loads here, not for -h

    own_process()
    from util.training import comparison

    comparison.run(args)
    return 0


def main(argv=None) -> int:
    """Run the command line and return its exit code."""
    return command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
