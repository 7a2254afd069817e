"""Testing: find the masks of a split and compare them with the true ones."""

import json
import os
import platform
from collections import namedtuple
from typing import Any, Dict, Iterable, Iterator

import numpy as np
import skimage
from tqdm import tqdm

from util import checkpoint, datasets, dense_crf, im_processing, visualize
from util.compat import tf
from util.data_reader import DataReader
from util.errors import UserError
from util.eval_tools import Scores, compute_mask_IU, report
from util.files import whole_file
from util.inference import Predictor

FOREGROUND = 1e-9  # the least logit of a pixel on the object, as published

WITHOUT_CRF, WITH_CRF = "without DenseCRF", "with DenseCRF"

# masks: title of a block of results -> bool [H, W], found for the sample's mask
Result = namedtuple("Result", "number sample masks")


def find_masks(
    predictor: Predictor, samples: Iterable[Dict[str, Any]], crf: bool
) -> Iterator[Result]:
    """Segment samples one after the other.

    Args:
      predictor: the network.
      samples: as `DataReader.read_batch` gives them.
      crf: also refine the masks with DenseCRF.

    Yields:
      A Result for each sample, its masks in the size of the true one.

    Raises:
      UserError: a sample has words that the network does not know.
    """
    for number, sample in enumerate(samples):
        words = sample["text_batch"]
        if words.max() >= predictor.vocab_size:
            raise UserError(
                "sample {} has word {}, but the snapshot knows {} words: it was built "
                "with another vocabulary".format(
                    number, words.max(), predictor.vocab_size
                )
            )
        predictor.set_image(sample["im_batch"])
        logits, probability = predictor.segment(words)
        found = {WITHOUT_CRF: logits >= FOREGROUND}
        if crf:
            found[WITH_CRF] = dense_crf.refine(predictor.image, probability)
        size = sample["mask_batch"].shape
        yield Result(
            number,
            sample,
            {
                title: im_processing.restore_mask(mask, *size)
                for title, mask in found.items()
            },
        )


class Tally:
    """The scores of results, in one pass.

    Attributes:
      scores: dict, title of the block -> Scores.
      samples: list of dict, intersection and union of each sample by title.
    """

    def __init__(self) -> None:
        self.scores: Dict[str, Scores] = {}
        self.samples = []

    @classmethod
    def of(cls, results: Iterable[Result]) -> "Tally":
        """Return the scores of some results."""
        tally = cls()
        for result in results:
            tally.add(result)
        return tally

    def add(self, result: Result) -> None:
        """Compare the masks of one result with the true one."""
        row = {"number": result.number}
        for title, mask in result.masks.items():
            counts = compute_mask_IU(mask, result.sample["mask_batch"])
            self.scores.setdefault(title, Scores()).add(*counts)
            row[title] = dict(zip(("intersection", "union"), counts))
        self.samples.append(row)

    def report(self) -> str:
        """Return the blocks of results, see `eval_tools.report`."""
        return "\n".join(report(scores, title) for title, scores in self.scores.items())

    def as_dict(self) -> Dict[str, Any]:
        """Return the scores by title, as JSON can hold them."""
        return {title: scores.as_dict() for title, scores in self.scores.items()}


def versions() -> Dict[str, str]:
    """Return the versions that results may depend on."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.VERSION,
        "numpy": np.__version__,
        "scikit-image": skimage.__version__,
    }


def run(model_class, args) -> Tally:
    """Test a snapshot on a split, print the results and write them beside it.

    Args:
      model_class: class with the arguments and attributes of `LSTM_model`.
      args: options of `trainval_model.py -m test`.

    Raises:
      UserError: missing or bad samples or snapshot.
    """
    snapshot = checkpoint.find(args.folder, args.dataset, args.iteration)
    folder = datasets.find_batch_dir(args.dataset, args.split, args.data, args.batches)
    prefix = datasets.sample_prefix(args.dataset, args.split)
    pictures = "{}.{}".format(snapshot, args.split)
    tally = Tally()
    with DataReader(folder, prefix, shuffle=False) as reader, Predictor(
        model_class, snapshot
    ) as predictor:
        samples = (reader.read_batch() for _ in range(reader.num_batch))
        results = find_masks(predictor, samples, args.dense_crf)
        for result in tqdm(results, "testing", reader.num_batch, unit="sentence"):
            tally.add(result)
            if args.visualize:
                _draw(pictures, result, tally.samples[-1])
    print(tally.report())
    samples = {"samples": tally.samples} if args.per_sample else {}
    path = write_record(snapshot, args.dataset, args.split, tally, **samples)
    print("results: {}".format(path))
    return tally


def write_record(snapshot: str, dataset: str, split: str, tally, **more) -> str:
    """Write the results as JSON beside the snapshot and return the path.

    Args:
      snapshot: path of the snapshot.
      dataset, split: what it was tested on.
      tally: the Tally of all results.
      **more: what else to write, as JSON can hold it.
    """
    path = "{}.{}.json".format(snapshot, split)
    record = {
        "data_set": dataset,
        "split": split,
        "snapshot": snapshot,
        "versions": versions(),
        "results": tally.as_dict(),
    }
    with whole_file(path, "w") as file:
        json.dump(dict(record, **more), file, indent=2)
        file.write("\n")
    return path


def best_mask(result: Result) -> np.ndarray:
    """Return bool [H, W], the refined mask where there is one."""
    return result.masks.get(WITH_CRF, result.masks[WITHOUT_CRF])


def _draw(folder, result, counts):
    """Write picture, true and found mask and sentence of one result."""
    size = result.sample["mask_batch"].shape
    title = WITH_CRF if WITH_CRF in result.masks else WITHOUT_CRF
    picture = visualize.result_picture(
        result.sample["im_batch"],
        result.sample["mask_batch"],
        best_mask(result),
        result.sample["sent_batch"][0],
        "{}: {intersection} of {union} pixels, picture {}x{}".format(
            title, size[1], size[0], **counts[title]
        ),
    )
    visualize.save_png(
        os.path.join(folder, "{:06d}.png".format(result.number)), picture
    )
