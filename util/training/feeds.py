"""From samples on disk to what is fed to the network, step by step.

A sample on its way to a step has three more entries than `samples.read_sample` gives:
`number`, its own in the folder; `position`, how many samples the reader had given with
it, from which another reader continues; `skipped`, how many damaged ones it left out.
"""

import contextlib
import itertools
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

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
      sentences_per_image: K; so many sentences of an image come one after the other.

    Attributes:
      dataset, split, sentences_per_image: the arguments.
      folder: where the samples lie.
      number: int, how many there are.
      rows, columns: of the network's input, read from the first one.
      vocab_size: of the network.

    Raises:
      UserError: no samples, those of another vocabulary, or none of the size of a
        network's input; or not every image has K sentences, or a multiple.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        skip_damaged: bool = False,
        sentences_per_image: int = 1,
    ) -> None:
        self.dataset, self.split = dataset, split
        self.folder, self._prefix = dataset.sample_dir(split), dataset.prefix(split)
        self.vocab_size = text_processing.vocabulary_size(dataset.vocabulary_file)
        vocabularies.check_samples(self.folder, dataset.vocabulary_file)
        samples = open_samples(self.folder, self._prefix)
        self.number, self._skip_damaged = len(samples), skip_damaged
        self.rows, self.columns = samples.read(0)["im_batch"].shape[:2]
        if self.rows % im_processing.STRIDE or self.columns % im_processing.STRIDE:
            raise UserError(
                f"{samples.path(0)} shows an image of {self.columns}x{self.rows}, not "
                "of a network's input size: train on a split with train in its name"
            )
        self.sentences_per_image, self._order = sentences_per_image, None
        if sentences_per_image > 1:
            self._order = self._group(samples.images())

    def _group(self, images):
        """Return the order in which the sentences of an image are neighbours."""
        order, size = group_by_image(images), self.sentences_per_image
        for first in range(0, len(order), size):
            group = order[first : first + size]
            if len(group) < size or len({images[number] for number in group}) > 1:
                raise UserError(
                    f"an image in {self.folder} has not {size} sentences, or a multiple"
                )
        return order

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
            order=self._order,
            begin=begin,
            shard=shard,
            group=self.sentences_per_image,
        )
        size = self.rows, self.columns, self.vocab_size
        with reader:
            yield from fitting_samples(reader, *size, self._skip_damaged)


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


def feeds(
    model, samples: Iterator[Sample], cache: Optional[feature_cache.Cache] = None
) -> Iterator[Feed]:
    """Yield what to feed for each step, for ever.

    Args:
      model: a `models.base.Model`, of B sentences about P images.
      samples: of `fitting_samples`; B make a step, B / P neighbours about each image.
      cache: gives the features of the images, in place of the images, which are fed
        only where the head reads them as well.
    """
    num_images = model.im.shape.as_list()[0]
    group_size = model.words.shape.as_list()[0] // num_images
    groups = iter(lambda: list(itertools.islice(samples, group_size)), [])
    if cache is None:
        yield from _image_feeds(model, groups, num_images)
    else:
        yield from _cached_feeds(model, groups, num_images, cache)


def _image_feeds(model, groups, num_images):
    while True:
        step = list(itertools.islice(groups, num_images))
        images = np.stack([group[0]["im_batch"] for group in step])
        batch = list(itertools.chain(*step))
        values = words_and_masks(model, batch)
        values[model.im] = im_processing.to_network_input(images)
        yield Feed(values, batch)


def _cached_feeds(model, groups, num_images, cache):
    def look_up(group):
        return group, cache.look_up(group[0]["im_batch"])

    depth = num_images + NUM_THREADS
    with contextlib.closing(prefetch(look_up, groups, depth, NUM_THREADS)) as ready:
        while True:
            step, lookups = zip(*itertools.islice(ready, num_images))
            batch = list(itertools.chain(*step))
            values = words_and_masks(model, batch)
            values.update(cache.feed(lookups))
            if model.reads_image:
                images = np.stack([group[0]["im_batch"] for group in step])
                values[model.im] = im_processing.to_network_input(images)
            yield Feed(values, batch)


def words_and_masks(model, samples: List[Sample]) -> Dict:
    """Return what to feed for the sentences and masks of some samples."""
    steps = model.words.shape.as_list()[1]
    return {
        model.words: np.stack([sample["text_batch"][-steps:] for sample in samples]),
        model.target_fine: np.stack(
            [sample["mask_batch"][..., np.newaxis] for sample in samples]
        ),
    }
