"""What `util.benchmark --gpu` measures: each function is called in a fresh process.

Nothing here needs a GPU but `device`, which refuses to go on without one, so that tests
measure a tiny network on the CPU.
"""

import contextlib
import itertools
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from util.bench import measurements, workload
from util.bench.measurements import Figures, Setup, Sizes
from util.core.cli import PRECISIONS
from util.core.errors import UserError
from util.core.surroundings import choose_gpus
from util.models import references

PARTS = ("parity", "train", "test")
SIZES = Sizes(product=8192, runs=30, streams={1: 224, 7: 64})
# Sentences a step, sentences an image; what matters most comes first.
TRAIN = ((32, 8), (8, 1), (1, 1), (32, 1), (8, 8), (8, 4), (16, 1), (4, 1))
# Sentences an image, with DenseCRF.
TEST = ((1, False), (7, False), (1, True), (7, True))
PARITY_IMAGES, PARITY_SENTENCES = 4, 2


def measure(
    alone: Callable,
    setup: Setup,
    folder: str,
    keep: Callable[[Figures], None],
    parts: Sequence[str] = PARTS,
    precision: Optional[str] = None,
    needs_gpu: bool = True,
) -> Figures:
    """Measure a GPU.

    Args:
      alone: function of what is measured, a function and its arguments, that calls it
        in a process of its own.
      setup: model, DenseCRF and sizes; the precision is not read.
      folder: for a snapshot.
      keep: called with the figures whenever there are more.
      parts: some of PARTS.
      precision: the only one; None: all that can be had.
      needs_gpu: refuse a machine without one.

    Returns:
      gpus, precisions, peak_gflops: see `device`; parity: precision -> see `parity`;
      train: precision -> "8_1", sentences a step and an image -> see `training`; test:
      precision -> "7_crf", sentences an image -> see `testing`. In place
      of what failed: `failed`, the reason. `limit_per_s` in all: sentences a second if
      the reference's arithmetic ran at the peak, or what DenseCRF has cores for.

    Raises:
      UserError: there is no GPU, or it lacks the precision.
    """
    precisions = PRECISIONS if precision is None else [precision]
    figures = alone("the card", device, setup.sizes, precisions, needs_gpu)
    found = {part: {} for part in PARTS}
    figures.update(found)
    snapshot = right = None
    if set(parts) != {"train"}:
        snapshot = alone("a snapshot", measurements.make_snapshot, setup, folder, True)
    if "parity" in parts:
        right = alone("answers of the CPU", answers, setup, snapshot, True)
    for part, kind, name, work, args in _plan(figures["precisions"], snapshot):
        if part not in parts:
            continue
        here = setup._replace(precision=kind)
        try:
            result = alone(f"{part} {kind} {name}".strip(), work, here, *args)
        except UserError as error:
            result = {"failed": str(error)}
        if part == "parity":
            if isinstance(result, np.ndarray):
                result = parity(result, right)
            found[part][kind] = result
        else:
            found[part].setdefault(kind, {})[name] = result
            gflop = references.of(setup.model).gflop.get(part)
            peak = figures["peak_gflops"][kind]
            limits = result.get("crf_per_s"), gflop and peak / gflop
            result["limit_per_s"] = min(filter(None, limits), default=None)
        keep(figures)
    return figures


def _plan(precisions, snapshot) -> Iterable[Tuple[str, str, str, Callable, Tuple]]:
    """Yield what is measured: part, precision, name, function, its arguments."""
    for precision in precisions:
        yield "parity", precision, "", answers, (snapshot,)
    for case in TRAIN:
        for precision in precisions:
            if precision != "float16":  # see `session.require_trainable`
                yield "train", precision, "{}_{}".format(*case), training, case
    for sentences, crf in TEST:
        for precision in precisions:
            name = f"{sentences}_crf" if crf else str(sentences)
            case = snapshot, sentences, crf
            yield "test", precision, name, testing, case


def device(sizes: Sizes, precisions: Sequence[str], needs_gpu: bool) -> Figures:
    """Name the GPUs and measure the peak of arithmetic.

    Args:
      sizes: those of the product.
      precisions: of `cli.PRECISIONS`; where there is one it must be usable.
      needs_gpu: refuse a machine without GPUs.

    Returns:
      gpus: a list of name and compute capability; precisions: those that can be had;
      peak_gflops: precision -> GFLOP/s of a product.

    Raises:
      UserError: there is no GPU and `needs_gpu`, or it lacks the only precision.
    """
    from util.graph import session

    cards = session.gpus()
    if needs_gpu and not cards:
        raise UserError(
            "--gpu measures a GPU, and TensorFlow finds none here: leave --gpu out to "
            "measure the CPU, or see that the driver is there and TensorFlow came with "
            "CUDA (pip install -e '.[gpu]')"
        )
    usable = []
    for precision in precisions:
        try:
            session.require_precision(precision)
            usable.append(precision)
        except UserError:
            if len(precisions) == 1:
                raise
    return {
        "gpus": [[card.name, list(card.capability)] for card in cards],
        "precisions": usable,
        "peak_gflops": {
            precision: measurements.peak_gflops(sizes.product, precision)
            for precision in usable
        },
    }


# --- Parity


def answers(setup: Setup, snapshot: str, on_cpu: bool = False) -> np.ndarray:
    """Return the logits of some random images and sentences, float32 [N, H, W]."""
    if on_cpu:
        choose_gpus("-1")
    from util.inference.predictor import Predictor

    size = setup.sizes.network
    form = PARITY_SENTENCES, size["H"], size["W"], size["vocab_size"]
    logits = []
    with Predictor(snapshot, **setup.session) as predictor:
        for seed in range(PARITY_IMAGES):
            samples = workload.random_samples(seed, *form)
            image = predictor.fit(samples[0]["im_batch"])
            ids = np.stack([sample["text_batch"] for sample in samples])
            # As tests without DenseCRF do.
            (found,) = predictor.find_all([image], [ids], False, False)
            logits.extend(found.logits)
    return np.stack(logits)


def parity(found: np.ndarray, right: np.ndarray) -> Figures:
    """Compare logits of a precision with those that the CPU computes in float32.

    Returns:
      error: the largest difference, of the largest value; iou: of the masks, the mean
      over the sentences; two masks without a pixel count as 1.
    """
    inner = ((found > 0) & (right > 0)).sum((1, 2))
    outer = ((found > 0) | (right > 0)).sum((1, 2))
    return {
        "error": float(np.abs(found - right).max() / np.abs(right).max()),
        "iou": float(np.mean(np.where(outer, inner / np.maximum(outer, 1), 1.0))),
    }


# --- Testing and training


def testing(setup: Setup, snapshot: str, sentences: int, use_crf: bool) -> Figures:
    """Measure a test.

    Returns:
      sentences_per_s of `measurements.testing`; peak_mb of the GPU's memory; with
      DenseCRF also crf_per_s, what the cores refine while no network runs.
    """
    found = measurements.testing(setup, snapshot, sentences, use_crf)
    found = {"sentences_per_s": found["sentences_per_s"], "peak_mb": _peak_mb()}
    if use_crf:
        found["crf_per_s"] = measurements.refining(setup, sentences)
    return found


def training(setup: Setup, batch_size: int, sentences_per_image: int) -> Figures:
    """Take training steps as `loop.Loop` does, and take one apart.

    Returns:
      sentences_per_s: by the median step, inputs read ahead as in training; step_ms:
      that step; first_s: the first one; feed_ms: making what a step is fed; peak_mb:
      of the GPU's memory, None without one; and see `taken_apart`.

    Raises:
      UserError: the device has not enough memory.
    """
    from util.graph.compat import temporary_graph, tf
    from util.graph.session import enough_memory, new_session

    with temporary_graph():
        model = measurements.training_model(setup, batch_size, sentences_per_image)
        told = enough_memory("this case needs more")
        with told, new_session(**setup.session) as session:
            session.run(tf.global_variables_initializer())
            return _train(setup, session, model, sentences_per_image)


def _train(setup, session, model, sentences_per_image):
    from util.graph.compat import tf
    from util.training import feeds, loop

    samples = measurements.training_samples(setup.sizes, sentences_per_image)
    feed = feeds.feeds(model, samples)
    with contextlib.closing(feed):
        steps = measurements.WARM_UP + max(3, setup.sizes.runs)
        first, *times = measurements.step_times(session, model, feed, steps)
        times = sorted(times)
        feed_s = []
        for _ in range(3):
            begin = time.perf_counter()
            next(feed)
            feed_s.append(time.perf_counter() - begin)
    full, about = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), None
    fetches, traced = loop.step_fetches(model), feeds.feeds(model, samples)
    for step in itertools.islice(feeds.staged(session, model, traced), 2):
        about = tf.RunMetadata()  # of the second one: the first one starts the tracer
        session.run(fetches, step.values, full, about)
    step_s = times[len(times) // 2]
    return {
        "sentences_per_s": model.options.batch_size / step_s,
        "step_ms": 1e3 * step_s,
        "first_s": first,
        "feed_ms": 1e3 * min(feed_s),
        "peak_mb": _peak_mb(),
        **taken_apart(about.step_stats),
    }


def _peak_mb() -> Optional[float]:
    """Return the most memory of the first GPU that was given out; None: not known."""
    from util.graph.compat import tensorflow

    config = tensorflow.config.experimental
    cards = config.list_physical_devices("GPU")
    if not (cards and hasattr(config, "get_memory_info")):
        return None
    for card in cards:  # as the session has it
        config.set_memory_growth(card, True)
    return config.get_memory_info("GPU:0")["peak"] / 1e6


def taken_apart(stats: Any) -> Dict[str, Optional[float]]:
    """Say where the time of a traced step went.

    Args:
      stats: a StepStats of TensorFlow.

    Returns:
      nodes: operations that the host started; host_ms: from the first one's start to
      the last one's end; kernels: what the GPU ran, and device_ms: how long it ran
      any; both None where the trace has no stream of a GPU.
    """
    spans: List[Tuple[float, float]] = []
    begins, ends, has_stream = [], [], False
    for part in stats.dev_stats:
        is_stream = "stream:" in part.device
        if is_stream and "stream:all" not in part.device:
            continue  # which has all of them
        has_stream |= is_stream
        for node in part.node_stats:
            begin = node.all_start_micros + node.op_start_rel_micros
            end = node.all_start_micros + node.op_end_rel_micros
            if is_stream:
                spans.append((begin, end))
            elif "memcpy" not in part.device:
                begins.append(begin)
                ends.append(end)
    return {
        "nodes": len(begins),
        "host_ms": (max(ends) - min(begins)) / 1e3 if begins else None,
        "kernels": len(spans) if has_stream else None,
        "device_ms": _covered(spans) / 1e3 if has_stream else None,
    }


def _covered(spans):
    """Return the length that spans cover together."""
    covered, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return covered


# --- The table


def table(figures: Figures) -> str:
    """Return the figures of `measure` as text, with the versions of `stack`."""
    cards = [f"{name} ({'.'.join(map(str, able))})" for name, able in figures["gpus"]]
    stack = ", ".join(f"{name} {version}" for name, version in figures["stack"].items())
    lines = [f"{', '.join(cards) or 'no GPU'}; {stack}"]
    for precision, peak in figures["peak_gflops"].items():
        lines.append(f"{precision}: {peak / 1e3:.1f} TFLOP/s")
        one = figures["parity"].get(precision)
        if one:
            told = one.get("failed") or "error {error:.1e}, IoU {iou:.4f}".format(**one)
            lines[-1] += f"; against float32 of the CPU: {told}"
    form = "{:<24}{:>12}{:>9}{:>9}{:>11}{:>9}{:>9}{:>10}".format
    lines.append(form("", "sentences/s", "limit", "step ms", "device ms", "host ms",
                      "feed ms", "peak MB"))  # fmt: skip
    keys = "step_ms", "device_ms", "host_ms", "feed_ms", "peak_mb"
    for part in ("train", "test"):
        for precision, cases in figures[part].items():
            for name, case in cases.items():
                title = f"{part} {precision} {name}"
                if "failed" in case:
                    lines.append(f"{title:<24}  {case['failed']}")
                    continue
                cells = [_cell(case.get(key)) for key in ("limit_per_s", *keys)]
                rate = f"{case['sentences_per_s']:.2f}"
                lines.append(form(title, rate, *cells))
    return "\n".join(lines)


def _cell(value):
    return "" if value is None else f"{value:.1f}"
