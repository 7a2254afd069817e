"""How a run begins: backbone, word vectors, weights of another run."""

import contextlib
import glob
import os
from typing import List, Optional

import numpy as np

from util.core.errors import UserError
from util.data import datasets, im_processing, text_processing
from util.graph import checkpoint, towers
from util.graph.compat import tf
from util.graph.session import release_freed_memory
from util.training.feeds import TrainingSet
from util.training.loop import TrainState

# Images that set the moments of a backbone drawn at random.
CALIBRATION_IMAGES, CALIBRATION_BATCH = 32, 8


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
            f"cannot read the word vectors {path}: make them with python -m "
            "util.glove, or "
            "leave out -emb"
        ) from error
    if vectors.ndim != 2 or len(vectors) != vocab_size:
        raise UserError(
            f"{path} holds an array of {vectors.shape}, but the vocabulary has "
            f"{vocab_size} words: make it again "
            "with python -m util.glove"
        )
    if not np.isfinite(vectors).all():
        raise UserError(
            f"{path} holds values that are no numbers: make it again with python -m "
            "util.glove"
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
            f"there are no backbone weights {path}; data/README.md says where they "
            "come "
            "from, and --backbone random does without them"
        )
    return path


def begin(session, model, args, source: TrainingSet, point: TrainState) -> None:
    """Give all variables the values that a run begins with.

    Args:
      session: of the model's graph.
      model: in mode "train".
      args: options of `trainval_model.py -m train`.
      source: its images calibrate a backbone that is drawn.
      point: where the run begins.

    Raises:
      UserError: a file is missing or does not fit.
    """
    if point.snapshot:
        checkpoint.load(session, point.snapshot)
        print(f"resumed: {point.snapshot}", flush=True)
    else:
        session.run(tf.global_variables_initializer())
        if args.init_from:
            print(init_from(session, model, args), flush=True)
        else:
            start_backbone(session, model, args, source, point.seed)
    release_freed_memory()  # what drawing all variables at once took
    towers.copy_frozen(session)


def start_backbone(session, model, args, source: TrainingSet, seed: int) -> None:
    """Start from a backbone that can see: from its file, or one drawn at random."""
    path = backbone_file(args)
    if path is not None:
        print(checkpoint.load_backbone(session, path), flush=True)
        return
    with contextlib.closing(source.samples(seed)) as samples:
        images = [next(samples)["im_batch"] for _ in range(CALIBRATION_IMAGES)]
    calibrate(session, model, images)
    print("backbone: drawn at random, moments measured on training images")


def calibrate(session, model, images: List[np.ndarray]) -> None:
    """Set the stored moments of a backbone drawn at random.

    Args:
      images: a few uint8 [H, W, 3], of the network's size.
    """
    model.calibrate_backbone(
        session,
        (
            im_processing.to_network_input(
                np.stack(images[first : first + CALIBRATION_BATCH])
            )
            for first in range(0, len(images), CALIBRATION_BATCH)
        ),
    )


def init_from(session, model, args) -> str:
    """Load the weights of another run's snapshot and return a line about it.

    Where the vocabularies differ, words that both know keep their vectors.
    """
    snapshot = checkpoint.without_ending(args.init_from)
    words = text_processing.read_words(
        datasets.vocabulary_file(args.dataset, args.data)
    )
    beside = os.path.join(os.path.dirname(snapshot), checkpoint.VOCABULARY)
    path = args.init_vocabulary or (beside if os.path.exists(beside) else None)
    known = text_processing.read_words(path) if path else None
    return load_weights(session, model, snapshot, words, known)


def load_weights(
    session, model, snapshot: str, words: List[str], known: Optional[List[str]]
) -> str:
    """Load the weights of another run, but nothing of its training.

    Args:
      session: of the graph; its variables are initialised.
      model: its network, or the class of it.
      snapshot: path of a checkpoint.
      words: the vocabulary of the graph.
      known: that of the snapshot; None: the same. Words that are in both keep their
        vectors, the others those that the graph began with.

    Returns:
      A line that says what was loaded.

    Raises:
      UserError: the file cannot be read or does not fit, or the vocabularies differ in
        size and `known` is None.
    """
    rows = checkpoint.shapes(snapshot).get(model.WORD_TABLE, [0])[0]
    named, vocabulary = "of this data set", words
    if known is not None:
        named, vocabulary = "named", known
    if rows != len(vocabulary):
        raise UserError(
            f"{snapshot} knows {rows} words, but the vocabulary {named} has "
            f"{len(vocabulary)}: name that of the snapshot with --init-vocabulary"
        )
    variables = [
        variable
        for variable in session.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)
        if model.is_weight(variable.op.name)
    ]
    line = f"weights: loaded from {snapshot}"
    if vocabulary != words:
        table = next(v for v in variables if v.op.name == model.WORD_TABLE)
        variables.remove(table)
        shared = _carry_over(session, snapshot, table, words, known)
        line += f"; {shared} of {len(words)} words have their vectors from it"
    checkpoint.load(session, snapshot, variables)
    return line


def _carry_over(session, snapshot, table, words, known):
    """Give words that are known their vectors; return how many they are."""
    vectors = checkpoint.read(snapshot, table.op.name)
    value = session.run(table)
    if vectors.shape[1] != value.shape[1]:
        raise UserError(
            f"{snapshot} has word vectors of {vectors.shape[1]} numbers, the network "
            f"of {value.shape[1]}: leave out -emb or use vectors of that length"
        )
    place = {word: row for row, word in enumerate(known)}
    shared = [row for row, word in enumerate(words) if word in place]
    value[shared] = vectors[[place[words[row]] for row in shared]]
    table.load(value, session)
    return len(shared)
