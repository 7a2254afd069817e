"""Frames: whether annotations count the pixels of the stored or the upright image.

A photograph can say in its EXIF data how it is to be turned, and `im_processing` turns
it. Annotations may come from tools that did not. Where a turn exchanges rows and
columns, the size that annotations name tells; where it does not, nobody can know.

Axes: H rows, W columns.
"""

from typing import Optional, Tuple

import numpy as np

from util.data.datasets import STORED, UPRIGHT

Size = Tuple[int, int]  # height, width

_TURNS = {  # EXIF orientation -> from the stored image to the upright one
    1: lambda array: array,
    2: np.fliplr,
    3: lambda array: np.rot90(array, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda array: np.rot90(array, -1),
    7: lambda array: np.rot90(array, 2).T,
    8: np.rot90,
}


def turn(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a mask of the stored image upright.

    Args:
      mask: bool [H, W].
      orientation: of the image, 1 to 8, as EXIF counts.

    Returns:
      bool [H, W], or [W, H] from 5 on.

    Example:
      >>> turn(np.array([[True, False, False]]), 6).tolist()
      [[True], [False], [False]]
    """
    return np.ascontiguousarray(_TURNS[orientation](mask))


def stored_size(size: Size, orientation: int) -> Size:
    """Return the size of a stored image, from that of the upright one."""
    return size[::-1] if orientation > 4 else size


def told(annotated: Optional[Size], size: Size, orientation: int) -> Optional[str]:
    """Say which frame a size tells; None: it does not.

    Args:
      annotated: the size that annotations name; None: they name none.
      size: of the upright image.
      orientation: of the image, 1 to 8.

    Example:
      >>> told((40, 60), (60, 40), 6), told((40, 60), (40, 60), 3)
      ('stored', None)
    """
    if orientation == 1:
        return UPRIGHT
    stored = stored_size(size, orientation)
    if stored == size or annotated is None:
        return None
    return STORED if annotated == stored else UPRIGHT
