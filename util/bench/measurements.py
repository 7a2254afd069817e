"""What `util.benchmark` measures: each function is called in a fresh process.

TensorFlow loads inside them, so that the process that waits for theirs stays small.
"""

import contextlib
import itertools
import os
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from util import models
from util.bench import workload
from util.core.surroundings import cores
from util.data import datasets
from util.data.build import build_samples

TRAINING_IMAGES = 4
WARM_UP = 1
FULL_RUNS, FULL_REPEATS = 8, 3  # where a run takes several images
MOST_STEPS = 4  # one of eight sentences takes nine seconds

Figures = Dict[str, Any]


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
      network: arguments of the model.
      image: (height, width) of images to test and to prepare, in pixels.
      product: rows of the square matrices of the float32 product.
      runs: how many of each kind are timed; of training steps MOST_STEPS at most,
        but for those in turn.
      streams: sentences an image -> images in a stream through DenseCRF, at least.
      prepared: images to prepare.
      prepared_singly: images to prepare in the reference's way.
    """

    network: Dict[str, int] = {"vocab_size": 12112, "H": 320, "W": 320}
    image: Tuple[int, int] = (480, 640)
    product: int = 3072
    runs: int = 6
    streams: Dict[int, int] = {1: 12, 7: 8}
    prepared: int = 200
    prepared_singly: int = 12


class Setup(NamedTuple):
    """What is measured.

    Attributes:
      model: name, of `models.MODELS`.
      precision: of products, see `session.new_session`.
      crf_backend: of DenseCRF, see `dense_crf.refine`.
      sizes: how much.
      xla: whether XLA compiles the network.
    """

    model: str = "CMPC_model"
    precision: str = "float32"
    crf_backend: str = "own"
    sizes: Sizes = Sizes()
    xla: bool = False

    @property
    def session(self) -> Dict[str, Any]:
        """What `session.new_session` and `Predictor` take of it."""
        return {"precision": self.precision, "xla": self.xla}


# --- The network


def peak_gflops(size: int, precision: str = "float32") -> float:
    """Return the GFLOP/s of a product of two [size, size], best of a few.

    Args:
      size: int.
      precision: of `cli.PRECISIONS`; the matrices are of that dtype, of float32 for
        "tf32".
    """
    from util.graph.compat import tf
    from util.graph.process import release_freed_memory
    from util.graph.session import new_session, prepare_graph

    dtype = tf.float32 if precision == "tf32" else tf.as_dtype(precision)
    with tf.Graph().as_default():
        prepare_graph(precision)
        first = (tf.random_uniform([size, size]) for _ in range(2))
        left, right = (
            tf.get_variable(name, initializer=tf.cast(values, dtype))
            for name, values in zip(("left", "right"), first)
        )
        # A step on a GPU has ended when its result is here.
        product = tf.matmul(left, right)[:1, :1]
        with new_session(precision=precision) as session:
            session.run(tf.global_variables_initializer())
            times = [_seconds(lambda: session.run(product)) for _ in range(6)]
    release_freed_memory()
    return 2 * size**3 / min(times) / 1e9


def _seconds(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _result(sentences_per_s, peak_before, sizes):
    from util.training import progress

    return {
        "sentences_per_s": sentences_per_s,
        "peak_mb": progress.peak_memory_mb(),
        "peak_gflops": max(peak_before, peak_gflops(sizes.product)),
    }


def _model_class(setup):
    return models.load(setup.model)


def make_snapshot(setup: Setup, folder: str, sane: bool = False) -> str:
    """Save a network with random weights and return the path.

    Args:
      setup: what is measured.
      folder: of the snapshot; made where missing.
      sane: let the features keep the scale of a trained network's.
    """
    from util.graph.compat import temporary_graph, tf
    from util.graph.session import new_session, prepare_graph
    from util.training import start as start_of_training
    from util.training.snapshots import Snapshots

    with temporary_graph():
        prepare_graph(setup.precision)
        model = _model_class(setup)(**setup.sizes.network)
        with new_session(**setup.session) as session:
            session.run(tf.global_variables_initializer())
            if sane:
                size = setup.sizes.network["H"], setup.sizes.network["W"]
                rng = np.random.RandomState(0)
                images = [
                    workload.random_image(rng, *size) for _ in range(TRAINING_IMAGES)
                ]
                start_of_training.calibrate(session, images)
            state = {"step": 1, "options": model.chosen}
            return Snapshots(folder, "unc").save(session, 1, state)


def start(setup: Setup, snapshot: str, begin: float) -> Figures:
    """Measure what somebody waits for who asks for a mask, then for another one.

    Args:
      setup: what is measured.
      snapshot: path of a network with random weights.
      begin: time of the start, of `time.time`.

    Returns:
      start_s: seconds from `begin` to the first mask; second_sentence: see
      `_second_sentence`.
    """
    from util.inference.predictor import Predictor

    with Predictor(snapshot, **setup.session) as predictor:
        _answer(predictor, workload.random_samples(0, 1, *_form(setup.sizes))[0])
        start_s = time.time() - begin
        return {
            "start_s": start_s,
            "second_sentence": _second_sentence(predictor, setup.sizes),
        }


def _second_sentence(predictor, sizes) -> Figures:
    """Measure the first and the second sentence on an image.

    Returns:
      first_s, second_s: from image and sentence to the mask at the image's size,
        the fastest of a few images; ratio: second_s / first_s.
    """
    times = {"first_s": [], "second_s": []}
    for seed in range(1, 1 + WARM_UP + sizes.runs):
        samples = workload.random_samples(seed, 2, *_form(sizes))
        for name, sample in zip(times, samples):
            seconds = _seconds(lambda sample=sample: _answer(predictor, sample))
            times[name].append(seconds)
    first, second = (min(of_one[WARM_UP:]) for of_one in times.values())
    return {"first_s": first, "second_s": second, "ratio": second / first}


def _form(sizes):
    return (*sizes.image, sizes.network["vocab_size"])


def _answer(predictor, sample):
    from util.data import im_processing
    from util.inference.predictor import is_on_object

    predictor.set_image(sample["im_batch"])
    found = predictor.find([sample["text_batch"]])
    on_object = is_on_object(found.logits[0])
    return im_processing.restore_mask(on_object, *sample["mask_batch"].shape)


def _find(evaluation, predictor, seeds, sentences, sizes, workers=None):
    """Find the masks of an image a seed and return how long that took, in seconds."""
    samples = [
        sample
        for seed in seeds
        for sample in workload.random_samples(seed, sentences, *_form(sizes))
    ]
    found = evaluation.find_masks([predictor], enumerate(samples), workers)
    return _seconds(lambda: list(found))


def testing(setup: Setup, snapshot: str, sentences: int, use_crf: bool) -> Figures:
    """Measure sentences a second, each image with as many `sentences`.

    A stream of images is timed where DenseCRF runs beside the network, and on a GPU,
    where a run takes several images.
    """
    from util.evaluation import evaluate
    from util.inference import dense_crf
    from util.inference.predictor import Predictor

    sizes, seeds = setup.sizes, itertools.count()
    jobs = cores()
    with contextlib.ExitStack() as stack:
        workers = None
        if use_crf:
            workers = dense_crf.Workers(jobs, setup.crf_backend)
            stack.enter_context(workers)
        peak = peak_gflops(sizes.product)
        predictor = Predictor(snapshot, **setup.session)
        stack.enter_context(predictor)

        def run(images):
            chosen = list(itertools.islice(seeds, images))
            return _find(evaluate, predictor, chosen, sentences, sizes, workers)

        images, warm_up, repeats = 1, WARM_UP, sizes.runs
        if use_crf:
            images, warm_up, repeats = sizes.streams[sentences], jobs, 1
        if predictor.together > 1:  # whole runs, the same ones to warm up
            full = -(-FULL_RUNS * predictor.together // sentences)
            images = warm_up = max(images, full)
            repeats = min(repeats, FULL_REPEATS)
        run(warm_up)
        seconds = min(run(images) for _ in range(repeats))
    return _result(images * sentences / seconds, peak, sizes)


def refining(setup: Setup, sentences: int) -> float:
    """Return sentences a second of DenseCRF alone, on all cores, as in `testing`."""
    from util.inference import dense_crf

    size, images = setup.sizes.network, setup.sizes.streams[sentences]
    rng = np.random.RandomState(0)
    form = rng, size["H"], size["W"]
    drawn = [workload.random_image(*form) for _ in range(images)]
    row = np.linspace(0.01, 0.99, size["W"], dtype=np.float32)
    probability = np.tile(row, [sentences, size["H"], 1])
    with dense_crf.Workers(cores(), setup.crf_backend) as workers:

        def run(some):
            waiting = [workers.submit(image, probability) for image in some]
            for refined in waiting:
                workers.result(refined, "an image")

        run(drawn[: workers.jobs])
        return images * sentences / _seconds(lambda: run(drawn))


def training_samples(sizes, sentences) -> Iterator[Figures]:
    """Return samples for ever, some sentences about each of TRAINING_IMAGES images."""
    size = sizes.network
    form = (sentences, size["H"], size["W"], size["vocab_size"])
    samples = (workload.random_samples(seed, *form) for seed in range(TRAINING_IMAGES))
    return itertools.cycle(itertools.chain(*samples))


def training_model(
    setup: Setup, batch_size: int, sentences_per_image: int = 1, use_cache: bool = False
):
    """Return the network of a training step, in the default graph."""
    from util.graph.session import prepare_graph
    from util.training.machine import Machine

    prepare_graph(setup.precision)
    return _model_class(setup)(
        mode="train",
        batch_size=batch_size,
        grouped=sentences_per_image > 1,
        staged=Machine().stages and not use_cache,
        **setup.sizes.network,
    )


def training_steps(
    setup: Setup,
    folder: str,
    batch_size: int,
    use_cache: bool,
    sentences_per_image: int = 1,
) -> Optional[Figures]:
    """Measure sentences a second in training; None: the cache has no room."""
    sizes, path = setup.sizes, os.path.join(folder, f"cache_{batch_size}")
    peak = peak_gflops(sizes.product)
    # With a cache each image once and the next step.
    warm_up = TRAINING_IMAGES // batch_size + 1 if use_cache else WARM_UP
    cache = path if use_cache else None
    with _training(setup, batch_size, sentences_per_image, cache) as step:
        times = [step() for _ in range(warm_up + min(sizes.runs, MOST_STEPS))]
    if use_cache and _count(path) < TRAINING_IMAGES:
        return None
    return _result(batch_size / min(times[warm_up:]), peak, sizes)


@contextlib.contextmanager
def _training(setup, batch_size, sentences_per_image, cache_folder=None):
    """Build a network with random weights to train; yield what `_steps` does."""
    from util.graph import session as sessions
    from util.graph.compat import temporary_graph, tf
    from util.graph.process import release_freed_memory
    from util.training import feature_cache, feeds

    sessions.require_trainable(setup.precision)
    use_cache = cache_folder is not None
    with temporary_graph():
        model = training_model(setup, batch_size, sentences_per_image, use_cache)
        with sessions.new_session(**setup.session) as session:
            session.run(tf.global_variables_initializer())
            samples = training_samples(setup.sizes, sentences_per_image)
            release_freed_memory()
            cache = None
            if use_cache:
                options = feature_cache.Options(cache_folder)
                cache = feature_cache.open_cache(
                    session, model, options, setup.precision
                )
            with contextlib.closing(feeds.feeds(model, samples, cache)) as feed:
                with _steps(session, model, feed) as step:
                    yield step


def step_times(session, model, feed, steps: int) -> List[float]:
    """Train as `loop.Loop` does and return the seconds of each step."""
    with _steps(session, model, feed) as step:
        return [step() for _ in range(steps)]


@contextlib.contextmanager
def _steps(session, model, feed):
    """Yield a function that takes a training step and returns its seconds."""
    from util.training import loop

    fetches = loop.step_fetches(model)
    with contextlib.closing(loop.steps_ahead(session, model, feed)) as ready:
        yield lambda: _seconds(lambda: session.run(fetches, next(ready).values))


def times_in_turn(setup: Setup, cases: List[Tuple[int, int]]) -> List[List[float]]:
    """Train several networks, a step of each in turn, and return the seconds.

    A machine that others use as well is now faster, now slower; steps that follow one
    another meet the same machine. Memory must hold the variables of all networks.

    Args:
      setup: what is measured.
      cases: sentences a step and sentences an image.

    Returns:
      The seconds of each round's steps, one of each case.
    """
    with contextlib.ExitStack() as stack:
        steps = [stack.enter_context(_training(setup, *case)) for case in cases]
        rounds = WARM_UP + setup.sizes.runs
        return [[step() for step in steps] for _ in range(rounds)][WARM_UP:]


def _count(folder):
    return sum(name.endswith(".npz") for name in os.listdir(folder))


# --- Preparation


def preparation(sizes: Sizes, folder: str) -> Figures:
    """Measure the building of samples: both layouts and the reference's way."""
    from util.data.build import BUILDERS

    workload.draw_images(folder, sizes.prepared, *sizes.image)
    found, rows = {}, sizes.network["H"]
    for layout in BUILDERS:
        built = os.path.join(folder, layout)
        unc = datasets.get("unc", folder, built)
        seconds = _seconds(
            lambda unc=unc, layout=layout: build_samples(
                unc, "train", size=rows, jobs=2, layout=layout
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


def _prepared(images, seconds, folder):
    size = sum(
        os.path.getsize(os.path.join(parent, name))
        for parent, _, names in os.walk(folder)
        for name in names
    )
    return {
        "pictures_per_s": images / seconds,
        "bytes_per_sample": size / (images * sum(workload.OBJECTS)),
    }
