"""What a Predictor finds, and what can be said of it."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from pycocotools import mask as coco_mask

from util.data import im_processing, text_processing


class Word(NamedTuple):
    """A word and what the network takes it for.

    Example:
      >>> word = Word("red", True, {"entity": 0.2, "attribute": 0.8})
      >>> word.kind
      'attribute'

    Attributes:
      text: as the network reads it, in lower case.
      is_known: it is in the vocabulary; all others look the same to the network. None:
        not asked for.
      weights: class -> probability, 0..1, of the model's WORD_CLASSES; empty where it
        has none.
      attention: how much it counts in each round, 0..1; empty where the model has no
        rounds.
    """

    text: str
    is_known: Optional[bool]
    weights: Dict[str, float]
    attention: Sequence[float] = ()

    @property
    def kind(self) -> Optional[str]:
        """The most probable class; None where the model has none."""
        return max(self.weights, key=self.weights.get, default=None)


class Prediction(NamedTuple):
    """What one sentence refers to in an image.

    Arrays of the image's size are computed each time they are asked for.

    Example:
      >>> mask = np.array([[False, True], [False, True]])
      >>> probability = np.where(mask, np.float32(0.75), np.float32(0.25))
      >>> found = Prediction("right", [], 0, (1, 1), mask, probability, {})
      >>> print(found.mask, found.probability, found.levels)
      [[ True]] [[0.5]] {}

    Attributes:
      sentence: as it was asked.
      words: those that the network read, in order.
      num_unread: int, words after the 20th, which it did not.
      size: (rows, columns) of the image.
      on_object: bool [H, W], the mask on the image as the network sees it.
      seen_probability: float32 [H, W], 0..1, likewise; not changed by DenseCRF.
      seen_levels: level -> float32 [H, W], 0..1, likewise.
      foreign_words: those with letters that the vocabulary's rule does not read.
    """

    sentence: str
    words: List[Word]
    num_unread: int
    size: Tuple[int, int]
    on_object: np.ndarray
    seen_probability: np.ndarray
    seen_levels: Dict[str, np.ndarray]
    foreign_words: Sequence[str] = ()

    @property
    def mask(self) -> np.ndarray:
        """Mask at the image's size: bool [rows, columns], True on the object."""
        return im_processing.restore_mask(self.on_object, *self.size)

    @property
    def probability(self) -> np.ndarray:
        """float32 [rows, columns], 0..1, of each pixel to be on the object."""
        return im_processing.resize_and_crop(self.seen_probability, *self.size)

    @property
    def levels(self) -> Dict[str, np.ndarray]:
        """Level -> float32 [rows, columns], 0..1: what each one alone would answer."""
        return {
            level: im_processing.resize_and_crop(seen, *self.size)
            for level, seen in self.seen_levels.items()
        }


def describe(prediction: Prediction) -> Dict[str, Any]:
    """Describe a prediction, all but its mask.

    Returns:
      sentence: as it was asked.
      area: pixels of the mask, at the image's size.
      box: [left, top, width, height] around the mask, in pixels; None: it is empty.
      mean_probability: 0..1, of the pixels of the mask; None: it is empty.
      words: list of {"text", "known", "class", "weights"}, see `Word`, and only where
        the model has rounds "attention".
      num_unread: words after the 20th.
      foreign_words: those with letters that the vocabulary's rule does not read; only
        where there are any.
    """
    mask = prediction.mask
    area = int(mask.sum())
    probability = float(prediction.probability[mask].mean()) if area else None
    foreign = list(prediction.foreign_words)
    return {
        "sentence": prediction.sentence,
        "area": area,
        "box": box(mask),
        "mean_probability": probability,
        "words": list(map(_describe_word, prediction.words)),
        "num_unread": prediction.num_unread,
        **({"foreign_words": foreign} if foreign else {}),
    }


def _describe_word(word):
    described = {
        "text": word.text,
        "known": word.is_known,
        "class": word.kind,
        "weights": word.weights,
    }
    if word.attention:
        described["attention"] = list(word.attention)
    return described


def box(mask: np.ndarray) -> Optional[List[int]]:
    """Return [left, top, width, height] around a mask, in pixels; None: it is empty.

    Args:
      mask: bool [H, W].
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def run_lengths(mask: np.ndarray) -> Dict[str, Any]:
    """Pack a mask the way COCO's results have it.

    Args:
      mask: bool [H, W].

    Returns:
      {"size": [H, W], "counts": compressed run lengths}.
    """
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": packed["counts"].decode("ascii")}


def read_words(
    sentence: str,
    ids: np.ndarray,
    weights: Optional[np.ndarray],
    classes: Sequence[str],
    unknown: Optional[int] = None,
    rule: str = text_processing.ASCII,
    attention: Optional[np.ndarray] = None,
) -> List[Word]:
    """Return the words of a sentence that the network read.

    Args:
      sentence: any text.
      ids: int32 [T], what it was read as, padded in front with 0.
      weights: float32 [T, K], what the network takes each id for; None: K = 0.
      classes: K names.
      unknown: the id of words that are not in the vocabulary; None: not asked for.
      rule: of the vocabulary, see `text_processing.tokenize`.
      attention: float32 [rounds, T], see `Word`; None: there are no rounds.
    """
    count = np.count_nonzero(ids)
    if weights is None:
        weights = np.zeros([len(ids), 0], np.float32)
    if attention is None:
        attention = np.zeros([0, len(ids)], np.float32)
    tokens = text_processing.tokenize(sentence, rule)[:count]
    rows = zip(ids[-count:], weights[-count:], attention.T[-count:])
    return [
        Word(
            text,
            None if unknown is None else bool(number != unknown),
            dict(zip(classes, map(float, row))),
            tuple(map(float, shares)),
        )
        for text, (number, row, shares) in zip(tokens, rows)
    ]
