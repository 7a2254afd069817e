"""Samples on disk, one for each sentence with its image and mask.

Two layouts: one file a sample, that of the reference, in which only `im_name_batch`
is new; and the compact one of `util.data.compact`. Both give the same samples.
Axes: H rows, W columns.
"""

import itertools
import os
import threading
import zlib
from typing import Any, Dict, Hashable, List, Sequence, Union

import numpy as np

from util.core import npz
from util.core.errors import UserError
from util.data import build_info, compact, text_processing

KEYS = ("text_batch", "im_batch", "mask_batch", "sent_batch", "im_name_batch")


def sample_file(folder: str, prefix: str, number: int) -> str:
    """Return the path of a sample that is a file of its own."""
    return os.path.join(folder, f"{prefix}_{number}.npz")


def write_sample(
    path: str,
    words: List[int],
    image: Union[np.ndarray, bytes],
    mask: Union[np.ndarray, bytes],
    sentence: str,
    image_name: str,
) -> None:
    """Write one sample.

    Args:
      path: the file to make or replace.
      words: 20 ids, padding 0 in front.
      image: uint8 [H, W, 3], RGB; or `npz.as_npy` of it, where several samples
        show it.
      mask: bool [H, W], True on the object; or `npz.as_npy` of it.
      sentence: the text that `words` come from.
      image_name: the same for all samples that show the same image.

    Raises:
      UserError: the file cannot be written.
    """
    arrays = {
        "text_batch": np.array(words, np.int32),
        "im_batch": image,
        "mask_batch": mask,
        "sent_batch": [sentence],
        "im_name_batch": [image_name],
    }
    npz.write(path, arrays)


def read_sample(path: str) -> Dict[str, Any]:
    """Read one sample, made by us or by the reference.

    Args:
      path: the file.

    Returns:
      text_batch: int32 [20], ids, padding 0 in front.
      im_batch: uint8 [H, W, 3], RGB.
      mask_batch: bool [H, W], True on the object.
      sent_batch: [sentence].
      im_name_batch: [name of the image]; [""] in files of the reference.

    Raises:
      UserError: the file is missing or damaged; names it.
    """
    with npz.opened(path, "sample") as arrays:
        sample = {key: arrays[key] for key in KEYS if key in arrays}
        sample.setdefault("im_name_batch", np.array([""]))
        return _checked(sample)


def _checked(sample):
    """Return the arrays as `read_sample` promises them; ValueError if they are not."""
    size = sample["im_batch"].shape[:2]
    forms = {
        "text_batch": (np.typecodes["AllInteger"], (text_processing.MAX_WORDS,)),
        "im_batch": (np.dtype(np.uint8).char, size + (3,)),
        "mask_batch": (np.dtype(bool).char, size),
        "sent_batch": ("SU", (1,)),
        "im_name_batch": ("SU", (1,)),
    }
    for key, (types, shape) in forms.items():
        array = sample[key]
        if array.dtype.char not in types or array.shape != shape:
            raise ValueError(f"{key} is {array.dtype} {array.shape}")
    checked = {key: sample[key] for key in forms}
    checked["text_batch"] = checked["text_batch"].astype(np.int32)
    for key in ("sent_batch", "im_name_batch"):
        checked[key] = [text_processing.decoded(t) for t in checked[key].tolist()]
    return checked


def remove_samples(folder: str, prefix: str) -> None:
    """Remove the samples that are files of their own."""
    for path in npz.numbered_files(folder, prefix).values():
        os.remove(path)


class SampleFiles:
    """The samples of a folder with one file for each; see `open_samples`."""

    layout = "npz"

    def __init__(self, folder: str, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix
        self._numbers = npz.numbered_files(folder, prefix).keys()

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def num_there(self) -> int:
        """How many samples there are."""
        return len(self)

    def check(self) -> None:
        """Refuse samples with a gap in their numbers.

        Raises:
          UserError: names the first one that is missing.
        """
        for number in range(len(self)):
            if number not in self._numbers:
                raise UserError(f"the sample {self.path(number)} is missing")

    def path(self, number: int) -> str:
        """Return the path of a sample."""
        return sample_file(self._folder, self._prefix, number)

    def images(self) -> List[Hashable]:
        """Return a key for each sample, the same where the image is the same.

        Where samples have no name of their image, those of the reference, it is
        the checksum that their files have of it.

        Raises:
          UserError: a file is damaged; names it.
        """
        return [_image_key(self.path(number)) for number in range(len(self))]

    def read(self, number: int) -> Dict[str, Any]:
        """Return a sample, see `read_sample`."""
        return read_sample(self.path(number))


def _image_key(path):
    with npz.opened(path, "sample") as arrays:
        name = arrays["im_name_batch"].item() if "im_name_batch" in arrays else ""
        stored = arrays.zip.getinfo("im_batch.npy")
        return name or (stored.CRC, stored.file_size)


def has_samples(folder: str, prefix: str) -> bool:
    """Say whether a folder holds samples, in either layout."""
    is_compact = os.path.isfile(compact.index_file(folder, prefix))
    return is_compact or bool(npz.numbered_files(folder, prefix))


def open_samples(folder: str, prefix: str) -> Union[SampleFiles, compact.Samples]:
    """Open the samples of a folder, in whichever layout they are.

    Args:
      folder: where they lie.
      prefix: `Dataset.prefix` of the split.

    Returns:
      An object `samples` with
        len(samples): N; samples have the numbers 0 to N - 1.
        samples.read(n): sample n, see `read_sample`.
        samples.path(n): the path of the file with its image.
        samples.images(): a hashable key for each sample, the same where the
          image is the same.
        samples.layout: "npz" or "compact".

    Raises:
      UserError: there are none, some are missing, or their build was interrupted.
    """
    # Where files of both layouts lie side by side, after a conversion that was
    # killed, the index says that the compact ones are complete.
    is_compact = os.path.isfile(compact.index_file(folder, prefix))
    samples = (compact.Samples if is_compact else SampleFiles)(folder, prefix)
    if not len(samples):
        raise UserError(f"there are no samples {sample_file(folder, prefix, '<n>')}")
    build_info.check_complete(folder, samples.num_there)
    samples.check()
    return samples


def group_by_image(images: Sequence[Hashable]) -> List[int]:
    """Order samples such that those of an image are neighbours.

    Args:
      images: what each sample shows, see `SampleFiles.images`.

    Returns:
      The numbers of all samples; images in the order of their first sample.
    """
    groups: Dict[Hashable, List[int]] = {}
    for number, image in enumerate(images):
        groups.setdefault(image, []).append(number)
    return list(itertools.chain(*groups.values()))


class Remembered:
    """The samples of a small folder, each read from disk once.

    To open and unpack a file takes longer than anything else that is done to a sample
    before a small network is fed. In memory a mask takes a bit a pixel, and an image
    is kept once for all samples that show it.

    Args:
      samples: of `open_samples`.
      most_bytes: which the images and masks that are kept may take; what comes after
        is read from disk each time.
    """

    def __init__(self, samples: Union[SampleFiles, compact.Samples], most_bytes: int):
        self._samples, self._room = samples, most_bytes
        self._kept: Dict[int, Dict[str, Any]] = {}
        self._images: Dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def read(self, number: int) -> Dict[str, Any]:
        """Return a sample, see `read_sample`; nothing of it may be changed."""
        kept = self._kept.get(number)
        if kept is None:
            sample = self._samples.read(number)
            with self._lock:
                return self._keep(number, sample)
        size = kept["im_batch"].shape[:2]
        bits = np.unpackbits(kept["mask_batch"])[: size[0] * size[1]]
        return dict(kept, mask_batch=bits.view(bool).reshape(size))

    def _keep(self, number, sample):
        image = sample["im_batch"]
        key = zlib.crc32(np.ascontiguousarray(image))
        known = self._images.get(key)
        if known is not None and np.array_equal(known, image):
            sample = dict(sample, im_batch=known)
        packed = np.packbits(sample["mask_batch"])
        size = packed.nbytes + (0 if sample["im_batch"] is known else image.nbytes)
        # Two threads may have read it at the same time.
        if number not in self._kept and size <= self._room:
            self._room -= size
            self._images.setdefault(key, image)
            self._kept[number] = dict(sample, mask_batch=packed)
        return sample
