"""Samples in order or shuffled, epoch after epoch, loaded ahead."""

import collections
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Hashable, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np

from util.data.samples import Remembered, open_samples

NUM_THREADS = 4


class Shard(NamedTuple):
    """The samples of one of several readers, which take turns.

    Attributes:
      number: which reader this is, from 0.
      of: how many there are.
      block: how many samples one gives before it is the next one's turn.
    """

    number: int = 0
    of: int = 1
    block: int = 1

    def has(self, place: int) -> bool:
        """Tell whether the sample at a place of the order, from 0, is one of them."""
        turn = place // self.block
        return turn % self.of == self.number


EVERYTHING = Shard()


class DataReader:
    """Gives the samples of a folder one after the other, for ever.

    Each epoch gives every sample once. Use it as a context manager, or call
    `close` at the end.

    Example:
      >>> folder = "data/shapes/val_batch"
      >>> with DataReader(folder, "shapes_val", shuffle=False) as reader:
      ...     sample = reader.read_batch()
      >>> sample["text_batch"].shape, sample["mask_batch"].dtype, reader.number
      ((20,), dtype('bool'), 0)

    Attributes:
      num_batch: number of samples an epoch.
      number: of the sample given last; None before the first one.
      position: how many samples come before the next one, those left to the readers of
        other shards among them; a reader that begins there goes on with it.
    """

    def __init__(
        self,
        folder_name: str,
        prefix: str,
        shuffle: bool = True,
        prefetch_num: int = 8,
        seed: Optional[int] = None,
        order: Optional[Sequence[int]] = None,
        begin: int = 0,
        shard: Shard = EVERYTHING,
        groups: Optional[Sequence[Sequence[int]]] = None,
        remembered_bytes: int = 0,
    ) -> None:
        """Start to load.

        Args:
          folder_name: where the samples lie, in either layout.
          prefix: `Dataset.prefix` of the split.
          shuffle: a new order each epoch, or always that of `order`.
          prefetch_num: how many samples are loaded ahead, at least 1.
          seed: of the shuffling; None: another order each time.
          order: the numbers of the samples that make an epoch; None: all, 0, 1, 2, ...
          begin: `position` of the reader that this one goes on from.
          shard: gives only these.
          groups: in place of `order`: numbers that shuffling keeps together.
          remembered_bytes: how much is kept in memory, see `samples.Remembered`.

        Raises:
          UserError: no samples, a gap in their numbers, or an unfinished build.
          ValueError: they are empty or have numbers that no sample has.
        """
        self._samples = open_samples(folder_name, prefix)
        self._read = self._samples.read
        if remembered_bytes:
            self._read = Remembered(self._samples, remembered_bytes).read
        everything = range(len(self._samples))
        if groups is None:
            groups = [[number] for number in (everything if order is None else order)]
        self._groups = list(groups)
        numbers = list(itertools.chain(*self._groups))
        if not numbers or not set(numbers) <= set(everything):
            raise ValueError(f"order must take samples from {everything}")
        self.num_batch = len(numbers)
        self.number, self.position = None, begin
        numbers = self._epochs(np.random.RandomState(seed) if shuffle else None)
        places = itertools.islice(enumerate(numbers), begin, None)
        self._numbers = (
            (place + 1, number) for place, number in places if shard.has(place)
        )
        self._pool = ThreadPoolExecutor(min(NUM_THREADS, prefetch_num))
        self._ahead = collections.deque()
        for _ in range(prefetch_num):
            self._load_next()

    def read_batch(self) -> Dict[str, Any]:
        """Return the next sample, see `samples.read_sample`.

        Raises:
          UserError: its file is damaged; the samples after it can still be read.
          RuntimeError: the reader is closed.
        """
        if not self._ahead:
            raise RuntimeError("the reader is closed")
        self._load_next()
        self.position, self.number, sample = self._ahead.popleft()
        return sample.result()

    def images(self) -> List[Hashable]:
        """Return the images of all samples, by number, without reading them.

        Returns:
          A key for each sample of the folder, whatever `order` is; the same where
          they show the same image.

        Raises:
          UserError: a file is damaged; names it.
        """
        return self._samples.images()

    def close(self) -> None:
        """Stop loading; closing again does nothing."""
        for _, _, future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._pool.shutdown()

    def __enter__(self) -> "DataReader":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _epochs(self, random) -> Iterator[int]:
        while True:
            n = len(self._groups)
            for place in range(n) if random is None else random.permutation(n):
                yield from self._groups[place]

    def _load_next(self):
        position, number = next(self._numbers)
        sample = self._pool.submit(self._read, number)
        self._ahead.append((position, number, sample))
