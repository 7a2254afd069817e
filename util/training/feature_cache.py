"""Features of the training images, kept on disk or in memory.

With the backbone frozen its taps c3, c4 and c5 of an image never change. A folder
keeps them, one file an image, made when the image is first trained on. A folder
belongs to one backbone, image size, dtype and precision.

Axes: P images, H rows, W columns, h = H / 8, w = W / 8.
"""

import hashlib
import json
import os
import shutil
import threading
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

import numpy as np

from deeplab_resnet import CHANNELS, LEVELS, WIDTH, weights
from util.core import files, npz
from util.core.errors import UserError
from util.data import im_processing

RECORD = "features.json"
# Bytes of the disk that stay free whatever the limit: the snapshots need room.
FREE = 10 * 10**9

Taps = List[np.ndarray]


def tap_tensors(model) -> List:
    """Return the tensors of a model's taps, in the order of LEVELS."""
    return [getattr(model, "visual_feat_" + level) for level in LEVELS]


def image_key(image: np.ndarray) -> str:
    """Return the name of an image: a checksum of its pixels.

    Args:
      image: uint8 [H, W, 3], as samples hold it.
    """
    return hashlib.sha256(np.ascontiguousarray(image)).hexdigest()


def backbone_checksum(session) -> str:
    """Return a checksum of the names and values of the backbone's variables."""
    variables = weights.variables(session.graph)
    variables.sort(key=lambda variable: variable.op.name)
    checksum = hashlib.sha256()
    for variable, value in zip(variables, session.run(variables)):
        checksum.update(variable.op.name.encode("ascii"))
        checksum.update(np.ascontiguousarray(value))
    return checksum.hexdigest()


class Folder:
    """The files of a cache; several trainings may share one.

    Args:
      path: where the files lie; made where missing.
      size: (H, W) of the images.
      belongs: what else the taps depend on, as JSON can hold it: `backbone`, ...
      dtype: "float32", or "float16" for half the space and three digits.
      limit: most bytes of all files; None: what the disk has, less FREE.
      width: of the backbone, see `deeplab_resnet.features`.

    Raises:
      UserError: the folder belongs to something else or cannot be written.
    """

    def __init__(
        self,
        path: str,
        size: Sequence[int],
        belongs: Dict[str, Any],
        dtype: str = "float32",
        limit: Optional[float] = None,
        width: int = WIDTH,
    ) -> None:
        self.path, self._dtype, self._limit = path, np.dtype(dtype), limit
        rows, columns = (side // im_processing.STRIDE for side in size)
        self._shapes = [
            (rows, columns, channels * width // WIDTH) for channels in CHANNELS.values()
        ]
        self._is_full = False
        self._lock = threading.Lock()
        self._claim(dict(belongs, size=list(size), dtype=dtype))
        files.remove_parts(path, is_shared=True)
        sizes = [item.stat().st_size for item in self._items() if self._is_taps(item)]
        self._bytes, self.num_images = sum(sizes), len(sizes)

    def load(self, key: str) -> Optional[Taps]:
        """Return an image's taps; None: they are not there.

        A damaged file is reported, removed and counts as not there.

        Args:
          key: of `image_key`.

        Returns:
          [h, w, C], of the folder's dtype, in the order of LEVELS.
        """
        path = self._file(key)
        if not os.path.exists(path):
            return None
        try:
            with npz.opened(path, "features") as arrays:
                taps = [arrays[level] for level in LEVELS]
            if [(tap.shape, tap.dtype) for tap in taps] != [
                (shape, self._dtype) for shape in self._shapes
            ]:
                raise UserError("arrays of another form")
        except UserError:
            self._remove_damaged(path)
            return None
        return taps

    def store(self, key: str, taps: Taps) -> None:
        """Keep an image's taps, of the folder's dtype, while there is room.

        When the folder or the disk is full, that is reported once, and this and all
        later calls do nothing.
        """
        if self._is_full:
            return
        path, size = self._file(key), sum(tap.nbytes for tap in taps)
        try:
            self._check_room(size)
            npz.write(path, dict(zip(LEVELS, taps)))
            size = os.path.getsize(path)
        except (UserError, OSError) as error:
            self._is_full = True
            print(
                f"{self}; no more are added ({error}), training continues", flush=True
            )
            return
        with self._lock:
            self._bytes += size
            self.num_images += 1

    def rounded(self, taps: Taps) -> Taps:
        """Return taps in the folder's dtype.

        Raises:
          UserError: they are too large for it.
        """
        return rounded(taps, self._dtype)

    def __str__(self) -> str:
        size = f"{self._bytes / 1e9:.1f} GB"
        return f"features of {self.num_images} images, {size}, in {self.path}"

    def _check_room(self, size):
        if self._limit is not None and self._bytes + size > self._limit:
            raise UserError("--cache-size is reached")
        if shutil.disk_usage(self.path).free < FREE + size:
            raise UserError("the disk is nearly full")

    def _claim(self, record):
        """Write the record of a new folder, or check that of an old one."""
        path = os.path.join(self.path, RECORD)
        try:
            if not os.path.exists(path):
                os.makedirs(self.path, exist_ok=True)
                with files.locked(self.path, waits=True):  # another training begins
                    if all(files.PART.fullmatch(one.name) for one in self._items()):
                        files.write_json(path, record)
            with open(path, encoding="utf-8") as file:
                stored = dict(json.load(file))
        except OSError as error:
            raise UserError(
                f"cannot keep features in {self.path} ({error}): name an empty folder "
                "with --cache-features"
            ) from error
        except (ValueError, TypeError, RecursionError):
            # It is damaged: what the files are is unknown.
            stored = {}
        differ = sorted(key for key in record if stored.get(key) != record[key])
        if differ:
            raise UserError(
                "the features in {} were made with another {}: name another folder "
                "with --cache-features, or delete this one".format(
                    self.path, ", ".join(differ)
                )
            )

    def _items(self):
        with os.scandir(self.path) as items:
            return [item for item in items if item.name != files.LOCK]

    @staticmethod
    def _is_taps(item):
        return item.name.endswith(".npz")

    def _file(self, key):
        return os.path.join(self.path, key + ".npz")

    def _remove_damaged(self, path):
        print(f"{path} is damaged and made again", flush=True)
        try:
            size = os.path.getsize(path)
            os.remove(path)
        except OSError:  # another training did, or nobody may
            return
        with self._lock:
            self._bytes -= size
            self.num_images -= 1


class Memory:
    """Taps in memory, with what a `Cache` uses of a `Folder`: for small data sets.

    Args:
      dtype: as for `Folder`.
    """

    def __init__(self, dtype: str = "float32") -> None:
        self._taps: Dict[str, Taps] = {}
        self._dtype = np.dtype(dtype)

    def load(self, key: str) -> Optional[Taps]:
        """Return an image's taps; None: they are not there."""
        return self._taps.get(key)

    def store(self, key: str, taps: Taps) -> None:
        """Keep an image's taps."""
        self._taps[key] = taps

    def rounded(self, taps: Taps) -> Taps:
        """See `Folder.rounded`."""
        return rounded(taps, self._dtype)


def rounded(taps: Taps, dtype: np.dtype) -> Taps:
    """Return taps as float32 or float16.

    Raises:
      UserError: they are too large for it.
    """
    with np.errstate(over="ignore"):
        taps = [tap.astype(dtype, copy=False) for tap in taps]
    if dtype != np.float32 and not all(np.isfinite(tap).all() for tap in taps):
        raise UserError(
            f"this backbone's features are too large for {dtype}: use --cache-dtype "
            "float32 and another folder"
        )
    return taps


class Lookup(NamedTuple):
    """An image, its key, and its taps where they are kept."""

    image: np.ndarray
    key: str
    taps: Optional[Taps]


class Cache:
    """Gives the taps of images: those that are kept, the others from the backbone.

    Args:
      session: of the model's graph; the backbone has its weights.
      model: a `models.base.Model`, its backbone is frozen.
      store: where the taps are looked up and kept.
    """

    def __init__(self, session, model, store: Union[Folder, Memory]) -> None:
        self._session, self._model, self._store = session, model, store

    def look_up(self, image: np.ndarray) -> Lookup:
        """Read the taps of an image, uint8 [H, W, 3]; several threads may."""
        key = image_key(image)
        return Lookup(image, key, self._store.load(key))

    def feed(self, lookups: Sequence[Lookup]) -> Dict:
        """Return what to feed in place of the images of a step.

        Computes what is missing, all at once, and keeps it.

        Args:
          lookups: of `look_up`, one for each of the P images of the step.

        Returns:
          tensor -> float32 [P, h, w, C], for each tap.

        Raises:
          UserError: see `rounded`.
        """
        taps, missing = {}, {}
        for image, key, known in lookups:
            if known is None:  # a step since the look-up may have made them
                known = taps.get(key) or self._store.load(key)
            if known is None:
                missing[key] = image
            else:
                taps[key] = known
        taps.update(zip(missing, self._compute(list(missing.values()))))
        for key in missing:
            self._store.store(key, taps[key])
        levels = zip(*(taps[one.key] for one in lookups))
        stacked = [np.stack(level).astype(np.float32, copy=False) for level in levels]
        return dict(zip(tap_tensors(self._model), stacked))

    def _compute(self, images):
        """Return the taps of at most P images, rounded."""
        if not images:
            return []
        model, feed = self._model, {}
        number = model.im.shape.as_list()[0]
        if model.options.grouped:  # any number, but each device needs one
            devices = len(model.options.towers) or 1
            number = max(len(images), devices)
            parts = np.array_split(range(number), devices)
            feed[model.image_counts] = list(map(len, parts))
        images = images + images[:1] * (number - len(images))
        feed[model.im] = im_processing.to_network_input(np.stack(images))
        values = self._session.run(tap_tensors(model), feed)
        levels = zip(*values)
        return [self._store.rounded(taps) for taps, _ in zip(levels, images)]


class Options(NamedTuple):
    """Where and how taps are kept.

    Attributes:
      path: of a `Folder`; None: in memory.
      dtype, limit: as for `Folder`.
    """

    path: Optional[str]
    dtype: str = "float32"
    limit: Optional[float] = None


def open_cache(session, model, options: Options, precision: str = "float32") -> Cache:
    """Open a cache for the backbone as it is now.

    Args:
      session: of the model's graph, ready to train.
      model: a `models.base.Model`.
      options: where and how.
      precision: of the session.

    Raises:
      UserError: see `Folder`.
    """
    if options.path is None:
        return Cache(session, model, Memory(options.dtype))
    belongs = {"backbone": backbone_checksum(session), "precision": precision}
    size = model.im.shape.as_list()[1:3]
    how = options.dtype, options.limit, model.options.width
    folder = Folder(options.path, size, belongs, *how)
    print(folder)
    return Cache(session, model, folder)
