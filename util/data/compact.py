"""The compact layout of samples: each image once, and an index of the sentences.

A folder holds, with the prefix of `Dataset.prefix`,
  <prefix>_index.npz        text_batch int32 [N, 20]; picture and mask, int32 [N]: the
                            number of each sample's image, and of its mask among
                            those of the image; texts uint8: as JSON
                            {"sentences": N texts, "names": one an image}
  <prefix>_picture_<n>.npz  picture uint8 [H, W, 3]: the image; masks uint8
                            [M, H, ceil(W / 8)]: bits, filled up with 0
Axes: N samples, H rows, W columns, M masks of an image.
"""

import collections
import contextlib
import json
import os
from typing import Any, Dict, Hashable, Iterable, List, NamedTuple, Tuple

import numpy as np

from util.core import npz
from util.core.errors import UserError
from util.data import text_processing


class Index(NamedTuple):
    """What the samples are made of.

    Attributes:
      words: int32 [N, 20], the ids of each sample, padding 0 in front.
      sentences: its text.
      images: the number of its image.
      masks: the number of its mask, among those of the image.
      names: the name of each image.
    """

    words: np.ndarray
    sentences: List[str]
    images: List[int]
    masks: List[int]
    names: List[str]


def index_file(folder: str, prefix: str) -> str:
    """Return the path of the index, which makes the files of a folder samples."""
    return os.path.join(folder, f"{prefix}_index.npz")


def image_file(folder: str, prefix: str, number: int) -> str:
    """Return the path of an image with its masks."""
    return os.path.join(folder, f"{prefix}_picture_{number}.npz")


def write_image(path: str, image: np.ndarray, masks: Iterable[np.ndarray]) -> None:
    """Write an image with its masks.

    Args:
      path: the file to make or replace.
      image: uint8 [H, W, 3], RGB.
      masks: bool [H, W], True on the object.

    Raises:
      UserError: the file cannot be written.
    """
    bits = np.stack([np.packbits(mask, axis=1) for mask in masks])
    npz.write(path, {"picture": image, "masks": bits}, deflate=True)


def write_index(folder: str, prefix: str, index: Index) -> None:
    """Write the index of a folder.

    Raises:
      UserError: the file cannot be written.
    """
    texts = json.dumps({"sentences": index.sentences, "names": index.names})
    arrays = {
        "text_batch": index.words,
        "picture": np.array(index.images, np.int32),
        "mask": np.array(index.masks, np.int32),
        "texts": np.frombuffer(texts.encode("ascii"), np.uint8),
    }
    npz.write(index_file(folder, prefix), arrays, deflate=True)


def read_index(folder: str, prefix: str) -> Index:
    """Read the index of a folder.

    Raises:
      UserError: it is missing or damaged.
    """
    with npz.opened(index_file(folder, prefix), "index") as arrays:
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
        if not len(index.images) == len(index.masks) == size:
            raise ValueError("its arrays differ in length")
        if not set(index.images) <= set(range(len(index.names))):
            raise ValueError("it asks for images that have no name")
    return index


def make_index(entries: Dict[int, Tuple], names: List[str]) -> Index:
    """Put an index together.

    Args:
      entries: number of a sample -> (ids, sentence, number of its image, number of
        its mask).
      names: the name of each image.
    """
    in_order = [entries[number] for number in range(len(entries))]
    words, sentences, images, masks = map(list, zip(*in_order))
    return Index(np.array(words, np.int32), sentences, images, masks, names)


def same(one: Index, other: Index) -> bool:
    """Say whether two indices are the same."""
    return np.array_equal(one.words, other.words) and one[1:] == other[1:]


def remove(folder: str, prefix: str) -> None:
    """Remove the files of this layout, the index first, which makes them samples."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(index_file(folder, prefix))
    for path in npz.numbered_files(folder, prefix + "_picture").values():
        os.remove(path)


class Samples:
    """The samples of a folder; `samples.open_samples` says how to use it."""

    layout = "compact"

    def __init__(self, folder: str, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._index = read_index(folder, prefix)
        there = npz.numbered_files(folder, prefix + "_picture")
        self._absent = set(self._index.images) - there.keys()

    def __len__(self) -> int:
        return len(self._index.sentences)

    @property
    def num_there(self) -> int:
        """How many samples have their image."""
        counts = collections.Counter(self._index.images)
        return len(self) - sum(counts[image] for image in self._absent)

    def check(self) -> None:
        """Refuse samples whose image is missing.

        Raises:
          UserError: names the first one.
        """
        if self._absent:
            path = image_file(self._folder, self._prefix, min(self._absent))
            raise UserError(f"the image {path} is missing")

    def path(self, number: int) -> str:
        """Return the path of the file with the image of a sample."""
        image = self._index.images[number]
        return image_file(self._folder, self._prefix, image)

    def images(self) -> List[Hashable]:
        """Return a key for each sample, the same where the image is the same."""
        return list(self._index.images)

    def read(self, number: int) -> Dict[str, Any]:
        """Return a sample, see `samples.read_sample`.

        Raises:
          UserError: its file is missing or damaged; names it.
        """
        index = self._index
        with npz.opened(self.path(number), "image") as arrays:
            image = arrays["picture"]
            bits = arrays["masks"][index.masks[number]]
            height, width = _checked_size(image, bits)
        return {
            "text_batch": index.words[number].astype(np.int32),
            "im_batch": image,
            "mask_batch": np.unpackbits(bits, axis=1)[:, :width].astype(bool),
            "sent_batch": [index.sentences[number]],
            "im_name_batch": [index.names[index.images[number]]],
        }


def _checked_size(image, bits):
    """Return (height, width) of an image with a mask; ValueError if they are none."""
    for array, axes in ((image, 3), (bits, 2)):
        if array.dtype != np.uint8 or array.ndim != axes:
            raise ValueError(f"an array is {array.dtype} {array.shape}")
    height, width, channels = image.shape
    if channels != 3 or bits.shape != (height, -(-width // 8)):
        raise ValueError(f"the image is {image.shape}, the mask {bits.shape}")
    return height, width
