"""Measure the speed of this machine: test, training and preparation, full size.

Weights, images and sentences are random. Each measurement of the network runs in a
fresh process, which also measures the peak of a float32 matrix product, right before
and right after. The *work rate* is the reference's arithmetic for the same result, 253
GFLOP a sentence in the test and 490 in training, per second and per GFLOP/s of that
peak. It compares machines, and exceeds 1 where less is computed than in the reference.

Machines are noisy: a time is that of the fastest of a few runs after a warm-up, save
with DenseCRF, where a stream of images is timed from its start to its last mask. On a
GPU, where a run takes several images, it is the fastest of a few streams without it.
Memory is the most that the process of the network held; those of DenseCRF are not
counted. Groups of sentences (--only grouped) are compared by the medians of steps that
are taken in turn, in one process. Files go to a temporary folder (TMPDIR chooses
where). What was not measured is null in the JSON.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from typing import Any, Callable, List

from util import models
from util.bench import comparison, gpu, load_test, measurements, scaling
from util.bench.measurements import Figures, Setup, Sizes
from util.core import files
from util.core.cli import EXACT, PRECISIONS, OneLineParser, command, within
from util.core.errors import UserError
from util.core.parallel import Pool
from util.core.surroundings import cores
from util.models import references

EXAMPLES = """examples:
  python -m util.benchmark
  python -m util.benchmark --only test,prepare --json speed.json
  python -m util.benchmark --distributed
  python -m util.benchmark --serve
  python -m util.benchmark --models
  python -m util.benchmark --gpu --json gpu.json
  python -m util.benchmark --gpu train,test --precision tf32
"""
# Names in the JSON -> sentences an image, with DenseCRF.
TEST = {"1": (1, False), "7": (7, False), "1_crf": (1, True), "7_crf": (7, True)}
# Names in the JSON -> sentences a step, with cached features.
TRAIN = {"1": (1, False), "4": (4, False), "1_cached": (1, True), "4_cached": (4, True)}
# Names in the JSON -> sentences a step, with cached features, sentences an image.
GROUPED = {"8_1": (8, False, 1), "8_4": (8, False, 4), "8_8": (8, False, 8)}
NETWORKS = ("test", "train", "grouped")
USUAL_PARTS = ("test", "train", "prepare")
PARTS = (*USUAL_PARTS, "grouped")  # which takes more memory than the others


# --- What is measured, in this order, and what comes of it


def measure(parts: List[str], setup: Setup) -> Figures:
    """Measure some of PARTS.

    Returns:
      What the JSON holds; None where nothing was measured.

    Raises:
      UserError: the precision, a package, memory or space is missing here.
    """
    keys = ("peak_gflops", *USUAL_PARTS, "second_sentence", "start_s", "stack")
    figures = dict.fromkeys(keys, None)
    figures.update(setup.session)
    peaks = []
    with tempfile.TemporaryDirectory(prefix="refseg-benchmark-") as folder:
        if "test" in parts:
            snapshot = alone(
                "a snapshot", figures, measurements.make_snapshot, setup, folder
            )
            start = measurements.start, setup, snapshot, time.time
            figures.update(alone("the start", figures, *start))
            figures["test"] = _networks("test", TEST, figures, peaks, setup, snapshot)
        if "train" in parts:
            figures["train"] = _networks("train", TRAIN, figures, peaks, setup, folder)
        if "grouped" in parts:
            several = "grouped", GROUPED, figures, peaks, setup, folder
            figures["grouped"] = _networks(*several)
            figures["in_turn"] = _in_turn(figures, setup)
        if "prepare" in parts:
            sizes = setup.sizes
            figures["prepare"] = alone(
                "prepare", figures, measurements.preparation, sizes, folder
            )
    figures["peak_gflops"] = max(peaks, default=None)
    return figures


def compare(sizes: Sizes, precision: str) -> Figures:
    """Measure all models and options, see `comparison.measure`."""
    figures = {}
    with tempfile.TemporaryDirectory(prefix="refseg-benchmark-") as folder:
        figures["models"] = comparison.measure(
            lambda what, *work: alone(what, figures, *work), sizes, precision, folder
        )
    return figures


def on_gpu(args: argparse.Namespace) -> Figures:
    """Measure a GPU, see `gpu.measure`; what is known goes to --json at once."""
    setup = Setup(args.model, EXACT, args.crf_backend, gpu.SIZES, args.xla)
    chosen = args.gpu, args.precision
    about = {"model": args.model, "xla": args.xla}

    def keep(figures):
        if args.json:
            files.write_json(args.json, {**about, **figures})

    with tempfile.TemporaryDirectory(prefix="refseg-benchmark-") as folder:
        measured = gpu.measure(
            lambda what, *work: alone(what, about, *work), setup, folder, keep, *chosen
        )
    return {**about, **measured}


def _networks(part, cases, figures, peaks, setup, path):
    """Return the results of a part's cases by name."""
    work = measurements.testing if part == "test" else measurements.training_steps
    gflop = references.of(setup.model).gflop.get(_reference_part(part))
    found = {}
    for name, case in cases.items():
        found[name] = result = alone(
            f"{part} {name}", figures, work, setup, path, *case
        )
        if result is None:
            _report("not measured: the disk has less than 10 GB to spare for features")
            continue
        peaks.append(result.pop("peak_gflops"))
        rate = gflop and gflop * result["sentences_per_s"] / peaks[-1]
        result["work_rate"] = rate
    return found


def _in_turn(figures, setup):
    """Return how many times as many sentences a second other cases have as the first.

    Returns:
      seconds: of GROUPED's cases by name, a step in each round; times_as_many: the
      medians of the rounds' ratios.
    """
    cases = [(batch_size, images) for batch_size, _, images in GROUPED.values()]
    work = measurements.times_in_turn, setup, cases
    rounds = alone("grouped in turn", figures, *work)
    seconds = dict(zip(GROUPED, zip(*rounds)))
    first = next(iter(seconds.values()))
    ratios = {
        name: statistics.median(one / other for one, other in zip(first, others))
        for name, others in seconds.items()
    }
    return {"seconds": seconds, "times_as_many": ratios}


def _reference_part(part):
    return "train" if part == "grouped" else part


def alone(what: str, figures: Figures, work: Callable, *args) -> Any:
    """Return `work(*args)`, done in a fresh process; its versions go to `figures`.

    A clock among the arguments is read right before the process starts.

    Raises:
      UserError: `work` raised it, or the process was killed.
    """
    _report(f"measuring: {what}")
    args = [arg() if arg is time.time else arg for arg in args]
    died = f"the process that measured {what} was killed: free some memory, or leave "
    died += "its part out with --only"
    with Pool(1, died) as pool:
        result, figures["stack"] = pool.result(pool.submit(_silently, work, args))
    return result


def _silently(work, args):
    from util.graph.process import own_process

    own_process()
    from util.graph.session import versions

    progress = io.StringIO()  # of training and preparation
    with contextlib.redirect_stdout(progress), contextlib.redirect_stderr(progress):
        result = work(*args)
    return result, dict(versions(), cores=cores())


def _report(line):
    print(line, file=sys.stderr, flush=True)


# --- The table and the command


def table(figures: Figures, model: str) -> str:
    """Return the figures as text, next to those of the model's reference."""
    form = "{:<17}{:>12}{:>11}{:>11}{:>9}{:>9}{:>11}".format
    lines = [form("network", "sentences/s", "work rate", "reference", "ratio",
                  "peak MB", "reference")]  # fmt: skip
    for part in NETWORKS:
        for name, case in (figures.get(part) or {}).items():
            row = _network_row(references.of(model), part, name, case)
            lines.append(form(f"{part} {name}", *row))
    if len(lines) == 1:
        lines = []
    if "in_turn" in figures:
        first, *others = figures["in_turn"]["times_as_many"].items()
        ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in others)
        lines.append(f"in turn: {ratios} times the sentences a second of {first[0]}")
    if figures["prepare"]:
        lines.append(form("prepare", "images/s", "", "", "ratio", "", "B/sample"))
    for layout, case in (figures["prepare"] or {}).items():
        rate = case["pictures_per_s"]
        ratio = rate / figures["prepare"]["reference"]["pictures_per_s"]
        cells = f"{rate:.2f}", "", "", f"{ratio:.2f}", ""
        lines.append(form(layout, *cells, f"{case['bytes_per_sample']:.0f}"))
    second = figures["second_sentence"]
    if second:
        lines.append(
            f"first sentence on an image: {second['first_s']:.2f} s, a second one: "
            f"{second['second_s']:.2f} s, {second['ratio']:.0%} of it"
        )
    if figures["start_s"]:
        lines.append(f"from start to the first mask: {figures['start_s']:.1f} s")
    if figures["peak_gflops"]:
        lines.append(f"float32 product: {figures['peak_gflops']:.0f} GFLOP/s")
    stack = ", ".join(f"{name} {version}" for name, version in figures["stack"].items())
    compiled = ", compiled by XLA" if figures["xla"] else ""
    return "\n".join([*lines, f"{stack}; {figures['precision']}{compiled}"])


def _network_row(reference, part, name, case):
    if case is None:
        return ("not measured", "", "", "", "", "")
    rate = reference.rates.get(
        "crf" if name.endswith("_crf") else _reference_part(part)
    )
    rates = "", "", ""
    if rate:
        compared = case["work_rate"], rate, case["work_rate"] / rate
        rates = tuple(f"{value:.2f}" for value in compared)
    return (
        f"{case['sentences_per_s']:.3f}",
        *rates,
        f"{case['peak_mb']:.0f}",
        reference.peak_mb.get(f"{part} {name}", ""),
    )


def _parts_of(parts):
    """Return a converter of option texts that list some of `parts`."""
    is_right = within(
        str,
        f"list of {', '.join(parts)} with commas between",
        lambda text: set(text.split(",")) <= set(parts),
    )
    return lambda text: is_right(text).split(",")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; apart from main() so that tests can use it."""
    parser = OneLineParser(
        prog="python -m util.benchmark",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=_parts_of(PARTS), default=list(USUAL_PARTS), metavar="LIST",
        help="some of test,train,prepare,grouped (default: all but grouped, which is "
        "training with several sentences an image)")  # fmt: skip
    add("--json", metavar="FILE", help="also write the figures there")
    add("--distributed", action="store_true", help="measure two workers against one, "
        "on a core each, and nothing else")  # fmt: skip
    add("--serve", action="store_true", help="measure eight clients on the web page's "
        "call for two minutes, and nothing else")  # fmt: skip
    add("--models", action="store_true", help="compare all models and options, and "
        "nothing else")  # fmt: skip
    add("--gpu", type=_parts_of(gpu.PARTS), nargs="?", const=gpu.PARTS, metavar="LIST",
        help="measure a GPU and nothing else, in all precisions or --precision's: some "
        "of parity,train,test (default: all)")  # fmt: skip
    add("-n", dest="model", choices=list(models.MODELS), default="CMPC_model",
        help="(default: %(default)s)")  # fmt: skip
    add("--precision", choices=PRECISIONS, help="of the network's products, where "
        "device and TensorFlow have it (default: float32)")  # fmt: skip
    add("--xla", action="store_true", help="compile the network of tests and training "
        "with XLA")  # fmt: skip
    add("--crf-backend", choices=("own", "pydensecrf"), default="own",
        help="implementation of DenseCRF (default: %(default)s)")  # fmt: skip
    return parser


def run(args: argparse.Namespace, sizes: Sizes) -> int:
    """Measure what the command line asks for, print and write it."""
    if args.json:
        _check_writable(args.json)
    if args.xla and (args.distributed or args.serve or args.models):
        raise UserError("--xla is for tests, training and --gpu: leave it out")
    if args.distributed:
        _report("measuring: one worker, two workers")
        figures = {"distributed": scaling.measure()}
        one, two, ratio = (figures["distributed"][key] for key in ("1", "2", "ratio"))
        print(
            f"distributed training: {one:.2f} sentences a second with 1 worker, "
            f"{two:.2f} with 2: {ratio:.2f} times"
        )
    elif args.serve:
        _report(f"measuring: {load_test.CLIENTS} clients for {load_test.SECONDS} s")
        figures = {"serve": load_test.measure(args.model)}
        print(load_test.describe(figures["serve"]))
    elif args.gpu:
        figures = on_gpu(args)
        print(gpu.table(figures))
    elif args.models:
        figures = compare(sizes, args.precision or EXACT)
        print(comparison.table(figures["models"]))
    else:
        how = args.precision or EXACT, args.crf_backend, sizes, args.xla
        setup = Setup(args.model, *how)
        figures = measure(args.only, setup)
        print(table(figures, args.model))
    if args.json:
        files.write_json(args.json, figures)
    return 0


def _check_writable(path):
    """Refuse, before minutes of work, a path that no file can be written to."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"cannot write {path}: name a file in a folder of yours with --json"
        )


def main(argv=None, sizes: Sizes = Sizes()) -> int:  # noqa: B008
    """Run the command line and return its exit code; tests measure less."""
    return command(build_parser(), lambda args: run(args, sizes), argv)


if __name__ == "__main__":
    sys.exit(main())
