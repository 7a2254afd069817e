"""The compact layout of samples: each picture once, and an index of the sentences.

A folder holds, with the prefix of `datasets.sample_prefix`,
  <prefix>_index.npz        text_batch int32 [N, 20]; picture and mask, int32 [N]: the
                            numbers of what each sample shows; texts uint8: as JSON
                            {"sentences": N texts, "names": one a picture}
  <prefix>_picture_<n>.npz  picture uint8 [H, W, 3]; masks uint8 [M, H, ceil(W / 8)]:
                            bits, filled up with 0
Axes: N samples, H rows, W columns, M masks of a picture.
"""

import collections
import contextlib
import json
import os
from typing import Any, Dict, Hashable, List, NamedTuple, Sequence, Tuple

import numpy as np

from util.core import npz
from util.core.errors import UserError
from util.data import datasets, text_processing


class Index(NamedTuple):
    """What the samples are made of.

    Attributes:
      words: int32 [N, 20], the ids of each sample, padding 0 in front.
      sentences: its text.
      pictures: the number of its picture.
      masks: the number of its mask, among those of the picture.
      names: the name of each picture.
    """

    words: np.ndarray
    sentences: List[str]
    pictures: List[int]
    masks: List[int]
    names: List[str]


def picture_file(folder: str, prefix: str, number: int) -> str:
    """Return the path of a picture with its masks."""
    return os.path.join(folder, f"{prefix}_picture_{number}.npz")


def write_picture(path: str, picture: np.ndarray, masks: Sequence[np.ndarray]) -> None:
    """Write a picture with its masks.

    Args:
      path: the file to make or replace.
      picture: uint8 [H, W, 3], RGB.
      masks: bool [H, W], True on the object.

    Raises:
      UserError: the file cannot be written.
    """
    bits = np.packbits(np.stack(masks), axis=2)
    npz.write(path, {"picture": picture, "masks": bits}, deflate=True)


def write_index(folder: str, prefix: str, index: Index) -> None:
    """Write the index of a folder.

    Raises:
      UserError: the file cannot be written.
    """
    texts = json.dumps({"sentences": index.sentences, "names": index.names})
    arrays = {
        "text_batch": index.words,
        "picture": np.array(index.pictures, np.int32),
        "mask": np.array(index.masks, np.int32),
        "texts": np.frombuffer(texts.encode("ascii"), np.uint8),
    }
    npz.write(datasets.index_file(folder, prefix), arrays, deflate=True)


def read_index(folder: str, prefix: str) -> Index:
    """Read the index of a folder.

    Raises:
      UserError: it is missing or damaged.
    """
    with npz.opened(datasets.index_file(folder, prefix), "index") as arrays:
        texts = json.loads(arrays["texts"].tobytes().decode("ascii"))
        index = Index(
            arrays["text_batch"],
            texts["sentences"],
            arrays["picture"].tolist(),
            arrays["mask"].tolist(),
            texts["names"],
        )
        size = len(index.sentences)
        if index.words.shape != (size, text_processing.MAX_WORDS):
            raise ValueError(f"text_batch is {index.words.shape}")
        if not len(index.pictures) == len(index.masks) == size:
            raise ValueError("its arrays differ in length")
        if not set(index.pictures) <= set(range(len(index.names))):
            raise ValueError("it asks for pictures that have no name")
    return index


def make_index(entries: Dict[int, Tuple], names: List[str]) -> Index:
    """Put an index together.

    Args:
      entries: number of a sample -> (ids, sentence, number of its picture, number of
        its mask).
      names: the name of each picture.
    """
    in_order = [entries[number] for number in range(len(entries))]
    words, sentences, pictures, masks = map(list, zip(*in_order))
    return Index(np.array(words, np.int32), sentences, pictures, masks, names)


def same(one: Index, other: Index) -> bool:
    """Say whether two indices are the same."""
    return np.array_equal(one.words, other.words) and one[1:] == other[1:]


def remove(folder: str, prefix: str) -> None:
    """Remove the files of this layout, the index first, which makes them samples."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(datasets.index_file(folder, prefix))
    for path in datasets.numbered_files(folder, prefix + "_picture").values():
        os.remove(path)


class Samples:
    """The samples of a folder; `samples.open_samples` says how to use it."""

    layout = "compact"

    def __init__(self, folder: str, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._index = read_index(folder, prefix)
        there = datasets.numbered_files(folder, prefix + "_picture")
        self._absent = set(self._index.pictures) - there.keys()

    def __len__(self) -> int:
        return len(self._index.sentences)

    @property
    def num_there(self) -> int:
        """How many samples have their picture."""
        counts = collections.Counter(self._index.pictures)
        return len(self) - sum(counts[picture] for picture in self._absent)

    def check(self) -> None:
        """Refuse samples whose picture is missing.

        Raises:
          UserError: names the first one.
        """
        if self._absent:
            path = picture_file(self._folder, self._prefix, min(self._absent))
            raise UserError(f"the picture {path} is missing")

    def path(self, number: int) -> str:
        """Return the path of the file with the picture of a sample."""
        picture = self._index.pictures[number]
        return picture_file(self._folder, self._prefix, picture)

    def pictures(self) -> List[Hashable]:
        """Return a key for each sample, the same where the picture is the same."""
        return list(self._index.pictures)

    def read(self, number: int) -> Dict[str, Any]:
        """Return a sample, see `samples.read_sample`.

        Raises:
          UserError: its file is missing or damaged; names it.
        """
        index = self._index
        with npz.opened(self.path(number), "picture") as arrays:
            picture = arrays["picture"]
            bits = arrays["masks"][index.masks[number]]
            height, width = _checked_size(picture, bits)
        return {
            "text_batch": index.words[number].astype(np.int32),
            "im_batch": picture,
            "mask_batch": np.unpackbits(bits, axis=1)[:, :width].astype(bool),
            "sent_batch": [index.sentences[number]],
            "im_name_batch": [index.names[index.pictures[number]]],
        }


def _checked_size(picture, bits):
    """Return (height, width) of a picture with a mask; ValueError if they are none."""
    for array, axes in ((picture, 3), (bits, 2)):
        if array.dtype != np.uint8 or array.ndim != axes:
            raise ValueError(f"an array is {array.dtype} {array.shape}")
    height, width, channels = picture.shape
    if channels != 3 or bits.shape != (height, -(-width // 8)):
        raise ValueError(f"the picture is {picture.shape}, the mask {bits.shape}")
    return height, width
