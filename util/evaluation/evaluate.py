"""Testing: find the masks of a split and compare them with the true ones."""

import collections
import contextlib
import itertools
import os
import re
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
from tqdm import tqdm

from util.core.errors import UserError
from util.core.files import write_json
from util.core.parallel import prefetch
from util.core.surroundings import number_of_devices
from util.data import datasets, im_processing, text_processing
from util.data.data_reader import DataReader
from util.data.samples import group_by_image
from util.evaluation import bootstrap
from util.evaluation.eval_tools import (
    BASE,
    TERMS,
    TITLES,
    WITH_CRF,
    WITHOUT_CRF,
    Scores,
    compute_mask_IU,
    counted,
    report,
    report_with_no_targets,
    with_titles,
)
from util.graph import checkpoint, towers
from util.graph.session import versions
from util.inference import dense_crf, visualize
from util.inference.predictor import Predictor, check_samples, is_on_object, rule_of

GROUP = 24  # samples of an image that are held at once
ROUND = re.compile(r"round_[0-9]+")  # a level that a round before the last one answers

Sample = Dict[str, Any]  # as `DataReader.read_batch` gives it
Numbered = Tuple[int, Sample]


class Result(NamedTuple):
    """What was found for a sample.

    Attributes:
      number: of the sample.
      sample: as it was read.
      masks: WITHOUT_CRF, also WITH_CRF and BASE -> bool [H, W], in the size of the true
        mask.
      word_weights: float32 [T, 4], see `predictor.Outputs`.
      attention: float32 [rounds, T], likewise.
      levels: name -> float32 [H, W], likewise, where the model has rounds.
    """

    number: int
    sample: Sample
    masks: Dict[str, np.ndarray]
    word_weights: Optional[np.ndarray] = None
    attention: Optional[np.ndarray] = None
    levels: Dict[str, np.ndarray] = {}  # noqa: RUF012


def run(args) -> "Results":
    """Test a snapshot on a split, print the results and write them next to it.

    Args:
      args: options of `trainval_model.py -m test`.

    Raises:
      UserError: missing or bad samples or snapshot.
    """
    snapshot = checkpoint.find(args.folder, args.dataset, args.iteration)
    dataset = datasets.get(args.dataset, args.data, args.batches)
    check_samples(snapshot, dataset, args.split)
    weights = checkpoint.fingerprint(snapshot)  # a training may replace the best one
    images, results = f"{snapshot}.{args.split}", Results(args.empty_below)
    with contextlib.ExitStack() as stack:
        order, samples = stack.enter_context(reading(dataset, args.split))
        how = {"precision": args.precision, "xla": args.xla}
        predictors = [
            stack.enter_context(
                Predictor(snapshot, model=args.model, device=device, **how)
            )
            for device in towers.local_devices(number_of_devices(args.gpus))
        ]
        workers = None
        if args.dense_crf:
            workers = dense_crf.Workers(args.crf_jobs, args.crf_backend)
            stack.enter_context(workers)
        found = find_masks(predictors, samples, workers)
        stack.enter_context(contextlib.closing(found))
        for result in tqdm(found, "testing", len(order), unit="sentence"):
            result = as_counted(result, args.empty_below)
            row = results.add(result)
            if args.visualize:
                _draw(images, result, row)
    print(results.report(dataset.no_target))
    sentences = [row["sentence"] for row in results.samples]
    text_processing.warn_of_foreign_words(sentences, rule_of(snapshot, args.data))
    intervals = bootstrap.summary(results.samples)
    path = write_record(
        snapshot,
        args.dataset,
        args.split,
        results,
        args.per_sample,
        model=predictors[0].model,
        options=predictors[0].options,
        empty_below=args.empty_below,
        weights=weights,
        intervals=intervals and with_titles(intervals),
        **how,
    )
    print(f"results: {path}\n({TERMS})")
    if intervals:
        print(bootstrap.describe(intervals))
    return results


def quick_scores(
    predictor: Predictor, dataset, split: str, most: Optional[int] = None
) -> Dict[str, float]:
    """Test a part of a split without DenseCRF, in the middle of a training run.

    Args:
      predictor: the network.
      dataset: a `datasets.Dataset`.
      split: one of its splits.
      most: sentences to test, those of the first images; None: all.

    Returns:
      Name of each score -> its value, see `eval_tools.Scores`; and `samples`. With a
      base score also its `base_overall_iou` and `base_mean_iou`.
    """
    with reading(dataset, split, most) as (order, samples):
        found = find_masks([predictor], samples)
        bar = tqdm(found, "evaluating", len(order), unit="sentence", disable=None)
        results = Results.of(bar)
    scores = results.scores[WITHOUT_CRF].as_dict()
    scores["samples"] = scores.pop("count")
    if BASE in results.scores:
        base = results.scores[BASE]
        scores.update(base_overall_iou=base.overall_iou, base_mean_iou=base.mean_iou)
    return scores


# --- Samples in the order in which they are tested


@contextlib.contextmanager
def reading(
    dataset, split: str, most: Optional[int] = None
) -> Iterator[Tuple[List[int], Iterator[Numbered]]]:
    """Read the samples of a split, those of an image one after the other.

    Args:
      dataset: a `datasets.Dataset`.
      split: one of its splits.
      most: samples to read; None: all.

    Yields:
      The numbers of the samples, and an iterator of (number, sample).

    Raises:
      UserError: missing or bad samples.
    """
    order = group_by_image(dataset.samples(split).images())[:most]
    folder, prefix = dataset.sample_dir(split), dataset.prefix(split)
    with DataReader(folder, prefix, shuffle=False, order=order) as reader:
        yield order, ((number, reader.read_batch()) for number in order)


# --- Masks


def find_masks(
    predictors: Sequence[Predictor],
    samples: Iterable[Numbered],
    workers: Optional[dense_crf.Workers] = None,
) -> Iterator[Result]:
    """Segment samples; neighbours that show the same image together.

    Args:
      predictors: the network, and replicas of it on other devices; images are dealt out
        among them.
      samples: (number, sample).
      workers: also refine the masks with DenseCRF, while the network runs on.

    Yields:
      A Result for each sample, in the order of `samples`.

    Raises:
      UserError: a sample has words that the network does not know, or a worker died.
    """
    ahead = _segment_ahead(predictors, samples, probability=workers is not None)
    with contextlib.closing(ahead) as segmented:
        if workers is None:
            for group, _, found in segmented:
                yield from _results(group, found)
            return
        waiting = collections.deque()
        for group, image, found in segmented:
            refined = workers.submit(image, found.probability)
            waiting.append((group, found, refined))
            while len(waiting) > 2 * workers.jobs or waiting and waiting[0][2].done():
                yield from _refined(workers, *waiting.popleft())
        while waiting:
            yield from _refined(workers, *waiting.popleft())


Group = List[Numbered]


def neighbours(samples: Iterable[Numbered]) -> Iterator[Group]:
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


def runs_of(groups: Iterable[Group], most: int) -> Iterator[List[Group]]:
    """Gather neighbours for a run of the network.

    Args:
      groups: samples about one image each.
      most: sentences of a run; a group of more is a run by itself.
    """
    run, number = [], 0
    for group in groups:
        if run and number + len(group) > most:
            yield run
            run, number = [], 0
        run.append(group)
        number += len(group)
        if number >= most:  # whatever comes, and be it an error
            yield run
            run, number = [], 0
    if run:
        yield run


def _segment_ahead(predictors, samples, probability):
    """Yield (group, its image as the network sees it, Outputs), computed ahead.

    Levels are fetched only where the model has rounds: `Result` has no others.

    While a network runs, a second thread makes its next input, and the caller goes on
    with what was found before.
    """

    def segment(dealt):
        predictor, run = dealt
        images = [predictor.fit(group[0][1]["im_batch"]) for group in run]
        ids = [_ids(predictor, group) for group in run]
        shows = predictor.rounds > 0
        found = predictor.find_all(images, ids, shows, probability)
        return list(zip(run, images, found))

    runs = runs_of(neighbours(samples), predictors[0].together)
    dealt, ahead = zip(itertools.cycle(predictors), runs), 2 * len(predictors)
    with contextlib.closing(prefetch(segment, dealt, ahead, ahead)) as segmented:
        for run in segmented:
            yield from run


def _ids(predictor, group):
    """Return int32 [B, T], the sentences of a group."""
    sentences = [sample["text_batch"] for _, sample in group]
    for (number, _), words in zip(group, sentences):
        if words.max() >= predictor.vocab_size:
            raise UserError(
                f"sample {number} has word {words.max()}, but the snapshot knows "
                f"{predictor.vocab_size} words: it was built with another vocabulary"
            )
    return np.stack(sentences)


def _refined(workers, group, found, refined):
    """Yield the results of a group once its refined masks are there."""
    numbers = [number for number, _ in group]
    name = f"sample {numbers[0]}"
    if len(numbers) > 1:
        name = f"one of the samples {', '.join(map(str, numbers))}"
    yield from _results(group, found, workers.result(refined, name))


def _results(group, found, refined=None):
    """Yield the Result of each sample of a group."""
    masks = {WITHOUT_CRF: is_on_object(found.logits)}
    if refined is not None:
        masks[WITH_CRF] = refined
    if found.base_logits is not None:
        masks[BASE] = is_on_object(found.base_logits)
    for place, (number, sample) in enumerate(group):
        size = sample["mask_batch"].shape
        restored = {
            kind: im_processing.restore_mask(some[place], *size)
            for kind, some in masks.items()
        }
        yield Result(
            number,
            sample,
            restored,
            None if found.word_weights is None else found.word_weights[place],
            None if found.attention is None else found.attention[place],
            {name: level[place] for name, level in found.levels.items()},
        )


def as_counted(result: Result, empty_below: int) -> Result:
    """Return a result whose masks of few pixels are empty, see `eval_tools.counted`."""
    masks = {kind: counted(mask, empty_below) for kind, mask in result.masks.items()}
    return result._replace(masks=masks)


def with_masks_of_rounds(result: Result) -> Result:
    """Put the masks of the rounds before the answer in the place of the levels.

    Args:
      result: a level `round_N` is the sigmoid of the score of round N.

    Returns:
      A Result without levels; its masks have `round_1`, ... too, as `Results.add` and
      `breakdown.scores` take them.
    """
    size = result.sample["mask_batch"].shape
    masks = {
        name: im_processing.restore_mask(level > 0.5, *size)
        for name, level in result.levels.items()
        if ROUND.fullmatch(name)
    }
    return result._replace(masks={**result.masks, **masks}, levels={})


def best_mask(result: Result) -> np.ndarray:
    """Return bool [H, W], the refined mask where there is one."""
    return result.masks.get(WITH_CRF, result.masks[WITHOUT_CRF])


def _draw(folder, result, row):
    """Write image, true and found mask and sentence of one result."""
    kind = WITH_CRF if WITH_CRF in result.masks else WITHOUT_CRF
    counts = row[kind]
    image = visualize.result_image(
        result.sample["im_batch"],
        result.sample["mask_batch"],
        best_mask(result),
        row["sentence"],
        f"{TITLES[kind]}: {counts['intersection']} of {counts['union']} pixels, image "
        f"{row['width']}x{row['height']}",
    )
    visualize.save_png(os.path.join(folder, f"{result.number:06d}.png"), image)


# --- Scores


class Results:
    """The scores of results, which may come in any order.

    Args:
      empty_below: int, pixels; what `as_counted` was told, for the report.
    """

    def __init__(self, empty_below: int = 0) -> None:
        self._rows = []
        self._empty_below = empty_below

    @classmethod
    def of(cls, results: Iterable[Result]) -> "Results":
        """Return the scores of some results."""
        gathered = cls()
        for result in results:
            gathered.add(result)
        return gathered

    def add(self, result: Result) -> Dict[str, Any]:
        """Compare the masks of one result with the true one; return its row."""
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
        for kind, mask in result.masks.items():
            counts = compute_mask_IU(mask, sample["mask_batch"])
            row[kind] = dict(zip(("intersection", "union"), counts))
        self._rows.append(row)
        return row

    @property
    def samples(self) -> List[Dict[str, Any]]:
        """A row for each sample, by number, as JSON can hold it.

        number; sentence; words, how many of them the network read; image, its name;
        height and width of the image and area of the object, in pixels; and for
        WITHOUT_CRF, also WITH_CRF and BASE, a dict of intersection and union, likewise.
        """
        return sorted(self._rows, key=lambda row: row["number"])

    @property
    def scores(self) -> Dict[str, Scores]:
        """WITHOUT_CRF, also WITH_CRF and BASE -> Scores, the samples by number."""
        scores = {}
        for kind in TITLES:
            for row in self.samples:
                if kind in row:
                    scores.setdefault(kind, Scores()).add(**row[kind], area=row["area"])
        return scores

    def report(self, no_target: bool = False) -> str:
        """Return the blocks of results, see `eval_tools.report`.

        Args:
          no_target: sentences of this data set may have no target; where some have
            none, the block is that of gRefCOCO.
        """
        return "\n".join(
            report_with_no_targets(scores, kind, self._empty_below)
            if no_target and scores.num_no_target
            else report(scores, kind, self._empty_below)
            for kind, scores in self.scores.items()
        )


def write_record(
    snapshot: str,
    dataset: str,
    split: str,
    results: Results,
    per_sample: bool = False,
    *,
    model: str,
    options: Dict[str, Any],
    **more: Any,
) -> str:
    """Write results as JSON next to the snapshot and return the path.

    `breakdown.read_record` reads it.

    Args:
      snapshot: path of the snapshot.
      dataset, split: names of what it was tested on.
      results: of all samples.
      per_sample: also list `results.samples`.
      model, options: see `Predictor`; they say which published figures are of the same.
      **more: what else to write, as JSON can hold it.

    Raises:
      UserError: it cannot be written.
    """
    scores = {kind: scores.as_dict() for kind, scores in results.scores.items()}
    record = {
        "data_set": dataset,
        "split": split,
        "snapshot": snapshot,
        "model": model,
        "options": options,
        "versions": versions(),
        "results": with_titles(scores),
    }
    if per_sample:
        record["samples"] = [with_titles(row) for row in results.samples]
    path = f"{snapshot}.{split}.json"
    write_json(path, dict(record, **more))
    return path
