"""Testing: find the masks of a split and compare them with the true ones."""

import collections
import contextlib
import itertools
import json
import os
from typing import (
    Any,
    Dict,
    Hashable,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
from tqdm import tqdm

from util.core.errors import UserError
from util.core.files import whole_file
from util.data import datasets, im_processing
from util.data.data_reader import DataReader
from util.data.samples import open_samples
from util.evaluation.eval_tools import (
    WITH_CRF,
    WITHOUT_CRF,
    Scores,
    compute_mask_IU,
    report,
)
from util.graph import checkpoint
from util.graph.session import versions
from util.inference import dense_crf, visualize
from util.inference.predictor import Predictor, is_on_object

GROUP = 24  # samples of an image that are held at once

# masks: title of a block of results -> bool [H, W], found for the sample's mask
Result = collections.namedtuple("Result", "number sample masks")


def find_masks(
    predictor: Predictor,
    samples: Iterable[Tuple[int, Dict[str, Any]]],
    workers: Optional[dense_crf.Workers] = None,
) -> Iterator[Result]:
    """Segment samples; neighbours that show the same image together.

    Args:
      predictor: the network.
      samples: (number, sample as `DataReader.read_batch` gives it).
      workers: also refine the masks with DenseCRF, beside the network.

    Yields:
      A Result for each sample in the order of `samples`, its masks in the size of the
      true one.

    Raises:
      UserError: a sample has words that the network does not know, or a worker died.
    """
    if workers is None:
        for group in by_image(samples):
            found, _ = _segment(predictor, group)
            yield from _results(group, {WITHOUT_CRF: found})
        return
    ahead = collections.deque()
    for group in by_image(samples):
        found, probability = _segment(predictor, group)
        refined = workers.submit(predictor.image, probability)
        ahead.append((group, found, refined))
        while len(ahead) > 2 * workers.jobs or ahead and ahead[0][2].done():
            yield from _refined(*ahead.popleft())
    while ahead:
        yield from _refined(*ahead.popleft())


Group = List[Tuple[int, Dict[str, Any]]]


def by_image(samples: Iterable[Tuple[int, Dict[str, Any]]]) -> Iterator[Group]:
    """Gather neighbours that show the same image, at most GROUP of them."""
    group = []
    for number, sample in samples:
        if group and not (
            len(group) < GROUP
            and np.array_equal(sample["im_batch"], group[0][1]["im_batch"])
        ):
            yield group
            group = []
        group.append((number, sample))
    if group:
        yield group


def _segment(predictor, group):
    """Return bool and float32 [B, H, W], on the image as the network sees it."""
    sentences = [sample["text_batch"] for _, sample in group]
    for (number, _), words in zip(group, sentences):
        if words.max() >= predictor.vocab_size:
            raise UserError(
                f"sample {number} has word {words.max()}, but the snapshot knows "
                f"{predictor.vocab_size} words: it was built "
                "with another vocabulary"
            )
    predictor.set_image(group[0][1]["im_batch"])
    found = predictor.find(np.stack(sentences))
    return is_on_object(found.logits), found.probability


def _refined(group, found, refined):
    """Yield the results of a group once its refined masks are there."""
    numbers = [number for number, _ in group]
    name = f"sample {numbers[0]}"
    if len(numbers) > 1:
        name = "one of the samples " + ", ".join(map(str, numbers))
    refined = dense_crf.Workers.result(refined, name)
    yield from _results(group, {WITHOUT_CRF: found, WITH_CRF: refined})


def _results(group, masks):
    for place, (number, sample) in enumerate(group):
        size = sample["mask_batch"].shape
        yield Result(
            number,
            sample,
            {
                title: im_processing.restore_mask(found[place], *size)
                for title, found in masks.items()
            },
        )


class Results:
    """The scores of results, which may come in any order.

    Attributes:
      samples: list of dict, as JSON can hold it: number; sentence; words, how many of
        them the network read; image, its name; height and width of the image and
        area of the object, in pixels; and by title intersection and union.
    """

    def __init__(self) -> None:
        self.samples = []

    @classmethod
    def of(cls, results: Iterable[Result]) -> "Results":
        """Return the scores of some results."""
        tally = cls()
        for result in results:
            tally.add(result)
        return tally

    def add(self, result: Result) -> None:
        """Compare the masks of one result with the true one."""
        sample = result.sample
        height, width = sample["mask_batch"].shape
        row = {
            "number": result.number,
            "sentence": str(sample["sent_batch"][0]),
            "words": int(np.count_nonzero(sample["text_batch"])),
            "image": str(sample["im_name_batch"][0]),
            "height": height,
            "width": width,
            "area": int(np.count_nonzero(sample["mask_batch"])),
        }
        for title, mask in result.masks.items():
            counts = compute_mask_IU(mask, sample["mask_batch"])
            row[title] = dict(zip(("intersection", "union"), counts))
        self.samples.append(row)

    @property
    def scores(self) -> Dict[str, Scores]:
        """Title of the block -> Scores, the samples in the order of their numbers."""
        self.samples.sort(key=lambda row: row["number"])
        scores = {}
        for row in self.samples:
            for title in row.keys() & {WITHOUT_CRF, WITH_CRF}:
                scores.setdefault(title, Scores()).add(**row[title])
        return {
            title: scores[title] for title in (WITHOUT_CRF, WITH_CRF) if title in scores
        }

    def report(self) -> str:
        """Return the blocks of results, see `eval_tools.report`."""
        return "\n".join(report(scores, title) for title, scores in self.scores.items())

    def as_dict(self) -> Dict[str, Any]:
        """Return the scores by title, as JSON can hold them."""
        return {title: scores.as_dict() for title, scores in self.scores.items()}


def run(model_class, args) -> Results:
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
    images = f"{snapshot}.{args.split}"
    order = group_by_image(open_samples(folder, prefix).images())
    tally = Results()
    with contextlib.ExitStack() as stack:
        predictor = Predictor(model_class, snapshot, precision=args.precision)
        stack.enter_context(predictor)
        workers = None
        if args.dense_crf:
            workers = stack.enter_context(dense_crf.Workers(args.crf_jobs))
        reader = DataReader(folder, prefix, shuffle=False, order=order)
        stack.enter_context(reader)
        samples = ((number, reader.read_batch()) for number in order)
        results = find_masks(predictor, samples, workers)
        for result in tqdm(results, "testing", len(order), unit="sentence"):
            tally.add(result)
            if args.visualize:
                _draw(images, result, tally.samples[-1])
    print(tally.report())
    samples = {"samples": tally.samples} if args.per_sample else {}
    path = write_record(snapshot, args.dataset, args.split, tally, **samples)
    print(f"results: {path}")
    return tally


def quick_scores(predictor: Predictor, args) -> Dict[str, float]:
    """Test a part of a split without DenseCRF, in the middle of a training run.

    Args:
      predictor: the network.
      args: options of `trainval_model.py -m train`; `eval_samples` sentences, of the
        first images, are tested.

    Returns:
      Name of each score -> its value, see `eval_tools.Scores`; and `samples`.
    """
    folder = datasets.find_batch_dir(
        args.dataset, args.eval_set, args.data, args.batches
    )
    prefix = datasets.sample_prefix(args.dataset, args.eval_set)
    order = group_by_image(open_samples(folder, prefix).images())
    order = order[: args.eval_samples]
    with DataReader(folder, prefix, shuffle=False, order=order) as reader:
        samples = ((number, reader.read_batch()) for number in order)
        found = find_masks(predictor, samples)
        bar = tqdm(found, "evaluating", len(order), unit="sentence", disable=None)
        tally = Results.of(bar)
    scores = tally.scores[WITHOUT_CRF].as_dict()
    return dict(scores, samples=scores.pop("count"))


def group_by_image(images: Sequence[Hashable]) -> List[int]:
    """Order samples such that those of an image are neighbours.

    Args:
      images: what each sample shows, see `DataReader.images`.

    Returns:
      The numbers of all samples; images in the order of their first sample.
    """
    groups = collections.OrderedDict()
    for number, image in enumerate(images):
        groups.setdefault(image, []).append(number)
    return list(itertools.chain(*groups.values()))


def write_record(snapshot: str, dataset: str, split: str, tally, **more) -> str:
    """Write the results as JSON beside the snapshot and return the path.

    Args:
      snapshot: path of the snapshot.
      dataset, split: what it was tested on.
      tally: the Results of all results.
      **more: what else to write, as JSON can hold it.
    """
    path = f"{snapshot}.{split}.json"
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
    """Write image, true and found mask and sentence of one result."""
    size = result.sample["mask_batch"].shape
    title = WITH_CRF if WITH_CRF in result.masks else WITHOUT_CRF
    image = visualize.result_image(
        result.sample["im_batch"],
        result.sample["mask_batch"],
        best_mask(result),
        result.sample["sent_batch"][0],
        "{}: {intersection} of {union} pixels, image {}x{}".format(
            title, size[1], size[0], **counts[title]
        ),
    )
    visualize.save_png(os.path.join(folder, f"{result.number:06d}.png"), image)
