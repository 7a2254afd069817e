"""From samples on disk to what is fed to the network, step by step.

A sample on its way to a step has three more entries than `samples.read_sample` gives:
`number`, its own in the folder; `position`, how many samples the reader had given with
it, from which another reader can go on; `skipped`, how many damaged ones it left out.
"""

import contextlib
import itertools
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from deeplab_resnet import STRIDE
from util.core.errors import UserError
from util.core.parallel import prefetch
from util.data import datasets, im_processing, text_processing
from util.data.data_reader import DataReader
from util.data.samples import open_samples
from util.training import feature_cache

NUM_THREADS = 4  # that read cached features

Sample = Dict[str, Any]


class Feed(NamedTuple):
    """What a step is fed, and where it is from.

    Attributes:
      values: tensor -> array.
      samples: those of the step, in its order.
    """

    values: Dict
    samples: List[Sample]


class TrainingSet:
    """The samples of a split, and what network they fit.

    Attributes:
      folder: where they lie.
      number: int, how many there are.
      rows, columns: of the network's input, read from the first one.
      vocab_size: of the network.
    """

    def __init__(
        self, folder: str, prefix: str, vocab_size: int, skip_damaged: bool = False
    ) -> None:
        """Look at the folder.

        Args:
          folder, prefix: as for `DataReader`.
          vocab_size: int.
          skip_damaged: see `fitting_samples`.

        Raises:
          UserError: no samples, or none of the size of a network's input.
        """
        samples = open_samples(folder, prefix)
        self.rows, self.columns = samples.read(0)["im_batch"].shape[:2]
        if self.rows % STRIDE or self.columns % STRIDE:
            raise UserError(
                f"{samples.path(0)} shows an image of {self.columns}x{self.rows}, "
                "not of a network's input size: train on "
                "a split with train in its name"
            )
        self.folder, self.number, self.vocab_size = folder, len(samples), vocab_size
        self._prefix, self._skip_damaged = prefix, skip_damaged

    @classmethod
    def of(cls, args) -> "TrainingSet":
        """Return that of the options of `trainval_model.py -m train`."""
        folder = datasets.find_batch_dir(
            args.dataset, args.split, args.data, args.batches
        )
        vocabulary = datasets.vocabulary_file(args.dataset, args.data)
        return cls(
            folder,
            datasets.sample_prefix(args.dataset, args.split),
            text_processing.vocabulary_size(vocabulary),
            args.skip_damaged,
        )

    @property
    def form(self) -> Tuple[int, int, int]:
        """(rows, columns, words) of a sample."""
        return self.rows, self.columns, text_processing.MAX_WORDS

    def samples(
        self, seed: int, begin: int = 0, share: Tuple[int, int, int] = (0, 1, 1)
    ) -> Iterator[Sample]:
        """Yield samples for ever; arguments as for `DataReader`."""
        reader = DataReader(
            self.folder, self._prefix, seed=seed, begin=begin, share=share
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
      skip_damaged: tell and leave out samples that cannot be read or do not fit.

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
      model: as `LSTM_model`.
      samples: of `fitting_samples`; as many make a step as the model takes.
      cache: gives what the backbone sees, in place of the images.
    """
    if cache is None:
        yield from _image_feeds(model, samples)
    else:
        yield from _cached_feeds(model, samples, cache)


def _image_feeds(model, samples):
    batch_size = model.im.shape.as_list()[0]
    while True:
        batch = list(itertools.islice(samples, batch_size))
        images = np.stack([sample["im_batch"] for sample in batch])
        values = words_and_masks(model, batch)
        values[model.im] = im_processing.to_network_input(images)
        yield Feed(values, batch)


def _cached_feeds(model, samples, cache):
    batch_size = model.im.shape.as_list()[0]
    depth = batch_size + NUM_THREADS
    looked_up = prefetch(cache.look_up, samples, depth, NUM_THREADS)
    with contextlib.closing(looked_up):
        while True:
            found = list(itertools.islice(looked_up, batch_size))
            batch = [one.sample for one in found]
            values = words_and_masks(model, batch)
            values.update(cache.feed(found))
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
