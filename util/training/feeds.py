"""From samples on disk to what is fed to the network, step by step.

A sample on its way to a step has three more entries than `samples.read_sample` gives:
`number`, its own in the folder; `position`, how many samples the reader had given with
it, from which another reader continues; `skipped`, how many damaged ones it left out.
"""

import contextlib
import functools
import itertools
from typing import (
    Any,
    Dict,
    Hashable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np

from util.core.errors import UserError
from util.core.parallel import prefetch
from util.data import im_processing, text_processing, vocabularies
from util.data.data_reader import EVERYTHING, DataReader, Shard
from util.data.datasets import Dataset
from util.data.samples import group_by_image, open_samples
from util.training import feature_cache

NUM_THREADS = 4  # that read cached features

Sample = Dict[str, Any]


class Feed(NamedTuple):
    """What a step is fed, and the samples that it is from.

    Attributes:
      values: tensor -> array.
      samples: in the order of the step.
    """

    values: Dict
    samples: List[Sample]


class TrainingSet:
    """The samples of a split, and what network they fit.

    Args:
      dataset: bound to its folders.
      split: one of its splits.
      skip_damaged: see `fitting_samples`.
      sentences_per_image: K; up to so many sentences of an image come one after the
        other, so that a step can compute once what they share.
      remembered_bytes: see `data_reader.DataReader`.

    Attributes:
      dataset, split, sentences_per_image: the arguments.
      folder: where the samples lie.
      number: int, how many there are.
      rows, columns: of the network's input, read from the first one.
      vocab_size: of the network.

    Raises:
      UserError: no samples, those of another vocabulary, or none of the size of a
        network's input.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        skip_damaged: bool = False,
        sentences_per_image: int = 1,
        remembered_bytes: int = 0,
    ) -> None:
        self.dataset, self.split = dataset, split
        self.folder, self._prefix = dataset.sample_dir(split), dataset.prefix(split)
        self.vocab_size = text_processing.vocabulary_size(dataset.vocabulary_file)
        vocabularies.check_samples(self.folder, dataset.vocabulary_file)
        samples = open_samples(self.folder, self._prefix)
        self.number, self._skip_damaged = len(samples), skip_damaged
        self._remembered_bytes = remembered_bytes
        self.rows, self.columns = samples.read(0)["im_batch"].shape[:2]
        if self.rows % im_processing.STRIDE or self.columns % im_processing.STRIDE:
            raise UserError(
                f"{samples.path(0)} shows an image of {self.columns}x{self.rows}, not "
                "of a network's input size: train on a split with train in its name"
            )
        self.sentences_per_image, self._groups = sentences_per_image, None
        if sentences_per_image > 1:
            self._groups = groups_of_images(samples.images(), sentences_per_image)

    @property
    def form(self) -> Tuple[int, int, int]:
        """(rows, columns, words) of a sample."""
        return self.rows, self.columns, text_processing.MAX_WORDS

    def words(self) -> List[str]:
        """Return the vocabulary."""
        return text_processing.read_words(self.dataset.vocabulary_file)

    def samples(
        self, seed: int, begin: int = 0, shard: Shard = EVERYTHING
    ) -> Iterator[Sample]:
        """Yield samples for ever; arguments as for `DataReader`."""
        reader = DataReader(
            self.folder,
            self._prefix,
            seed=seed,
            begin=begin,
            shard=shard,
            groups=self._groups,
            remembered_bytes=self._remembered_bytes,
        )
        size = self.rows, self.columns, self.vocab_size
        with reader:
            yield from fitting_samples(reader, *size, self._skip_damaged)


def groups_of_images(images: Sequence[Hashable], most: int) -> List[List[int]]:
    """Group samples by their images.

    Args:
      images: of each sample, see `samples.open_samples`.
      most: samples of a group; an image with more has several groups.

    Returns:
      The numbers of the samples of each group.

    Example:
      >>> groups_of_images(["a", "b", "a", "a"], 2)
      [[0, 2], [3], [1]]
    """
    order = group_by_image(images)
    groups = []
    for _, of_image in itertools.groupby(order, lambda number: images[number]):
        numbers = list(of_image)
        groups += [numbers[n : n + most] for n in range(0, len(numbers), most)]
    return groups


def fitting_samples(
    reader: DataReader,
    rows: int,
    columns: int,
    vocab_size: int,
    skip_damaged: bool = False,
) -> Iterator[Sample]:
    """Yield samples for ever.

    Args:
      reader: where they come from.
      rows, columns, vocab_size: of the network.
      skip_damaged: report and leave out samples that cannot be read or do not fit.

    Raises:
      UserError: a sample is damaged or does not fit the network; or all are.
    """
    skipped = in_a_row = 0
    while True:
        try:
            sample = reader.read_batch()
            _check_fits(sample, rows, columns, vocab_size)
        except UserError as error:
            in_a_row += 1
            if not skip_damaged or in_a_row == reader.num_batch:
                raise
            skipped += 1
            print(f"skipped: {error}", flush=True)
            continue
        in_a_row = 0
        yield dict(
            sample, number=reader.number, position=reader.position, skipped=skipped
        )


def _check_fits(sample, rows, columns, vocab_size):
    sentence = sample["sent_batch"][0]
    height, width = sample["im_batch"].shape[:2]
    if (height, width) != (rows, columns):
        raise UserError(
            f"the sample of {sentence!r} is {width}x{height} pixels, the first one "
            f"{columns}x{rows}: train on a "
            "split with train in its name, or build its samples again"
        )
    largest = sample["text_batch"].max()
    if largest >= vocab_size:
        raise UserError(
            f"the sample of {sentence!r} has word {largest}, but the vocabulary has "
            f"{vocab_size} words: "
            "build the samples again"
        )


class Group(NamedTuple):
    """Sentences about one image that stand together in a step.

    Attributes:
      samples: at least one.
      device: number of the one that computes them.
      is_last: whether the step ends with it.
    """

    samples: List[Sample]
    device: int
    is_last: bool

    @property
    def image(self) -> np.ndarray:
        """uint8 [H, W, 3], RGB."""
        return self.samples[0]["im_batch"]


def feeds(
    model, samples: Iterator[Sample], cache: Optional[feature_cache.Cache] = None
) -> Iterator[Feed]:
    """Yield what to feed for each step, for ever.

    Args:
      model: a `models.base.Model`. Where it is grouped, neighbours about one image
        share it.
      samples: of `fitting_samples`; as many as the model's batch make a step.
      cache: gives the features of the images, in place of the images, which are fed
        only where the head reads them as well.
    """
    groups = step_groups(model, samples)
    if cache is None:
        for step, images in _steps((group, group.image) for group in groups):
            yield _feed(model, step, _image_feed(model, images))
        return

    def look_up(group):
        return group, cache.look_up(group.image)

    depth = model.words.shape.as_list()[0] + NUM_THREADS
    with contextlib.closing(prefetch(look_up, groups, depth, NUM_THREADS)) as ready:
        for step, lookups in _steps(ready):
            images = cache.feed(lookups)
            if model.reads_image:
                images.update(_image_feed(model, [group.image for group in step]))
            yield _feed(model, step, images)


def staged(session, model, steps: Iterator[Feed]) -> Iterator[Feed]:
    """Put what is large of each step on the device before the step is yielded.

    Each is to be taken by a training step, one after the other; what is left of an
    earlier iterator is dropped.

    Args:
      session: of the model's graph.
      model: a `models.base.Model`; where it is not staged nothing changes.
      steps: of `feeds`, without a cache.
    """
    if model.waiting:
        session.run(model.clear_stage)
    for step in steps:
        values = dict(step.values)
        puts = {place: values.pop(x) for x, place in model.waiting.items()}
        if puts:
            session.run(model.stage, puts)
        yield step._replace(values=values)


def step_groups(model, samples: Iterator[Sample]) -> Iterator[Group]:
    """Cut a stream of samples into steps, and each device's part of one into groups.

    Args:
      as for `feeds`; where the samples end, so do the groups.
    """
    devices = len(model.options.towers) or 1
    part = model.words.shape.as_list()[0] // devices
    for device in itertools.cycle(range(devices)):
        own = list(itertools.islice(samples, part))
        if not own:
            return
        groups = [[sample] for sample in own]
        if model.options.grouped:
            groups = functools.reduce(_join, own, [])
        for number, group in enumerate(groups, 1):
            yield Group(group, device, device + 1 == devices and number == len(groups))


def _join(groups, sample):
    """Add a sample to the last group, or to a new one where the image is another."""
    if groups and np.array_equal(groups[-1][0]["im_batch"], sample["im_batch"]):
        groups[-1].append(sample)
    else:
        groups.append([sample])
    return groups


def _steps(pairs):
    """Yield the groups of a step, and what stands beside each; for ever."""
    step = []
    for group, image in pairs:
        step.append((group, image))
        if group.is_last:
            yield tuple(zip(*step))
            step = []


def _image_feed(model, images):
    return {model.im: im_processing.to_network_input(np.stack(images))}


def _feed(model, groups, images):
    """Return the feed of a step.

    Args:
      groups: of the step.
      images: what is fed of the image of each group.
    """
    batch = list(itertools.chain(*(group.samples for group in groups)))
    values = {**words_and_masks(model, batch), **images}
    if model.options.grouped:
        devices = [group.device for group in groups]
        counts = np.bincount(devices, minlength=len(model.options.towers) or 1)
        firsts = np.cumsum(counts) - counts
        numbers = [n - firsts[device] for n, device in enumerate(devices)]
        sizes = [len(group.samples) for group in groups]
        values[model.image_counts] = counts
        values[model.image_of] = np.repeat(numbers, sizes)
    return Feed(values, batch)


def words_and_masks(model, samples: List[Sample]) -> Dict:
    """Return what to feed for the sentences and masks of some samples."""
    steps = model.words.shape.as_list()[1]
    return {
        model.words: np.stack([sample["text_batch"][-steps:] for sample in samples]),
        model.target_fine: np.stack(
            [sample["mask_batch"][..., np.newaxis] for sample in samples]
        ),
    }
