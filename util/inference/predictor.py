"""From an image and sentences to masks, with the network of a snapshot.

Axes: B sentences, T words, H rows and W columns of the image as the network sees it.
"""

import collections
import functools
import hashlib
import math
import os
import threading
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

import numpy as np

from util import models
from util.core.errors import UserError
from util.data import datasets, im_processing, text_processing, vocabularies
from util.graph import checkpoint
from util.graph.compat import forget_gradients, new_graph, tf
from util.graph.session import (
    enough_memory,
    gpus,
    is_out_of_memory,
    new_session,
    prepare_graph,
)
from util.inference import dense_crf
from util.inference.prediction import Prediction, read_words

# Sentences at once on a CPU: more need more memory and are hardly faster.
CHUNK = 12
TOGETHER = 56  # sentences at once on a GPU, of as many images as they are about
LESS_MEMORY = "end what else uses it; where it is a GPU, -g -1 takes the CPU instead"
FOREGROUND = 1e-9  # the least logit of a pixel on the object, as published
SHOWN = "shown"
ANSWER = "answer"  # the level that the answer itself is, where there are rounds


class Outputs(NamedTuple):
    """What the network answers, on the image as it sees it.

    Attributes:
      logits: float32 [B, H, W], see `is_on_object`.
      probability: float32 [B, H, W], 0..1, the sigmoid of it; None where it was not
        asked for.
      word_weights: float32 [B, T, number of `Predictor.word_classes`], meaningless at
        padding; None where the model has no classes.
      levels: name -> float32 [B, H, W], 0..1, of `Predictor.levels`: what that level
        alone would answer; "base" is the score that the answer refines, where it
        refines one. Empty where they were not asked for.
      base_logits: float32 [B, H, W], of "base"; None where there is none.
      attention: float32 [B, K, T], see `base.Model`; None where there are no rounds.
    """

    logits: np.ndarray
    probability: Optional[np.ndarray]
    word_weights: Optional[np.ndarray]
    levels: Dict[str, np.ndarray]
    base_logits: Optional[np.ndarray] = None
    attention: Optional[np.ndarray] = None


class Predictor:
    """Runs a snapshot: one image, then any number of sentences about it.

    Use it as a context manager, or call `close` at the end. One thread at a time, save
    for `fit` and `find_all`.

    Example:
      >>> with Predictor("ckpts/shapes/demo/shapes_iter_10000.tfmodel") as predictor:
      ...     predictor.set_image("image.jpg")
      ...     circle, square = predictor.segment(["the red circle", "the small square"])
      >>> [word.text for word in circle.words]
      ['the', 'red', 'circle']
      >>> circle.mask.shape == circle.probability.shape == circle.levels["c5"].shape
      True

    Args:
      snapshot: path of a checkpoint; it tells the model and the network's sizes.
      vocabulary: the file of its words; None: vocabulary.txt next to it or that of
        the data set in its name, see `vocabulary_of`, when it is needed.
      precision: see `session.new_session`.
      remembered: int, how many images of `set_image` cost nothing when they come
        again. At full size of CMPC each takes 96 MB.
      model: name, of `models.MODELS`, that the snapshot must be of; None: any.
      crf_backend: of DenseCRF, see `dense_crf.refine`.
      xla: bool, see `session.new_session`.
      together: int, how many sentences a run of `find_all` takes; 1: those of one
        image; None: TOGETHER on a GPU, and 1 on a CPU, which has no idle cores to fill,
        or with XLA, which would compile anew for each number of images.
      device: name of the one that computes, of `towers.local_devices`; "": TensorFlow
        chooses.

    Attributes:
      image: uint8 [H, W, 3], the image as the network sees it; None before
        `set_image`.
      vocab_size: int, ids must be smaller.
      together: int, see above; `find_all` halves it where a GPU's memory is too small.
      model: name of the snapshot's model.
      options: those that it was made with, see `models.OPTIONS`.
      word_classes: what the model tells words apart by; empty where it does not.
      levels: the names of what else it shows, see `base.Model.to_show`, and where it
        has rounds ANSWER, which the last one ends in; may be empty.
      about_levels: what these are, for people.
      rounds: int, in how many it attends to the words; 0: it has no rounds.

    Raises:
      UserError: the snapshot cannot be read or does not fit, or precision,
        XLA or crf_backend cannot be had here.
    """

    def __init__(
        self,
        snapshot: str,
        vocabulary: Optional[str] = None,
        precision: str = "float32",
        remembered: int = 1,
        model: Optional[str] = None,
        crf_backend: str = "own",
        xla: bool = False,
        together: Optional[int] = None,
        device: str = "",
    ) -> None:
        dense_crf.check_backend(crf_backend)
        self._snapshot = checkpoint.without_ending(snapshot)
        model_class, sizes = models.of_snapshot(self._snapshot, model)
        self.model, self.vocab_size = model_class.NAME, sizes["vocab_size"]
        self.word_classes = tuple(model_class.WORD_CLASSES)
        self.options = {name: sizes[name] for name in models.OPTIONS if name in sizes}
        self.image, self._size = None, None
        self._vocabulary = None
        if vocabulary:
            self._vocabulary = read_vocabulary(self._snapshot, vocabulary)
        with new_graph() as graph, tf.device(device):
            prepare_graph(precision)
            self._build = functools.partial(
                model_class,
                batch_size=None,
                mode="eval",
                num_steps=text_processing.MAX_WORDS,
                **sizes,
            )
            self._model, self._of_many = self._build(num_images=1), None
            cpus = 1 + (tf.DeviceSpec.from_string(device).device_index or 0)
            with enough_memory(LESS_MEMORY):
                self._session = new_session(graph, precision, cpus=cpus, xla=xla)
                with checkpoint.closed_on_error(self._session):
                    model_class.load(self._session, self._snapshot)
        attention = self._model.attention
        self.rounds = 0 if attention is None else attention.shape.as_list()[1]
        self.levels = (*self._model.shown, *[ANSWER] * bool(self.rounds))
        self.about_levels = model_class.SHOWN
        if together is None:
            together = TOGETHER if gpus() and not xla else 1
        self.together, self._device, self._lock = together, device, threading.Lock()
        self._remembered, self._crf_backend = remembered, crf_backend
        self._seen = collections.OrderedDict()  # checksum of `image` -> what to feed
        self._now = {}

    @property
    def vocabulary(self) -> Dict[str, int]:
        """Word -> id.

        Raises:
          UserError: its file is missing or that of another network.
        """
        if self._vocabulary is None:
            path = vocabulary_of(self._snapshot)
            self._vocabulary = read_vocabulary(self._snapshot, path)
        return self._vocabulary

    def set_image(self, image: Any) -> None:
        """Compute what depends on an image alone; a remembered one costs nothing.

        Args:
          image: path, Pillow image or array of any size, see
            `im_processing.to_image`.

        Raises:
          UserError: it cannot be read; the image before it stays.

        Example:
          >>> predictor = Predictor("ckpts/shapes/demo/shapes_iter_10000.tfmodel")
          >>> predictor.set_image(np.zeros([30, 50, 3], np.uint8))
          >>> predictor.segment("the red circle").mask.shape
          (30, 50)
          >>> predictor.close()
        """
        image = im_processing.to_image(image)
        self._see(self.fit(image))
        self._size = image.shape[:2]

    def fit(self, image: Any) -> np.ndarray:
        """Return uint8 [H, W, 3], an image as the network sees it.

        Threads may do so for images to come.

        Args:
          image: see `set_image`.

        Raises:
          UserError: it cannot be read.
        """
        size = self._model.im.shape.as_list()[1:3]
        return im_processing.fit_image(im_processing.to_image(image), *size)

    def _see(self, fitted):
        """Do what `set_image` does with an image that is fitted."""
        model = self._model
        checksum = hashlib.sha256(fitted.tobytes()).digest()
        if checksum not in self._seen:
            feed = {model.im: im_processing.to_network_input(fitted)[np.newaxis]}
            parts = self._run(model.image_parts, feed)
            self._seen[checksum] = dict(zip(model.image_parts, parts))
        self._seen.move_to_end(checksum)
        while len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        self._now = self._seen[checksum]
        self.image, self._size = fitted, fitted.shape[:2]

    def segment(
        self, sentences: Union[str, Sequence[str]], with_dense_crf: bool = False
    ) -> Union[Prediction, List[Prediction]]:
        """Find what sentences refer to in the image of `set_image`.

        Args:
          sentences: a text, or several, which are segmented together.
          with_dense_crf: refine the masks, see `dense_crf.refine`.

        Returns:
          A Prediction; for several sentences a list of them.

        Raises:
          UserError: a sentence has no words, or the vocabulary cannot be read.
          RuntimeError: there is no image yet.

        Example:
          >>> snapshot = "ckpts/shapes/demo/shapes_iter_10000.tfmodel"
          >>> with Predictor(snapshot) as predictor:
          ...     predictor.set_image("image.jpg")
          ...     one = predictor.segment("the circle", with_dense_crf=True)
          ...     several = predictor.segment(["the circle", "the red one"])
          >>> print(one.sentence, "|", [found.sentence for found in several])
          the circle | ['the circle', 'the red one']
        """
        if isinstance(sentences, str):
            return self.segment([sentences], with_dense_crf)[0]
        if self.image is None:
            raise RuntimeError("call set_image before segment")
        if not sentences:
            return []
        ids = np.stack([self.ids(sentence) for sentence in sentences])
        found = self.find(ids)
        on_object = is_on_object(found.logits)
        if with_dense_crf:
            on_object = dense_crf.refine_all(
                self.image, found.probability, self._crf_backend
            )
        return [
            self._prediction(sentence, ids[n], found, n, on_object[n])
            for n, sentence in enumerate(sentences)
        ]

    def ids(self, sentence: str) -> np.ndarray:
        """Return int32 [T], the ids of a sentence, padded in front with 0.

        Raises:
          UserError: there is no word in the sentence, or the vocabulary cannot be read.
        """
        ids = text_processing.preprocess_sentence(sentence, self.vocabulary)
        return np.array(ids, np.int32)

    def find(self, ids: np.ndarray) -> Outputs:
        """Run the network on the image of `set_image`.

        Args:
          ids: int32 [B, T], padded in front with 0; any B above 0.

        Raises:
          UserError: the network answers with NaN, or memory is too small.
        """
        return self._find(ids, _fetches(self._model))

    def _find(self, ids, fetches):
        """Do what `find` does, and fetch no more."""
        ids = np.asarray(ids)
        chunks = np.array_split(ids, math.ceil(len(ids) / CHUNK))
        runs = [
            self._run(fetches, {**self._now, self._model.words: chunk})
            for chunk in chunks
        ]
        return self._outputs(
            {name: np.concatenate([run[name] for run in runs]) for name in fetches}
        )

    def find_all(
        self,
        images: Sequence[np.ndarray],
        ids: Sequence[np.ndarray],
        shows: bool = True,
        probability: bool = True,
    ) -> List[Outputs]:
        """Run the network on several images; several threads may.

        Args:
          images: uint8 [H, W, 3] each, of `fit`.
          ids: of each image int32 [B, T], its sentences, as for `find`.
          shows: also give the levels; they are most of what comes back from a GPU.
          probability: also give the probability.

        Returns:
          What `find` returns, of each image.

        Raises:
          UserError: the network answers with NaN, or memory is too small.
        """
        if self.together > 1:
            return self._find_together(images, ids, shows, probability)
        fetches, found = _fetches(self._model, shows, probability), []
        for image, some in zip(images, ids):
            with self._lock:
                self._see(image)
                found.append(self._find(some, fetches))
        return found

    def _find_together(self, images, ids, *how):
        """Do what `find_all` does in one run, in more where memory is too small."""
        most, number = self.together, sum(map(len, ids))
        if len(images) > 1 and number > most:
            half = len(images) // 2
            first = self.find_all(images[:half], ids[:half], *how)
            return first + self.find_all(images[half:], ids[half:], *how)
        try:
            return self._run_together(images, ids, *how)
        except tf.errors.OpError as error:
            if not is_out_of_memory(error):
                raise
        smaller = most // 2
        if len(images) == 1 and number > smaller:  # it cannot be split but into CHUNKs
            smaller = 1
        self.together = max(1, min(self.together, smaller))  # another thread may, too
        return self.find_all(images, ids, *how)

    def _run_together(self, images, ids, shows, probability):
        """Do what `find_all` does in one run."""
        model = self._model_of_many()
        ends = np.cumsum([len(some) for some in ids])
        image_of = np.repeat(np.arange(len(ids)), [len(some) for some in ids])
        # A GPU looks for its fastest kernels whenever a size is new.
        room = 0, max(0, self.together - ends[-1])
        feed = {
            model.im: im_processing.to_network_input(np.stack(images)),
            model.words: np.pad(np.concatenate(ids), (room, (0, 0)), "edge"),
            model.image_of: np.pad(image_of, room, "edge"),
        }
        found = self._session.run(_fetches(model, shows, probability), feed)
        parts = {name: np.split(x, ends)[:-1] for name, x in found.items()}
        return [
            self._outputs(dict(zip(parts, values))) for values in zip(*parts.values())
        ]

    def _model_of_many(self):
        """Return the network that takes several images, built when it is needed."""
        with self._lock, self._session.graph.as_default():
            if self._of_many is None:
                with tf.device(self._device), tf.variable_scope("", reuse=True):
                    self._of_many = self._build(grouped=True)
            return self._of_many

    def _run(self, fetches, feed):
        with enough_memory(LESS_MEMORY):
            return self._session.run(fetches, feed)

    def _outputs(self, found):
        """Return Outputs of what `_fetches` asks for."""
        if not np.isfinite(found["pred"]).all():
            raise UserError(
                f"{self._snapshot} answers with NaN or infinite scores: its weights "
                "are too large, or --precision is too low"
            )
        shown = (key for key in found if isinstance(key, tuple))
        levels = {name: found[SHOWN, name] for _, name in shown}
        if ANSWER in levels:
            levels[ANSWER] = levels[ANSWER][..., 0]
        return Outputs(
            logits=found["pred"][..., 0],
            probability=found["sigm"][..., 0] if "sigm" in found else None,
            word_weights=found.get("words_parse"),
            levels=levels,
            base_logits=found["base"][..., 0] if "base" in found else None,
            attention=found.get("attention"),
        )

    def _prediction(self, sentence, ids, found, n, on_object):
        """Return the n-th Prediction."""
        unknown = self.vocabulary[text_processing.UNKNOWN]
        rule = text_processing.rule_of(self.vocabulary)
        weights = None if found.word_weights is None else found.word_weights[n]
        attention = None if found.attention is None else found.attention[n]
        how = self.word_classes, unknown, rule, attention
        words = read_words(sentence, ids, weights, *how)
        num_unread = len(text_processing.tokenize(sentence, rule)) - len(words)
        return Prediction(
            sentence,
            words,
            num_unread,
            self._size,
            on_object,
            found.probability[n],
            {level: scores[n] for level, scores in found.levels.items()},
            text_processing.foreign_words(sentence, rule),
        )

    def close(self) -> None:
        """Free the session and its graph."""
        self._session.close()
        forget_gradients(self._session.graph)

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _fetches(model, shows=True, probability=True):
    """Return what makes Outputs, name -> tensor [B, ...]; see `Predictor.find_all`."""
    wanted = {"pred": model.up, "base": model.ups.get("base")}
    wanted.update(words_parse=model.words_parse, attention=model.attention)
    if probability:
        wanted["sigm"] = model.sigm
    if shows:
        wanted.update(((SHOWN, name), level) for name, level in model.shown.items())
        if model.attention is not None:
            wanted[SHOWN, ANSWER] = model.sigm
    return {name: tensor for name, tensor in wanted.items() if tensor is not None}


def is_on_object(logits: np.ndarray) -> np.ndarray:
    """Return bool, which pixels belong to the object."""
    return logits >= FOREGROUND


def vocabulary_of(snapshot: str, root: str = "data") -> str:
    """Return the path of the vocabulary that a snapshot was trained with.

    That is vocabulary.txt next to it, which training leaves there, or that of the data
    set in its name.

    Args:
      snapshot: path of a checkpoint.
      root: the data folder.

    Raises:
      UserError: neither can be found.
    """
    neighbour = os.path.join(os.path.dirname(snapshot), text_processing.VOCABULARY)
    if os.path.exists(neighbour):
        return neighbour
    try:
        return datasets.get(checkpoint.data_set_of(snapshot), root).vocabulary_file
    except UserError as error:
        raise UserError(
            f"there is no {neighbour}, and the name of {snapshot} tells no data set: "
            "say which vocabulary it was trained with (--vocabulary)"
        ) from error


def rule_of(snapshot: str, root: str = "data") -> str:
    """Return the rule of a snapshot's words, see `text_processing.tokenize`.

    Where its vocabulary is not there it is the reference's: such a snapshot is older
    than the other rule.

    Args:
      snapshot: path of a checkpoint.
      root: the data folder.
    """
    try:
        words = text_processing.read_words(vocabulary_of(snapshot, root))
    except UserError:
        return text_processing.ASCII
    return text_processing.rule_of(words)


def read_vocabulary(snapshot: str, file: str) -> Dict[str, int]:
    """Return word -> id of the vocabulary that a snapshot was trained with.

    Args:
      snapshot: path of a checkpoint.
      file: the vocabulary, see `vocabulary_of`.

    Raises:
      UserError: it cannot be read, or is another one than that of the snapshot.
    """
    _, sizes = models.of_snapshot(snapshot)
    known, found = sizes["vocab_size"], text_processing.vocabulary_size(file)
    if found != known:
        raise UserError(
            f"{file} has {found} words, but {snapshot} knows {known}: name its own "
            "vocabulary (--vocabulary)"
        )
    check_vocabulary(snapshot, file)
    return text_processing.load_vocab_dict_from_file(file)


def check_vocabulary(snapshot: str, file: str) -> None:
    """Refuse a vocabulary that a snapshot was not trained with, where that is known.

    Args:
      snapshot: path of a checkpoint.
      file: a vocabulary.

    Raises:
      UserError: the snapshot or the vocabulary next to it tells another one.
    """
    recorded = checkpoint.read_vocabulary_checksum(snapshot)
    if recorded and not vocabularies.is_of(file, recorded):
        raise UserError(
            f"{snapshot} was trained with another vocabulary than {file}: its ids are "
            "other words; put the file that it was trained with there"
        )
    neighbour = os.path.join(os.path.dirname(snapshot), text_processing.VOCABULARY)
    if os.path.exists(neighbour) and not vocabularies.are_same(file, neighbour):
        raise UserError(
            f"{file} is another vocabulary than {neighbour}, the words of {snapshot}: "
            "use that one"
        )


def check_samples(snapshot: str, dataset: datasets.Dataset, split: str) -> None:
    """Refuse samples whose ids are not of the words that a snapshot knows.

    Args:
      snapshot: path of a checkpoint.
      dataset: bound to its folders.
      split: one of its splits.

    Raises:
      UserError: they are of another vocabulary; or there are none.
    """
    folder = dataset.sample_dir(split)
    if vocabularies.of_samples(folder) is None:
        return
    file = vocabulary_of(snapshot, dataset.root)
    if os.path.exists(file):
        check_vocabulary(snapshot, file)
        vocabularies.check_samples(folder, file)
