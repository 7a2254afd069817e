"""Arrays in .npz files: written whole or not at all, and read without pickles."""

import contextlib
import functools
import io
import os
import re
import zipfile
from typing import Any, Dict, Iterator, Mapping

import numpy as np

from util.core.errors import UserError
from util.core.files import writing

MAX_BYTES = 2**30  # of a file's arrays: a thousandth of it can unpack to them


def as_npy(array: Any) -> bytes:
    """Return an array as files hold it, for `write` to put into several of them.

    Raises:
      ValueError: it holds objects, which only pickles can.
    """
    array = np.asanyarray(array)
    if array.dtype.hasobject:
        raise ValueError(f"cannot write objects: {array}")
    form = np.lib.format.header_data_from_array_1_0(array)
    header = _npy_header(form["descr"], form["fortran_order"], form["shape"])
    return header + array.tobytes("A")


@functools.lru_cache(maxsize=1000)
def _npy_header(descr, fortran_order, shape):
    # Old versions of numpy take longer for it than for all the rest.
    header = io.BytesIO()
    form = {"descr": descr, "fortran_order": fortran_order, "shape": shape}
    np.lib.format.write_array_header_1_0(header, form)
    return header.getvalue()


def write(path: str, arrays: Dict[str, Any], deflate: bool = False) -> None:
    """Write the bytes that np.savez writes, in less than its time.

    Args:
      path: the file to make or replace.
      arrays: key -> array, or what `as_npy` made of it.
      deflate: pack the arrays, fast rather than tight.

    Raises:
      UserError: the file cannot be written.
    """
    content = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with zipfile.ZipFile(content, "w", method, compresslevel=1) as archive:
        for key, array in arrays.items():
            npy = array if isinstance(array, bytes) else as_npy(array)
            with archive.open(key + ".npy", "w", force_zip64=True) as member:
                member.write(npy)
        try:
            _check_size(sum(member.file_size for member in archive.infolist()))
        except ValueError as error:
            raise UserError(f"cannot write {path}: {error}") from error
    with writing(path) as file:
        file.write(content.getbuffer())


def is_whole(path: str) -> bool:
    """Say whether a file is there with its end, where a .npz has its contents."""
    return zipfile.is_zipfile(path)


def numbered_files(folder: str, prefix: str) -> Dict[int, str]:
    """Return number -> path of the files `<prefix>_<number>.npz` in a folder."""
    if not os.path.isdir(folder):
        return {}
    pattern = re.compile(re.escape(prefix) + r"_(0|[1-9][0-9]*)\.npz")
    matches = map(pattern.fullmatch, os.listdir(folder))
    return {int(m.group(1)): os.path.join(folder, m.group()) for m in matches if m}


def _check_size(size):
    if size > MAX_BYTES:
        raise ValueError(f"its arrays have {size} bytes, more than {MAX_BYTES}")


@contextlib.contextmanager
def opened(path: str, what: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Open a file to read arrays from it.

    Args:
      path: the file.
      what: what to call it in an error.

    Yields:
      key -> array, read when asked for.

    Raises:
      UserError: the file is missing or damaged, or the body of the `with` raised
        whatever; names the file.
    """
    try:
        # numpy before 1.20 complains on stderr about what is not a zip file.
        if not is_whole(path):
            raise ValueError("it is missing, or not whole")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            # No more than a zip file says of its members is ever unpacked.
            _check_size(sum(member.file_size for member in arrays.zip.infolist()))
            yield arrays
    except Exception as error:  # a damaged file makes numpy raise almost anything
        raise UserError(
            f"cannot read the {what} {path} ({error}): delete it and build it again"
        ) from error
