"""Sentences of a test segmented again, to be looked at."""

from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np

from util.core.errors import UserError
from util.data import datasets, text_processing
from util.data.im_processing import restore_mask
from util.data.samples import open_samples
from util.evaluation.breakdown import Row, choose, last_title
from util.evaluation.eval_tools import WITH_CRF, WITHOUT_CRF, Scores, compute_mask_IU
from util.graph import checkpoint
from util.inference import dense_crf
from util.inference.predictor import CLASSES, Predictor, is_on_object

NUMBER = 4  # of each kind
NEAR = 0.01  # IoU: what may differ between two runs of the same network


class SeenWord(NamedTuple):
    """A word of a sentence.

    Attributes:
      text: in lower case.
      weights: class -> probability, 0..1; None: the network did not read it.
    """

    text: str
    weights: Optional[Dict[str, float]]


class Case(NamedTuple):
    """One sentence with all that can be seen of it.

    Attributes:
      row: of the record, see `evaluate.Results`.
      image: uint8 [H, W, 3], RGB.
      true: bool [H, W], the true mask.
      masks: title -> bool [H, W], as they are found now.
      words: of the sentence, in order.
      ious: title -> IoU, 0..1, of these masks.
    """

    row: Row
    image: np.ndarray
    true: np.ndarray
    masks: Dict[str, np.ndarray]
    words: List[SeenWord]
    ious: Dict[str, float]

    @property
    def is_as_recorded(self) -> bool:
        """Whether these masks are as good as those of the test."""
        return all(
            abs(iou - _iou(**self.row[title])) <= NEAR
            for title, iou in self.ious.items()
        )


def find(model_class, record: Dict[str, Any], args) -> Dict[str, List[Case]]:
    """Choose sentences of a record and segment them again.

    Args:
      model_class: class with the arguments and attributes of `LSTM_model`.
      record: of a test, with samples.
      args: options of `trainval_model.py -m report`.

    Returns:
      "best", "worst" and "random" -> cases.

    Raises:
      UserError: the snapshot or the samples are not there any more, or are others.
    """
    snapshot = checkpoint.find(args.folder, args.dataset, args.iteration)
    folder = datasets.find_batch_dir(args.dataset, args.split, args.data, args.batches)
    prefix = datasets.sample_prefix(args.dataset, args.split)
    samples = open_samples(folder, prefix)
    chosen = choose(record["samples"], last_title(record), NUMBER)
    read = {
        row["number"]: _sample(samples, row, folder)
        for rows in chosen.values()
        for row in rows
    }
    titles = record["results"]
    with Predictor(model_class, snapshot, precision=args.precision) as predictor:
        return {
            kind: [segment(predictor, read[row["number"]], row, titles) for row in rows]
            for kind, rows in chosen.items()
        }


def _sample(samples, row, folder):
    """Read a sample, and refuse one that the test did not see."""
    if row["number"] < len(samples):
        sample = samples.read(row["number"])
        size = (row["height"], row["width"])
        if (sample["sent_batch"][0], sample["mask_batch"].shape) == (
            row["sentence"],
            size,
        ):
            return sample
    raise UserError(
        "the samples in {} are not those of the test (number {} is another)".format(
            folder, row["number"]
        )
    )


def segment(predictor, sample: Dict[str, Any], row: Row, titles) -> Case:
    """Segment one sample.

    Args:
      predictor: the network.
      sample: as `samples.read_sample` gives it.
      row: of the record.
      titles: which masks to find.

    Raises:
      UserError: the network does not know a word's id, or pydensecrf is missing.
    """
    ids, true = sample["text_batch"], sample["mask_batch"]
    if ids.max() >= predictor.vocab_size:
        raise UserError(
            f"the snapshot knows {predictor.vocab_size} words, the sample has word "
            f"{ids.max()}: it is not the "
            "snapshot of the test"
        )
    predictor.set_image(sample["im_batch"])
    found = predictor.find(ids[np.newaxis])
    seen = {WITHOUT_CRF: is_on_object(found.logits[0])}
    if WITH_CRF in titles:
        seen[WITH_CRF] = dense_crf.refine(predictor.image, found.probability[0])
    masks = {title: restore_mask(mask, *true.shape) for title, mask in seen.items()}
    ious = {title: _iou(*compute_mask_IU(mask, true)) for title, mask in masks.items()}
    words = seen_words(row["sentence"], found.word_weights[0], np.count_nonzero(ids))
    return Case(row, sample["im_batch"], true, masks, words, ious)


def seen_words(sentence: str, weights: np.ndarray, number: int) -> List[SeenWord]:
    """Say what the network takes the words of a sentence for.

    Args:
      sentence: any text.
      weights: float32 [T, 4], of CLASSES; those of the words stand last.
      number: of words that the network read.
    """
    tokens = text_processing.tokenize(sentence)
    read = weights[len(weights) - number :]
    rows = [dict(zip(CLASSES, map(float, row))) for row in read]
    rows += [None] * (len(tokens) - number)
    return [SeenWord(token, row) for token, row in zip(tokens, rows)]


def _iou(intersection, union):
    scores = Scores()
    scores.add(intersection, union)
    return scores.mean_iou
