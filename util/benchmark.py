"""Measure the speed of this machine: test, training and preparation, full size.

Weights, pictures and sentences are random. Each measurement of the network runs in a
fresh process, which also measures the peak of a float32 matrix product, right before
and right after. The *work rate* is the reference's arithmetic for the same result, 253 GFLOP a
sentence in the test and 490 in training, per second and per GFLOP/s of that peak. It
compares machines, and exceeds 1 where less is computed than the reference does.

Machines are noisy: a time is that of the fastest of a few runs after a warm-up, save
with DenseCRF, where a stream of pictures is timed from its start to its last mask.
Memory is the most that the process of the network held; those of DenseCRF and of the
preparation are not counted. Files go to a temporary folder (TMPDIR chooses where). What
was not measured is null in the JSON.
"""

import argparse
import contextlib
import importlib
import io
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from util import files, workload
from util.errors import OneLineParser, UserError, exit_code
from util.options import PRECISIONS, within

EXAMPLES = """examples:
  python -m util.benchmark
  python -m util.benchmark --only test,prepare --json speed.json
"""
GFLOP = {"test": 253, "train": 490}  # of the reference, a sentence
# Names in the JSON -> sentences a picture, with DenseCRF.
TEST = {"1": (1, False), "7": (7, False), "1_crf": (1, True), "7_crf": (7, True)}
# Names in the JSON -> sentences a step, with cached features.
TRAIN = {"1": (1, False), "4": (4, False), "1_cached": (1, True), "4_cached": (4, True)}
PARTS = ("test", "train", "prepare")
# The reference on two cores, whose float32 product reached 187 GFLOP/s. It sees one
# sentence at a time, however many there are; with DenseCRF one took 2.33 s.
REFERENCE_RATES = {"test": 0.70, "crf": 253 / 2.33 / 187, "train": 0.62}
REFERENCE_MB = {("train", "1"): 4400}

TRAINING_PICTURES = 8
WARM_UP = 2


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
      network: arguments of `LSTM_model`.
      picture: (height, width) of pictures to test and to prepare, in pixels.
      product: rows of the square matrices of the float32 product.
      runs: how many of each kind are timed.
      streams: sentences a picture -> pictures in a stream through DenseCRF.
      prepared: pictures to prepare.
      prepared_singly: pictures to prepare in the reference's way.
    """

    network: Dict[str, int] = {"vocab_size": 12112, "H": 320, "W": 320}
    picture: Tuple[int, int] = (480, 640)
    product: int = 3072
    runs: int = 4
    streams: Dict[int, int] = {1: 12, 7: 6}
    prepared: int = 120
    prepared_singly: int = 12


class Setup(NamedTuple):
    """The module of the network's class, the precision of products, the sizes."""

    model: str = "CMPC_model"
    precision: str = "float32"
    sizes: Sizes = Sizes()


Figures = Dict[str, Any]


# --- What is measured, in this order, and what comes of it


def measure(parts: List[str], setup: Setup) -> Figures:
    """Measure some of PARTS.

    Returns:
      What the JSON holds; None where nothing was measured.

    Raises:
      UserError: the precision, a package, memory or space is missing here.
    """
    keys = ("peak_gflops", *PARTS, "start_s", "stack")
    figures = dict.fromkeys(keys, None)
    figures["precision"] = setup.precision
    peaks = []
    with tempfile.TemporaryDirectory(prefix="refseg-benchmark-") as folder:
        if "test" in parts:
            snapshot = alone("a snapshot", figures, make_snapshot, setup, folder)
            figures["start_s"] = alone(
                "the start", figures, start_time, setup, snapshot, time.time
            )
            figures["test"] = _networks("test", TEST, figures, peaks, setup, snapshot)
        if "train" in parts:
            figures["train"] = _networks("train", TRAIN, figures, peaks, setup, folder)
        if "prepare" in parts:
            sizes = setup.sizes
            figures["prepare"] = alone("prepare", figures, preparation, sizes, folder)
    figures["peak_gflops"] = max(peaks, default=None)
    return figures


def _networks(part, cases, figures, peaks, setup, path):
    """Return the results of a part's cases by name."""
    work, found = {"test": testing, "train": training_steps}[part], {}
    for name, case in cases.items():
        found[name] = result = alone(
            "{} {}".format(part, name), figures, work, setup, path, *case
        )
        if result is None:
            _tell("not measured: the disk has less than 10 GB to spare for features")
            continue
        peaks.append(result.pop("peak_gflops"))
        result["work_rate"] = GFLOP[part] * result["sentences_per_s"] / peaks[-1]
    return found


def alone(what: str, figures: Figures, work: Callable, *args) -> Any:
    """Return `work(*args)`, done in a fresh process; its versions go to `figures`.

    A clock among the arguments is read right before the process starts.

    Raises:
      UserError: `work` raised it, or the process was killed.
    """
    _tell("measuring: " + what)
    context = multiprocessing.get_context("spawn")
    args = [arg() if arg is time.time else arg for arg in args]
    try:
        with ProcessPoolExecutor(1, context) as pool:
            result, figures["stack"] = pool.submit(_silently, work, args).result()
    except BrokenProcessPool as error:
        raise UserError(
            "the process that measured {} was killed: free some memory, or leave its "
            "part out with --only".format(what)
        ) from error
    return result


def _silently(work, args):
    told = io.StringIO()  # the progress of training and preparation
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        result = work(*args)
    from util import evaluation  # after the clocks have stopped

    return result, dict(evaluation.versions(), cores=os.cpu_count())


def _tell(line):
    print(line, file=sys.stderr, flush=True)


# --- In a process of its own: the network


def peak_gflops(size: int) -> float:
    """Return the GFLOP/s of a product of two float32 [size, size], best of a few."""
    from util.compat import new_session, release_freed_memory, tf

    with tf.Graph().as_default(), new_session() as session:
        left, right = (
            tf.get_variable(name, initializer=tf.random_uniform([size, size]))
            for name in ("left", "right")
        )
        product = tf.matmul(left, right).op
        session.run(tf.global_variables_initializer())
        times = [_seconds(lambda: session.run(product)) for _ in range(6)]
    release_freed_memory()
    return 2 * size**3 / min(times) / 1e9


def _seconds(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _result(sentences_per_s, peak_before, sizes):
    import resource  # not on Windows

    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {
        "sentences_per_s": sentences_per_s,
        "peak_mb": peak_mb,
        "peak_gflops": max(peak_before, peak_gflops(sizes.product)),
    }


def _model_class(setup):
    return importlib.import_module(setup.model).LSTM_model


def make_snapshot(setup: Setup, folder: str) -> str:
    """Save a network with random weights and return the path."""
    from util import checkpoint, training
    from util.compat import new_session, tf

    samples = _training_samples(setup.sizes)
    with tf.Graph().as_default():
        model = _model_class(setup)(**setup.sizes.network)
        with new_session(precision=setup.precision) as session:
            session.run(tf.global_variables_initializer())
            training.calibrate(session, model, itertools.islice(samples, 2))
            return checkpoint.Snapshots(folder, "unc").save(session, 1)


def start_time(setup: Setup, snapshot: str, begin: float) -> float:
    """Return the seconds from `begin`, of `time.time`, to the first mask."""
    from util import evaluation, inference

    model_class = _model_class(setup)
    with inference.Predictor(model_class, snapshot, setup.precision) as predictor:
        _find(evaluation, predictor, [1], 1, setup.sizes)
        return time.time() - begin


def _find(evaluation, predictor, seeds, sentences, sizes, workers=None):
    """Find the masks of a picture a seed and return how long that took, in seconds."""
    form = (sentences, *sizes.picture, sizes.network["vocab_size"])
    samples = [
        sample for seed in seeds for sample in workload.random_samples(seed, *form)
    ]
    found = evaluation.find_masks(predictor, enumerate(samples), workers)
    return _seconds(lambda: list(found))


def testing(setup: Setup, snapshot: str, sentences: int, use_crf: bool) -> Figures:
    """Measure sentences a second, each picture with as many `sentences`."""
    from util import dense_crf, evaluation, inference

    sizes, seeds = setup.sizes, itertools.count()
    pictures = sizes.streams[sentences] if use_crf else 1
    jobs = os.cpu_count()
    model_class = _model_class(setup)
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(dense_crf.Workers(jobs)) if use_crf else None
        peak = peak_gflops(sizes.product)
        predictor = inference.Predictor(model_class, snapshot, setup.precision)
        stack.enter_context(predictor)

        def run(pictures):
            chosen = list(itertools.islice(seeds, pictures))
            return _find(evaluation, predictor, chosen, sentences, sizes, workers)

        run(jobs if use_crf else WARM_UP)
        seconds = min(run(pictures) for _ in range(1 if use_crf else sizes.runs))
    return _result(pictures * sentences / seconds, peak, sizes)


def _training_samples(sizes) -> Iterator[Figures]:
    """Return samples for ever, those of TRAINING_PICTURES pictures."""
    size = sizes.network
    form = (1, size["H"], size["W"], size["vocab_size"])
    samples = (
        workload.random_samples(seed, *form) for seed in range(TRAINING_PICTURES)
    )
    return itertools.cycle(itertools.chain(*samples))


def training_steps(
    setup: Setup, folder: str, batch_size: int, use_cache: bool
) -> Optional[Figures]:
    """Measure sentences a second in training; None: the cache has no room."""
    from util import training
    from util.compat import new_session, release_freed_memory, tf

    sizes, cache = setup.sizes, os.path.join(folder, "cache_{}".format(batch_size))
    args = argparse.Namespace(
        cache_features=cache if use_cache else None,
        cache_dtype="float32",
        cache_size=None,
        precision=setup.precision,
    )
    peak = peak_gflops(sizes.product)
    with tf.Graph().as_default():
        model = _model_class(setup)(
            mode="train", batch_size=batch_size, **sizes.network
        )
        with new_session(precision=setup.precision) as session:
            session.run(tf.global_variables_initializer())
            samples = _training_samples(sizes)
            training.calibrate(session, model, itertools.islice(samples, 2))
            release_freed_memory()
            feed = training.choose_feeds(session, model, samples, args)
            warm_up = WARM_UP
            if use_cache:  # each picture once and the next step
                warm_up = TRAINING_PICTURES // batch_size + 1
            with contextlib.closing(feed):
                times = _step_times(session, model, feed, warm_up + sizes.runs)
    if use_cache and _count(cache) < TRAINING_PICTURES:
        return None
    return _result(batch_size / min(times[warm_up:]), peak, sizes)


def _step_times(session, model, feed, steps):
    """Train as `training.learn` does and return the seconds of each step."""
    from util import training

    fetches = [
        model.cls_loss,
        model.pred,
        model.target,
        model.learning_rate,
        model.train_step,
    ]
    with contextlib.closing(training.take_ahead(feed, training.STEPS_AHEAD)) as ready:
        return [
            _seconds(lambda: session.run(fetches, next(ready))) for _ in range(steps)
        ]


def _count(folder):
    return sum(name.endswith(".npz") for name in os.listdir(folder))


# --- In a process of its own: preparation


def preparation(sizes: Sizes, folder: str) -> Figures:
    """Measure the building of samples: both layouts and the reference's way."""
    from util import batches

    workload.draw_pictures(folder, sizes.prepared, *sizes.picture)
    found, rows = {}, sizes.network["H"]
    for layout in batches.BUILDERS:
        built = os.path.join(folder, layout)
        seconds = _seconds(
            lambda built=built, layout=layout: batches.build(
                "unc", "train", folder, built, size=rows, jobs=2, layout=layout
            )
        )
        found[layout] = _prepared(sizes.prepared, seconds, built)
    built = os.path.join(folder, "reference")
    os.mkdir(built)
    seconds = _seconds(
        lambda: workload.build_singly(folder, built, sizes.prepared_singly, rows)
    )
    found["reference"] = _prepared(sizes.prepared_singly, seconds, built)
    return found


def _prepared(pictures, seconds, folder):
    size = sum(
        os.path.getsize(os.path.join(parent, name))
        for parent, _, names in os.walk(folder)
        for name in names
    )
    return {
        "pictures_per_s": pictures / seconds,
        "bytes_per_sample": size / (pictures * sum(workload.OBJECTS)),
    }


# --- The table and the command


def table(figures: Figures) -> str:
    """Return the figures as text, those of the reference beside them."""
    form = "{:<17}{:>12}{:>11}{:>11}{:>9}{:>9}{:>11}".format
    lines = [form("network", "sentences/s", "work rate", "reference", "ratio",
                  "peak MB", "reference")]  # fmt: skip
    for part in GFLOP:
        for name, case in (figures[part] or {}).items():
            lines.append(form(part + " " + name, *_network_row(part, name, case)))
    if len(lines) == 1:
        lines = []
    if figures["prepare"]:
        lines.append(form("prepare", "pictures/s", "", "", "ratio", "", "B/sample"))
    for layout, case in (figures["prepare"] or {}).items():
        rate = case["pictures_per_s"]
        ratio = rate / figures["prepare"]["reference"]["pictures_per_s"]
        size = "{:.0f}".format(case["bytes_per_sample"])
        cells = "{:.2f}".format(rate), "", "", "{:.2f}".format(ratio), "", size
        lines.append(form(layout, *cells))
    if figures["start_s"]:
        lines.append("from start to the first mask: {start_s:.1f} s".format(**figures))
    if figures["peak_gflops"]:
        lines.append("float32 product: {peak_gflops:.0f} GFLOP/s".format(**figures))
    stack = ", ".join(" ".join(map(str, item)) for item in figures["stack"].items())
    return "\n".join(lines + ["{}; {}".format(stack, figures["precision"])])


def _network_row(part, name, case):
    if case is None:
        return ("not measured", "", "", "", "", "")
    reference = REFERENCE_RATES["crf" if name.endswith("_crf") else part]
    return (
        "{:.3f}".format(case["sentences_per_s"]),
        "{:.2f}".format(case["work_rate"]),
        "{:.2f}".format(reference),
        "{:.2f}".format(case["work_rate"] / reference),
        "{:.0f}".format(case["peak_mb"]),
        REFERENCE_MB.get((part, name), ""),
    )


def _parts(text):
    is_right = within(
        str,
        "list of {} with commas between".format(", ".join(PARTS)),
        lambda text: set(text.split(",")) <= set(PARTS),
    )
    return is_right(text).split(",")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; apart from main() so that tests can use it."""
    parser = OneLineParser(
        prog="python -m util.benchmark",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=_parts, default=list(PARTS), metavar="LIST",
        help="some of test,train,prepare (default: all)")  # fmt: skip
    add("--json", metavar="FILE", help="also write the figures there")
    add("-n", dest="model", choices=["CMPC_model"], default="CMPC_model",
        help="(default: %(default)s)")  # fmt: skip
    add("--precision", choices=PRECISIONS, default="float32", help="of the network's "
        "products, where device and TensorFlow have it (default: %(default)s)")  # fmt: skip  # noqa: E501
    return parser


def run(args: argparse.Namespace, sizes: Sizes) -> int:
    """Measure what the command line asks for, print and write it."""
    if args.json:
        _check_writable(args.json)
    figures = measure(args.only, Setup(args.model, args.precision, sizes))
    print(table(figures))
    if args.json:
        with files.writing(args.json) as file:
            file.write(json.dumps(figures, indent=2).encode("ascii") + b"\n")
    return 0


def _check_writable(path):
    """Refuse, before minutes of work, a path that no file can be written to."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError("cannot write {}: name a file in a folder of yours with "
                        "--json".format(path))  # fmt: skip


def main(argv=None, sizes: Sizes = Sizes()) -> int:  # noqa: B008
    """Run the command line and return its exit code; tests measure less."""
    args = build_parser().parse_args(argv)
    return exit_code(lambda: run(args, sizes))


if __name__ == "__main__":
    sys.exit(main())
