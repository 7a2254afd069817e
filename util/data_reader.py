"""Samples in order or shuffled, epoch after epoch, loaded ahead."""

import collections
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Iterator, Optional

import numpy as np

from util import batches, datasets
from util.errors import UserError

NUM_THREADS = 4


class DataReader:
    """Gives the samples of a folder one after the other, for ever.

    Each epoch gives every sample once. Use it as a context manager, or call
    `close` at the end.

    Attributes:
      num_batch: number of samples an epoch.
    """

    def __init__(
        self,
        folder_name: str,
        prefix: str,
        shuffle: bool = True,
        prefetch_num: int = 8,
        seed: Optional[int] = None,
    ) -> None:
        """Start to load.

        Args:
          folder_name: where the files `<prefix>_<n>.npz` lie, n from 0.
          prefix: `datasets.sample_prefix` of the split.
          shuffle: a new order each epoch, or always 0, 1, 2, ...
          prefetch_num: how many samples are loaded ahead, at least 1.
          seed: of the shuffling; None: another order each time.

        Raises:
          UserError: no samples, a gap in their numbers, or an unfinished build.
        """
        numbers = datasets.sample_numbers(folder_name, prefix)
        self._folder, self._prefix = folder_name, prefix
        self.num_batch = len(numbers)
        if not numbers:
            raise UserError(f"there are no samples {self._path('<n>')}")
        for number in range(self.num_batch):
            if number not in numbers:
                raise UserError(f"the sample {self._path(number)} is missing")
        batches.check_complete(folder_name, self.num_batch)
        self._order = self._epochs(np.random.RandomState(seed) if shuffle else None)
        self._pool = ThreadPoolExecutor(min(NUM_THREADS, prefetch_num))
        self._ahead = collections.deque()
        for _ in range(prefetch_num):
            self._load_next()

    def read_batch(self) -> Dict[str, Any]:
        """Return the next sample, see `batches.read_sample`.

        Raises:
          UserError: its file is damaged; the samples after it can still be read.
          RuntimeError: the reader is closed.
        """
        if not self._ahead:
            raise RuntimeError("the reader is closed")
        self._load_next()
        return self._ahead.popleft().result()

    def close(self) -> None:
        """Stop loading; closing again does nothing."""
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._pool.shutdown()

    def __enter__(self) -> "DataReader":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _path(self, number):
        return batches.sample_file(self._folder, self._prefix, number)

    def _epochs(self, random) -> Iterator[int]:
        while True:
            n = self.num_batch
            yield from range(n) if random is None else random.permutation(n)

    def _load_next(self):
        path = self._path(next(self._order))
        self._ahead.append(self._pool.submit(batches.read_sample, path))
