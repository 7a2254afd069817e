"""Masks that are images: what a file shows as the object; data/README.md has the rules.

Axes: H rows, W columns, C channels.
"""

from typing import Optional, Tuple

import numpy as np
from PIL import Image

from util.core.errors import UserError

LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP")  # formats that change values a little
MAX_LABEL = 31  # grey values up to it are numbers of objects, larger ones brightness
FLAT = 3  # pixels: a square of one grey is no edge between black and white


def to_mask(image: Image.Image, file_format: Optional[str] = None) -> np.ndarray:
    """Return the mask that an image shows.

    Args:
      image: of any mode of Pillow.
      file_format: Pillow's name of the format of its file.

    Returns:
      bool [H, W], True on the object.

    Raises:
      UserError: it is no mask: many greys, several brightnesses, nothing black.
    """
    colours, alpha = _channels(image)
    if not np.isfinite(colours).all() or colours.min() < 0:
        raise UserError("a mask has no negative values and no NaN")
    if alpha is not None:
        colours = _seen(colours, alpha)
    is_lossy = file_format in LOSSY
    level = colours.max(axis=2)
    top, shown = level.max(), level > 0
    is_white = level.min() > _part(top, 7, 8) if is_lossy else level.min() == top
    black = _part(top, 1, 8) if is_lossy else 0
    if level.min() > black and not is_white:
        raise UserError("no mask: nothing in it is black, and it has several values")
    object_ = level > _part(top, 1, 2)
    dark = shown & ~object_
    is_grey = (colours == colours[..., :1]).all()
    if not dark.any() or (is_grey and top <= MAX_LABEL and not is_lossy):
        return shown
    is_grey_pixel = (level > _part(top, 1, 8)) & (level < _part(top, 7, 8))
    if _is_flat(level, dark & is_grey_pixel if is_lossy else dark):
        if not is_grey and not is_lossy:
            return shown  # colours are numbers of objects, dark ones too
        raise UserError(f"no mask: it has areas of values between 0 and {top}")
    if is_grey_pixel.sum() > object_.sum():
        raise UserError(f"no mask: most of it is grey, between 0 and {top}")
    return object_


def _part(top, over: int, under: int):
    """Return a part of the largest level, in its own type, which takes less memory."""
    part = top.item() * over / under
    return part if top.dtype.kind == "f" else int(part)


def _channels(image: Image.Image) -> Tuple[np.ndarray, Optional[np.ndarray]]:
    """Return the colours, [H, W, C], and where there is transparency alpha, [H, W]."""
    mode = image.mode
    if mode in ("P", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif mode == "La":
        image = image.convert("LA")
    elif mode != "LA" and len(image.getbands()) > 1 and mode != "RGBA":
        image = image.convert("RGB")
    values = np.asarray(image)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.ndim == 2:
        return values[..., np.newaxis], None
    if image.mode in ("LA", "RGBA"):
        return values[..., :-1], values[..., -1]
    return values, None


def _seen(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return the colours on a black ground; of a cut-out in one colour, alpha."""
    visible = colours[alpha > 0]
    if not len(visible):
        return np.zeros_like(colours)
    if alpha.min() < alpha.max() and (visible == visible[0]).all():
        return alpha[..., np.newaxis]
    seen = colours.astype(np.uint16) * alpha[..., np.newaxis] // 255
    return seen.astype(np.uint8)


def _is_flat(level: np.ndarray, where: np.ndarray) -> bool:
    """Say whether a square of FLAT pixels has one level in a place."""
    flat = where
    for axis in (0, 1):
        size = level.shape[axis] - FLAT + 1
        if size < 1:
            return False
        first = np.take(level, range(size), axis)
        flat_here = np.take(flat, range(size), axis)
        for shift in range(1, FLAT):
            places = range(shift, shift + size)
            flat_here = flat_here & np.take(flat, places, axis)
            flat_here &= np.take(level, places, axis) == first
        level, flat = first, flat_here
    return bool(flat.any())
