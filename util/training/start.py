"""How a run starts: its state, and the first values of all variables."""

import contextlib
import glob
import itertools
import os
import random
import sys
from typing import Dict, List, NamedTuple, Optional

import numpy as np

import deeplab_resnet
from deeplab_resnet import weights
from util import models
from util.core.errors import UserError
from util.data import datasets, im_processing, text_processing, vocabularies
from util.graph import checkpoint, towers
from util.graph.compat import tf
from util.graph.process import release_freed_memory
from util.inference.predictor import check_vocabulary
from util.models import OPTIONS, option_name
from util.training import progress
from util.training.feeds import TrainingSet
from util.training.loop import TrainState
from util.training.snapshots import check_words

# Images that set the moments of a backbone drawn at random.
CALIBRATION_IMAGES, CALIBRATION_BATCH = 32, 8


class Start(NamedTuple):
    """Where a run starts: at its own snapshot, another run's, or a backbone.

    Attributes:
      state: TrainState; if it has a snapshot, nothing else counts.
      init_from: path of another run's snapshot.
      init_vocabulary: file with the words of `init_from`; None: vocabulary.txt next to
        it, or the words of the training set where there is none.
      backbone: path of the backbone's weights; None: it is drawn at random.
    """

    state: TrainState
    init_from: Optional[str] = None
    init_vocabulary: Optional[str] = None
    backbone: Optional[str] = None


# --- The state


def resume_state(
    folder: str,
    training_set: TrainingSet,
    resume: bool = False,
    seed: Optional[int] = None,
    workers: int = 1,
    options: Optional[Dict[str, str]] = None,
    model: Optional[str] = None,
) -> TrainState:
    """Return the state at the newest whole snapshot, or at step 0.

    Args:
      folder: of the run's snapshots.
      training_set: what it trains on.
      resume: whether snapshots may be there.
      seed: of a new run; None: draw one.
      workers: int, processes that read samples.
      options: of the model, see `models.OPTIONS`.
      model: its name, of `models.MODELS`; None: it is not compared.

    Raises:
      UserError: there are snapshots without `resume`, or ones that no state belongs
        to, or the samples, the vocabulary, the model or its options are others than
        those of the run.
    """
    options = options or {}
    name, vocabulary = training_set.dataset.name, training_set.dataset.vocabulary_file
    check_words(folder, vocabulary)
    there = checkpoint.there(folder, name)
    if there and not resume:
        raise UserError(
            f"{folder} has snapshots of {name} already: go on with --resume, choose "
            "another folder with -f, or move them away"
        )
    snapshot, saved = _last_whole(folder, name)
    if snapshot is None:
        if there:
            raise UserError(
                f"the snapshots in {folder} have no .state.json to go on from: start a "
                "new run from one with --init-from and another -f"
            )
        drawn = random.SystemRandom().randrange(2**32)
        seed = drawn if seed is None else seed
        return TrainState(
            0,
            seed,
            training_set.number,
            [0] * workers,
            options,
            sentences_per_image=training_set.sentences_per_image,
        )
    check_vocabulary(snapshot, vocabulary)
    if model:
        models.to_start_from(snapshot, model)
    _require_same(snapshot, saved, training_set, options)
    if len(saved["positions"]) != workers:
        saved["positions"] = [max(saved["positions"])] * workers
    return TrainState(snapshot=snapshot, **saved)


def _require_same(snapshot, saved, training_set, options):
    """Refuse to go on with other options or samples than those of a snapshot."""
    if saved.setdefault("options", {}) != options:
        raise UserError(
            f"{snapshot} was trained with {_named(saved['options'])}, not with "
            f"{_named(options)}: resume with the same, or start a new run with "
            "--init-from"
        )
    if saved["samples"] != training_set.number:
        raise UserError(
            f"{snapshot} was trained on {saved['samples']} samples, but "
            f"{training_set.folder} has {training_set.number}: build them as they "
            "were, or start a new run with --init-from"
        )
    together = saved.get("sentences_per_image", 1)
    if together != training_set.sentences_per_image:
        raise UserError(
            f"{snapshot} was trained with --sentences-per-image {together}, so its "
            "samples come in another order: resume with that"
        )


def _last_whole(folder, dataset):
    """Return path and state of the newest snapshot that can be read; or None, None.

    Raises:
      UserError: there are some, and none can be read; says why not the newest.
    """
    first = None
    for snapshot in checkpoint.resumable(folder, dataset):
        try:
            saved = _read_state(snapshot)
            checkpoint.require_whole(snapshot)
        except UserError as error:
            first = first or error
            continue
        if first:
            print(f"warning: {first}; going on from {snapshot}", file=sys.stderr)
        return snapshot, saved
    if first:
        raise first
    return None, None


def _read_state(snapshot):
    """Return the fields of a TrainState that a snapshot was saved with."""
    saved = checkpoint.read_state(snapshot)
    known = {key: saved[key] for key in TrainState._fields if key in saved}
    positions, best = known.get("positions"), known.get("best")
    averages = known.get("averages")
    if not (
        all(_is_count(known.get(key)) for key in ("step", "seed", "samples"))
        and isinstance(positions, list)
        and positions
        and all(map(_is_count, positions))
        and _is_count(known.get("evaluated", 0))
        and isinstance(known.get("options", {}), dict)
        and _is_count(known.get("sentences_per_image", 1))
        and (best is None or isinstance(best, list) and len(best) == 2)
        and (averages is None or _are_averages(averages))
    ):
        raise UserError(
            f"{snapshot + checkpoint.STATE} is not of a training run, or of another "
            "version: start a new run from the snapshot with --init-from and another -f"
        )
    known.pop("snapshot", None)
    return known


def _are_averages(value):
    return (
        isinstance(value, dict)
        and set(value) == set(progress.KEYS)
        and all(isinstance(number, (int, float)) for number in value.values())
    )


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _named(options):
    """Return options as they are given."""
    named = (f"{option_name(name)} {value}" for name, value in options.items())
    return " ".join(named) or f"none of {', '.join(map(option_name, OPTIONS))}"


# --- The variables


def begin(session, model, training_set: TrainingSet, start: Start) -> str:
    """Give all variables the values that a run starts with.

    Args:
      session: of the model's graph.
      model: in mode "train".
      training_set: its images calibrate a backbone that is drawn.
      start: where the run starts.

    Returns:
      A line about where they are from.

    Raises:
      UserError: a file is missing or does not fit.
    """
    if start.state.snapshot:
        model.load(session, start.state.snapshot)
        line = f"resumed: {start.state.snapshot}"
    else:
        session.run(tf.global_variables_initializer())
        if start.init_from:
            line = init_from(session, model, training_set, start)
        elif start.backbone:
            line = weights.load(session, start.backbone)
        else:
            line = draw_backbone(session, training_set, start.state.seed)
    release_freed_memory()  # what drawing all variables at once took
    towers.copy_frozen(session)
    return line


def backbone_file(root: str) -> str:
    """Return the path of the backbone's published weights.

    Raises:
      UserError: there is no such file.
    """
    path = datasets.backbone_file(root)
    if not glob.glob(glob.escape(path) + "*"):  # one file or several, by its format
        raise UserError(
            f"there are no backbone weights {path}; data/README.md says where they "
            "come from, and --backbone random does without them"
        )
    return path


def draw_backbone(session, training_set: TrainingSet, seed: int) -> str:
    """Make a backbone drawn at random usable; return a line about it."""
    group = training_set.sentences_per_image
    with contextlib.closing(training_set.samples(seed)) as samples:
        chosen = itertools.islice(samples, 0, CALIBRATION_IMAGES * group, group)
        calibrate(session, [sample["im_batch"] for sample in chosen])
    return "backbone: drawn at random, moments measured on training images"


def calibrate(session, images: List[np.ndarray]) -> None:
    """Set the stored moments of a backbone drawn at random.

    Args:
      session: of its graph; variables are initialised.
      images: a few uint8 [H, W, 3], of the network's size.
    """
    deeplab_resnet.calibrate(
        session,
        (
            im_processing.to_network_input(
                np.stack(images[first : first + CALIBRATION_BATCH])
            )
            for first in range(0, len(images), CALIBRATION_BATCH)
        ),
    )


def load_word_vectors(
    path: str, vocab_size: int, vocabulary: Optional[str] = None
) -> np.ndarray:
    """Load the initial word vectors.

    Args:
      path: of the table, .npy.
      vocab_size: its rows.
      vocabulary: path of the words that the rows are for; None: not compared.

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
            "util.glove, or leave out -emb"
        ) from error
    if vectors.ndim != 2 or len(vectors) != vocab_size:
        raise UserError(
            f"{path} holds an array of {vectors.shape}, but the vocabulary has "
            f"{vocab_size} words: make it again with python -m util.glove"
        )
    if not np.isfinite(vectors).all():
        raise UserError(
            f"{path} holds values that are NaN or infinite: make it again with python "
            "-m util.glove"
        )
    if vocabulary:
        vocabularies.check_table(path, vocabulary)
    return vectors


# --- Another run's weights


def init_from(session, model, training_set: TrainingSet, start: Start) -> str:
    """Load the weights of another run's snapshot and return a line about it.

    Where the vocabularies differ, words that both know keep their vectors.
    """
    snapshot = checkpoint.without_ending(start.init_from)
    stored = os.path.join(os.path.dirname(snapshot), text_processing.VOCABULARY)
    path = start.init_vocabulary or (stored if os.path.exists(stored) else None)
    check_vocabulary(snapshot, path or training_set.dataset.vocabulary_file)
    known = text_processing.read_words(path) if path else None
    return load_weights(session, model, snapshot, training_set.words(), known)


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
    shapes = checkpoint.shapes(snapshot)
    rows = shapes.get(model.WORD_TABLE, [0])[0]
    named, vocabulary = "of this data set", words
    if known is not None:
        named, vocabulary = "named", known
    if rows != len(vocabulary):
        raise UserError(
            f"{snapshot} knows {rows} words, but the vocabulary {named} has "
            f"{len(vocabulary)}: name that of the snapshot with --init-vocabulary"
        )
    variables, drawn = {}, []
    for variable in session.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES):
        if model.is_weight(variable.op.name):
            stored = model.stored_name(variable.op.name, shapes)
            if stored is None:
                drawn.append(variable.op.name)
            else:
                variables[stored] = variable
    line = f"weights: loaded from {snapshot}"
    if drawn:
        line += f"; {len(drawn)} variables that it lacks are drawn at random"
    if vocabulary != words:
        table = variables.pop(model.WORD_TABLE)
        shared = _carry_over(session, snapshot, table, words, known)
        line += f"; {shared} of {len(words)} words have their vectors from it"
    checkpoint.load(session, snapshot, variables)
    return line


def _carry_over(session, snapshot, table, words, known):
    """Give words that are known their vectors; return how many they are."""
    name = table.op.name
    vectors = checkpoint.read(snapshot, [name])[name]
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
