"""The folder where uploads lie, and what was made of them.

Gradio writes the files; which of them may be read, how long they stay and how many
bytes they may be together is decided here.
"""

import contextlib
import os
import re
import stat
import threading
import time
from typing import Iterator, NamedTuple, Optional

from util.core.errors import UserError

KEPT_S = 3600
MAX_KEPT_BYTES = 256 * 10**6
LEAST_BYTES = 2**16  # that a file counts for: as many files as fit are few enough
SPARED_S = 60  # files younger than this are in use
EXAMPLES = "examples"  # the folder of images that are ours, which stay
UPLOADED = re.compile(r"[0-9a-f]{64}|" + EXAMPLES)  # folders of images
GONE = "the image is not here any more: upload it again"


class Kept(NamedTuple):
    """A file; when it was written, and the bytes that it counts for."""

    path: str
    time: float
    num_bytes: int


class Store:
    """Knows its files by their names.

    Args:
      folder: an existing folder that belongs to the service alone.

    Attributes:
      folder: without links in its path; names of files begin with it.
    """

    def __init__(self, folder: str) -> None:
        self.folder = os.path.realpath(folder)
        self._turn = threading.Lock()

    def check(self, path: Optional[str]) -> Optional[str]:
        """Return the path of an image that was uploaded, or of an example.

        What is no such image, what has gone, and what is elsewhere gets the same
        answer, so that nobody learns which files exist.

        Args:
          path: as a request named it; None stays None.

        Raises:
          UserError: it is anything else than a regular file with a name that an
            upload got.
        """
        if path is not None and not (self.has(path) and self._is_image(path)):
            raise UserError(GONE)
        return path

    def _is_image(self, path):
        return UPLOADED.fullmatch(os.path.basename(os.path.dirname(path))) is not None

    def has(self, path: str) -> bool:
        """Return whether it names a regular file of ours: folder/folder/file."""
        if not isinstance(path, str) or "\0" in path:
            return False
        inside, name = os.path.split(path)
        top, inside_name = os.path.split(inside)
        if top != self.folder or {name, inside_name} & {"", ".", ".."}:
            return False
        with contextlib.suppress(OSError, ValueError):
            return stat.S_ISDIR(os.lstat(inside).st_mode) and stat.S_ISREG(
                os.lstat(path).st_mode
            )
        return False

    def clean(self) -> None:
        """Remove what is older than KEPT_S; what cannot be removed stays."""
        with self._turn:
            for kept in self._files():
                if time.time() - kept.time > KEPT_S:
                    _remove(kept.path)
            self._remove_empty_folders()

    def make_room(self, num_bytes: int) -> bool:
        """Remove the oldest files until so many bytes fit in.

        Returns:
          Whether they do: files younger than SPARED_S stay.
        """
        with self._turn:
            files = sorted(self._files(), key=lambda kept: kept.time)
            left = MAX_KEPT_BYTES - num_bytes - sum(kept.num_bytes for kept in files)
            for kept in files:
                if left >= 0 or time.time() - kept.time < SPARED_S:
                    break
                if _remove(kept.path):
                    left += kept.num_bytes
            return left >= 0

    def _files(self) -> Iterator[Kept]:
        for folder, folders, names in os.walk(self.folder):
            if folder == self.folder and EXAMPLES in folders:
                folders.remove(EXAMPLES)
            for path in (os.path.join(folder, name) for name in names):
                with contextlib.suppress(OSError):
                    state = os.lstat(path)
                    size = max(state.st_size, LEAST_BYTES)
                    yield Kept(path, state.st_mtime, size)

    def _remove_empty_folders(self):
        """Remove those that nobody is about to write into."""
        for entry in list(os.scandir(self.folder)):
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    if time.time() - entry.stat().st_mtime > SPARED_S:
                        os.rmdir(entry.path)


def _remove(path):
    with contextlib.suppress(OSError):
        os.remove(path)
        return True
    return False
