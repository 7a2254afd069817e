"""Training: samples, network, start, loop, snapshots."""

import contextlib
import glob
import itertools
from typing import Any, Dict, Iterator, Optional

import numpy as np

from util import (
    batches,
    checkpoint,
    datasets,
    feature_cache,
    im_processing,
    text_processing,
)
from util.ahead import do_ahead, take_ahead
from util.compat import new_session, release_freed_memory, tf
from util.data_reader import DataReader
from util.errors import UserError
from util.report import EVERY, Progress

# Pictures that set the moments of a backbone drawn at random.
CALIBRATION_PICTURES, CALIBRATION_BATCH = 32, 8
STEPS_AHEAD = 2  # what to feed is ready for so many steps
NUM_THREADS = 4  # that read cached features


def run(model_class, args) -> str:
    """Train a network and leave snapshots.

    Args:
      model_class: class with the arguments and attributes of `LSTM_model`.
      args: options of `trainval_model.py -m train`.

    Returns:
      The path of the last snapshot.

    Raises:
      UserError: missing or bad samples, vectors or backbone, snapshots in the way, or
        a cache of other features.
    """
    if checkpoint.steps(args.folder, args.dataset):
        raise UserError(
            "{} has snapshots of {} already: choose another folder with -f, or move "
            "them away".format(args.folder, args.dataset)
        )
    folder = datasets.find_batch_dir(args.dataset, args.split, args.data, args.batches)
    prefix = datasets.sample_prefix(args.dataset, args.split)
    options = network_options(args, *input_size(folder, prefix))
    backbone = backbone_file(args)
    with DataReader(folder, prefix, seed=args.seed) as reader, tf.Graph().as_default():
        tf.set_random_seed(args.seed)
        model = model_class(batch_size=args.batch_size, mode="train", **options)
        samples = fitting_samples(reader, options)
        with new_session(precision=args.precision) as session:
            start(session, model, backbone, samples)
            feed = choose_feeds(session, model, samples, args)
            snapshots = checkpoint.Snapshots(args.folder, args.dataset)
            last = min(args.iteration, args.stop)
            with contextlib.closing(feed):
                return learn(session, model, feed, last, snapshots, args.snapshot)


def input_size(folder: str, prefix: str):
    """Return (height, width) of the network's input, from the first sample.

    Raises:
      UserError: the samples do not have the size of a network's input.
    """
    samples = batches.open_samples(folder, prefix)
    rows, columns = samples.read(0)["im_batch"].shape[:2]
    if rows % 8 or columns % 8:
        raise UserError(
            "{} shows a picture of {}x{}, not of a network's input size: train on a "
            "split with train in its name".format(samples.path(0), columns, rows)
        )
    return rows, columns


def network_options(args, rows: int, columns: int) -> Dict[str, Any]:
    """Return the arguments of `LSTM_model` for training, save the batch size.

    Raises:
      UserError: the vocabulary or the word vectors are missing or do not fit.
    """
    vocabulary = datasets.vocabulary_file(args.dataset, args.data)
    vocab_size = text_processing.vocabulary_size(vocabulary)
    options = {
        "H": rows,
        "W": columns,
        "vf_h": rows // 8,
        "vf_w": columns // 8,
        "num_steps": text_processing.MAX_WORDS,
        "vocab_size": vocab_size,
        "v_emb_dim": args.v_emb_dim,
        "rnn_size": args.v_emb_dim,
        "mlp_dim": args.mlp_dim,
        "start_lr": args.learning_rate,
        "keep_prob_rnn": args.keep_prob_rnn,
        "keep_prob_emb": args.keep_prob_emb,
        "conv5": args.conv5,
    }
    if args.embedding:
        path = datasets.embedding_file(args.dataset, args.data)
        vectors = load_word_vectors(path, vocab_size)
        options.update(glove=vectors, glove_dim=vectors.shape[1])
    return options


def load_word_vectors(path: str, vocab_size: int) -> np.ndarray:
    """Load the initial word vectors.

    Returns:
      float32 [vocab_size, G].

    Raises:
      UserError: the file is missing, damaged, or of another vocabulary.
    """
    try:
        vectors = np.load(path, allow_pickle=False).astype(np.float32)
    except Exception as error:  # numpy raises almost anything on damaged files
        raise UserError(
            "cannot read the word vectors {}: make them with python -m util.glove, or "
            "leave out -emb".format(path)
        ) from error
    if vectors.ndim != 2 or len(vectors) != vocab_size:
        raise UserError(
            "{} holds an array of {}, but the vocabulary has {} words: make it anew "
            "with python -m util.glove".format(path, vectors.shape, vocab_size)
        )
    if not np.isfinite(vectors).all():
        raise UserError(
            "{} holds values that are no numbers: make it anew with python -m "
            "util.glove".format(path)
        )
    return vectors


def backbone_file(args) -> Optional[str]:
    """Return the path of the backbone's first weights; None: they are drawn.

    Raises:
      UserError: there is no such file.
    """
    if args.backbone == "random":
        return None
    path = datasets.backbone_file(args.data)
    if not glob.glob(glob.escape(path) + "*"):  # one file or several, by its format
        raise UserError(
            "there are no backbone weights {}; data/README.md says where they come "
            "from, and --backbone random does without them".format(path)
        )
    return path


def fitting_samples(reader: DataReader, options: Dict) -> Iterator[Dict[str, Any]]:
    """Yield samples for ever.

    Args:
      reader: where they come from.
      options: of `network_options`.

    Raises:
      UserError: a sample does not fit the network that `options` make.
    """
    rows, columns, vocab_size = (options[key] for key in ("H", "W", "vocab_size"))
    while True:
        sample = reader.read_batch()
        height, width = sample["im_batch"].shape[:2]
        if (height, width) != (rows, columns):
            raise UserError(
                "the sample of {!r} is {}x{} pixels, the first one {}x{}: train on a "
                "split with train in its name, or build its samples anew".format(
                    sample["sent_batch"][0], width, height, columns, rows
                )
            )
        largest = sample["text_batch"].max()
        if largest >= vocab_size:
            raise UserError(
                "the sample of {!r} has word {}, but the vocabulary has {} words: "
                "build the samples anew".format(
                    sample["sent_batch"][0], largest, vocab_size
                )
            )
        yield sample


def start(session, model, backbone: Optional[str], samples: Iterator[Dict]) -> None:
    """Initialise all variables and start from a backbone that can see.

    Args:
      session: of the model's graph.
      model: in mode "train".
      backbone: path of its weights; None draws them.
      samples: their pictures calibrate a backbone that is drawn.
    """
    session.run(tf.global_variables_initializer())
    if backbone is None:
        calibrate(session, model, samples)
        print("backbone: drawn at random, moments measured on training pictures")
    else:
        print(checkpoint.load_backbone(session, backbone))
    release_freed_memory()  # what drawing all variables at once took


def calibrate(session, model, samples: Iterator[Dict[str, Any]]) -> None:
    """Set the stored moments of a backbone drawn at random from a few samples."""
    pictures = [
        sample["im_batch"] for sample in itertools.islice(samples, CALIBRATION_PICTURES)
    ]
    model.calibrate_backbone(
        session,
        (
            im_processing.to_network_input(
                np.stack(pictures[first : first + CALIBRATION_BATCH])
            )
            for first in range(0, len(pictures), CALIBRATION_BATCH)
        ),
    )


def choose_feeds(session, model, samples: Iterator[Dict[str, Any]], args):
    """Return `cached_feeds` with --cache-features, else `feeds`.

    Raises:
      UserError: the cache is of other features.
    """
    if not args.cache_features:
        return feeds(model, samples)
    cache = feature_cache.open_cache(session, model, args)
    return cached_feeds(model, samples, cache)


def feeds(model, samples: Iterator[Dict[str, Any]]) -> Iterator[Dict]:
    """Yield what to feed for each step, for ever."""
    batch_size = model.im.shape.as_list()[0]
    while True:
        batch = list(itertools.islice(samples, batch_size))
        pictures = np.stack([sample["im_batch"] for sample in batch])
        feed = words_and_masks(model, batch)
        feed[model.im] = im_processing.to_network_input(pictures)
        yield feed


def cached_feeds(
    model, samples: Iterator[Dict[str, Any]], cache: feature_cache.Cache
) -> Iterator[Dict]:
    """Yield what `feeds` does, with the taps in place of the pictures."""
    batch_size = model.im.shape.as_list()[0]
    depth = batch_size + NUM_THREADS
    looked_up = do_ahead(cache.look_up, samples, depth, NUM_THREADS)
    with contextlib.closing(looked_up):
        while True:
            found = list(itertools.islice(looked_up, batch_size))
            feed = words_and_masks(model, [one.sample for one in found])
            feed.update(cache.feed(found))
            yield feed


def words_and_masks(model, samples) -> Dict:
    """Return what to feed for the sentences and masks of some samples."""
    steps = model.words.shape.as_list()[1]
    return {
        model.words: np.stack([sample["text_batch"][-steps:] for sample in samples]),
        model.target_fine: np.stack(
            [sample["mask_batch"][..., np.newaxis] for sample in samples]
        ),
    }


def step_fetches(model):
    """Return what a step runs: loss, scores, target, learning rate, the step itself."""
    return [
        model.cls_loss,
        model.pred,
        model.target,
        model.learning_rate,
        model.train_step,
    ]


def learn(
    session,
    model,
    feed: Iterator[Dict],
    last: int,
    snapshots: checkpoint.Snapshots,
    every: int,
) -> str:
    """Take training steps, print the progress and save.

    A thread takes from `feed` ahead, so that the network does not wait for it.

    Args:
      session: of the model's graph, ready to train.
      model: in mode "train".
      feed: what to feed for each step.
      last: the number of steps.
      snapshots: where to save.
      every: steps between snapshots; the last step always leaves one.

    Returns:
      The path of the last snapshot.
    """
    progress = Progress()
    fetches = step_fetches(model)
    with contextlib.closing(take_ahead(feed, STEPS_AHEAD)) as ready:
        for step in range(1, last + 1):
            loss, scores, target, learning_rate, _ = session.run(fetches, next(ready))
            progress.add(loss, scores, target)
            if step % EVERY == 0 or step == last:
                print(progress.lines(step, learning_rate), flush=True)
            if step % every == 0 or step == last:
                snapshot = snapshots.save(session, step)
                print("snapshot: {}".format(snapshot), flush=True)
    return snapshot
