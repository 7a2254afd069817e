"""Matrices in MATLAB's files of level 5, which `save` of MATLAB 5 to 7 writes.

https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf. SciPy reads more, but
a wrong byte can end its process, and a small file can unpack to gigabytes.
"""

import itertools
import struct
import zlib
from typing import Iterator, NamedTuple, Optional, Tuple

import numpy as np

from util.core import files

MAX_BYTES = 2**30  # of a file
HEADER = 128  # bytes
ORDERS = {b"IM": "<", b"MI": ">"}  # the last of them -> order of bytes in numbers
MATRIX, COMPRESSED = 14, 15  # kinds of elements
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8",
           12: "i8", 13: "u8"}  # fmt: skip
CLASSES = range(6, 16)  # of matrices: those of numbers
COMPLEX = 0x800
HEAD = 1024  # bytes that hold what comes before a matrix's numbers


class Matrix(NamedTuple):
    """A matrix whose numbers are still packed.

    Attributes:
      shape: (rows, columns), or of more axes.
    """

    shape: Tuple[int, ...]
    order: str
    element: bytes
    is_compressed: bool

    def values(self) -> np.ndarray:
        """Return its numbers, of its shape and the type in which they are stored.

        Raises:
          ValueError, zlib.error: the file is damaged.
        """
        content = self.element
        if self.is_compressed:
            most = HEAD + 8 * int(np.prod(self.shape))
            content = _unpacked(content, most, whole=True)
        *_, (kind, numbers) = itertools.islice(_elements(content, self.order), 4)
        if kind not in NUMBERS:
            raise ValueError(f"its numbers are of the kind {kind}, which is none")
        values = np.frombuffer(numbers, self.order + NUMBERS[kind])
        return values.reshape(self.shape, order="F")


def find(path: str, name: str) -> Matrix:
    """Find a matrix of real numbers in a file.

    Args:
      path: the file.
      name: of the variable.

    Raises:
      UserError: the file is missing or too large.
      ValueError, zlib.error: it is damaged, of another kind, or has no such matrix.
    """
    with open(files.require_file(path, MAX_BYTES), "rb") as file:
        content = file.read()
    order = ORDERS.get(content[HEADER - 2 : HEADER])
    if order is None:
        raise ValueError("it is no MATLAB file of level 5")
    for kind, element in _elements(content[HEADER:], order):
        head, is_compressed = element, kind == COMPRESSED
        if is_compressed:
            head = _unpacked(element, HEAD)
        elif kind != MATRIX:
            continue
        shape = _shape(head, order, name)
        if shape:
            return Matrix(shape, order, element, is_compressed)
    raise ValueError(f"it has no matrix {name}")


def _elements(content: bytes, order: str) -> Iterator[Tuple[int, bytes]]:
    """Yield kind and content of each element of a file or of a matrix."""
    place = 0
    while place < len(content):
        if place + 8 > len(content):
            raise ValueError("it ends early")
        kind, size = struct.unpack_from(order + "II", content, place)
        begin = place + 8
        if kind >> 16:  # up to four bytes, which stand in the place of the size
            kind, size, begin = kind & 0xFFFF, kind >> 16, place + 4
        end = begin + size
        if end > len(content):
            raise ValueError("it ends early")
        yield kind, content[begin:end]
        place = end if kind == COMPRESSED else end + -end % 8


def _unpacked(element: bytes, most: int, whole: bool = False) -> bytes:
    """Return the content of the matrix in a compressed element.

    Args:
      most: bytes of it to unpack.
      whole: whether that must be all.
    """
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(element, most + 8 + 1)
    if whole and not unpacker.eof:
        raise ValueError("it is longer than its size, or ends early")
    return content[8:]


def _shape(content: bytes, order: str, name: str) -> Optional[Tuple[int, ...]]:
    """Return the shape of a matrix that begins; None: it has another name."""
    elements = list(itertools.islice(_elements(content, order), 3))
    if len(elements) < 3 or elements[2][1] != name.encode("ascii"):
        return None
    (_, flags), (_, sizes), _ = elements
    (flags,) = struct.unpack_from(order + "I", flags)
    shape = struct.unpack(order + "i" * (len(sizes) // 4), sizes)
    if flags & 0xFF not in CLASSES or flags & COMPLEX:
        raise ValueError(f"{name} is no matrix of real numbers")
    if min(shape, default=-1) < 0:
        raise ValueError(f"{name} has the shape {shape}")
    return shape
