"""Images: read, resized to fit, and as the network wants them.

Axes: H rows, W columns, C channels.
"""

import functools
import os
import warnings
from typing import Any, Callable, List, Tuple

import numpy as np
from PIL import Image, ImageOps

from util.core.errors import UserError
from util.data.mask_images import to_mask

STRIDE = 8  # pixels: of the network's input, the side of a cell of features
MAX_PIXELS = 10**8  # of an image: more is a mistake or an attack
# By name: Pillow's readers of others start programs (EPS: Ghostscript).
FORMATS = ["BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"]
ORIENTATION = 0x0112  # the tag of EXIF
MEAN_BGR = np.array((104.00698793, 116.66876762, 122.67891434))  # Caffe's ImageNet


def read_image(path: str) -> np.ndarray:
    """Read an image of one of FORMATS, of whatever mode, by its content.

    Args:
      path: the file.

    Returns:
      uint8 [H, W, 3], RGB, turned upright as its EXIF data say. Of 16 bits the
      high byte is taken, of 12 of them (nothing above 4095) the upper 8, and values
      up to 255 are taken as they are; transparency is left out.

    Raises:
      UserError: the file is missing, damaged, truncated or not an image.
    """
    return read_turned(path)[0]


def read_turned(path: str) -> Tuple[np.ndarray, int]:
    """Read an image, and say how it was turned.

    Returns:
      What `read_image` returns; the EXIF orientation of the file, 1 (as it is) to 8.

    Raises:
      UserError: see `read_image`.
    """
    return _read(path, "image", lambda image, _: _to_rgb(image))


def read_mask(path: str) -> Tuple[np.ndarray, int]:
    """Read a mask that is an image.

    Args:
      path: the file.

    Returns:
      bool [H, W], turned upright as its EXIF data say: True on what it shows, see
      `mask_images.to_mask`; the EXIF orientation of the file, 1 (as it is) to 8.

    Raises:
      UserError: the file is missing, damaged, truncated, not an image or no mask.
    """
    return _read(path, "mask", to_mask)


@functools.lru_cache(maxsize=None)
def formats() -> List[str]:
    """Return those of FORMATS that this Pillow was built with, for `Image.open`."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _read(path, what, convert):
    if not os.path.isfile(path):
        raise UserError(f"there is no {what} {path}")
    try:
        with warnings.catch_warnings():
            # Of sizes that are refused here, and of harmless oddities.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=formats()) as file:
                _check_size(*file.size[::-1])
                orientation = file.getexif().get(ORIENTATION)
                if orientation not in range(1, 9):
                    orientation = 1
                return convert(_upright(file), file.format), orientation
    except Exception as error:  # Pillow's readers raise anything on damaged files
        raise UserError(f"cannot read the {what} {path}: {error}") from error


def to_image(image: Any) -> np.ndarray:
    """Take an image in any of the forms that people have.

    Args:
      image: path of a file, see `read_image`; a Pillow image; or uint8 [H, W],
        [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA.

    Returns:
      uint8 [H, W, 3], RGB, H and W at least 1, at most MAX_PIXELS in all.

    Raises:
      UserError: it is none of these, or too large.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(os.fspath(image))
    if isinstance(image, Image.Image):
        _check_size(*image.size[::-1])
        return _to_rgb(_upright(image))
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"an image must be a path, a Pillow image or an array, not {image!r}"
        )
    array = image[..., np.newaxis] if image.ndim == 2 else image
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise UserError(
            f"an image must be uint8 [H, W], [H, W, 3] or [H, W, 4], not "
            f"{image.dtype} {list(image.shape)}"
        )
    _check_size(*array.shape[:2])
    return np.ascontiguousarray(np.broadcast_to(array[..., :3], array.shape[:2] + (3,)))


def _upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF data say."""
    if image.format == "TIFF":  # turned while it is loaded; older Pillows keep the tag
        image.load()
        return image
    return ImageOps.exif_transpose(image)


def _check_size(rows: int, columns: int) -> None:
    if not 1 <= rows * columns <= MAX_PIXELS:
        raise UserError(
            f"{columns} x {rows} pixels; an image has 1 to {MAX_PIXELS} of them: "
            "make it smaller"
        )


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Return uint8 [H, W, 3] of a Pillow image of any mode."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        bits = next((n for n in (8, 12) if values.max() < 2**n), 16)
        values = values >> (bits - 8)
        np.clip(values, 0, 255, out=values)
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode == "P":
        # Pillow warns about transparent palettes unless asked to keep them first.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def to_network_input(im: np.ndarray) -> np.ndarray:
    """Turn images into the network's input.

    Args:
      im: uint8 [..., 3], RGB.

    Returns:
      float32 [..., 3], BGR minus MEAN_BGR.
    """
    return (im[..., ::-1].astype(np.float32) - MEAN_BGR).astype(np.float32)


ALL = slice(None)  # the whole of an axis


def _samples(
    size: int, new_size: int, kept: slice = ALL
) -> Tuple[np.ndarray, np.ndarray]:
    """Lay `new_size` samples evenly over `size` pixels, in whole numbers.

    Returns, of the samples that are kept:
      (before, part): the pixel at or before each sample, -1 before the first one; and
      the way on to the sample, in pixels / (2 * new_size).
    """
    position = (2 * np.arange(new_size)[kept] + 1) * size - new_size
    return np.divmod(position, 2 * new_size)


def _interpolate(
    im: np.ndarray, axis: int, new_size: int, dtype, kept: slice
) -> np.ndarray:
    """Resize one axis, zeros outside; the values become 2 * new_size times larger."""
    size = im.shape[axis]
    before, part = _samples(size, new_size, kept)
    terms = []
    for pixel, weight in ((before, 2 * new_size - part), (before + 1, part)):
        weight = np.where((pixel >= 0) & (pixel < size), weight, 0).astype(dtype)
        weight = weight.reshape((-1,) + (1,) * (im.ndim - 1 - axis))
        terms.append(np.take(im, pixel, axis, mode="clip") * weight)
    terms[0] += terms[1]
    return terms[0]


def _resize(
    im: np.ndarray, height: int, width: int, rows: slice = ALL, columns: slice = ALL
) -> np.ndarray:
    """Resize as scikit-image did in 2018; all its defaults have changed since.

    Bilinear without anti-aliasing, zeros outside, kept within the values of `im`. For
    uint8 it counts in whole numbers up to the last division, so that every version of
    numpy gives the same.

    Args:
      im: [H, W] or [H, W, C]; uint8, or float.
      height: rows of the result.
      width: columns of the result.
      rows: those of the result to compute, no others.
      columns: likewise.

    Returns:
      float [height, width] or [height, width, C], in the unit of `im`.
    """
    scale = 4.0 * height * width
    dtype = im.dtype
    if dtype == np.uint8:
        dtype = np.int32 if 255 * scale < 2**31 else np.float64
    resized = _interpolate(im, 0, height, dtype, rows)
    resized = _interpolate(resized, 1, width, dtype, columns) / scale
    # Only an axis that grows has samples that lie partly outside.
    if height > im.shape[0] or width > im.shape[1]:
        resized = np.clip(resized, im.min(), im.max())
    return resized


def _resize_to_unit(
    im: np.ndarray, height: int, width: int, rows: slice = ALL, columns: slice = ALL
) -> np.ndarray:
    """Resize; 0..255 of uint8 becomes 0..1."""
    resized = _resize(im, height, width, rows, columns)
    return resized / 255 if im.dtype == np.uint8 else resized


def _resize_to_uint8(im: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.rint(_resize(im, height, width)).astype(np.uint8)


def _resize_mask(
    mask: np.ndarray, height: int, width: int, rows: slice = ALL, columns: slice = ALL
) -> np.ndarray:
    """Return where `_resize` of 0 and 1 is not 0: where samples touch a True pixel."""
    resized = _resize_mask_rows(mask, height, rows)
    return _resize_mask_rows(resized.T, width, columns).T


def _resize_mask_rows(mask: np.ndarray, height: int, kept: slice) -> np.ndarray:
    before, part = _samples(len(mask), height, kept)
    above = np.take(mask, before, axis=0, mode="clip")
    return above | np.take(mask, before + (part > 0), axis=0, mode="clip")


def _scaled_size(im: np.ndarray, scale: float) -> List[int]:
    """Return [height, width] of `im` times `scale`, at least one pixel each."""
    return [max(1, int(np.round(side * scale))) for side in im.shape[:2]]


def _fit(resize: Callable, im: np.ndarray, h: int, w: int) -> np.ndarray:
    """Scale to fit with `resize`, centred, with zeros around."""
    height, width = _scaled_size(im, min(h / im.shape[0], w / im.shape[1]))
    resized = resize(im, height, width)
    top, left = (h - height) // 2, (w - width) // 2
    padded = np.zeros((h, w) + im.shape[2:], resized.dtype)
    padded[top : top + height, left : left + width] = resized
    return padded


def _cover(resize: Callable, im: np.ndarray, h: int, w: int) -> np.ndarray:
    """Scale to cover with `resize` and keep the centre.

    What is cut off is not computed: of a long, narrow image that is nearly all.
    """
    height, width = _scaled_size(im, max(h / im.shape[0], w / im.shape[1]))
    top, left = (height - h) // 2, (width - w) // 2
    return resize(im, height, width, slice(top, top + h), slice(left, left + w))


def resize_and_pad(im: np.ndarray, input_h: int, input_w: int) -> np.ndarray:
    """Scale to fit, centred, with zeros around.

    Args:
      im: [H, W] or [H, W, C]; uint8 0..255, or float.
      input_h: height of the result, in pixels.
      input_w: width of the result, in pixels.

    Returns:
      float [input_h, input_w] or [input_h, input_w, C]; 0..1 for uint8. Of an odd
      rest the smaller half lies above and left.

    Example:
      >>> resize_and_pad(np.full([2, 4], 255, np.uint8), 4, 4).tolist()[1:]
      [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    return _fit(_resize_to_unit, im, input_h, input_w)


def resize_and_crop(im: np.ndarray, input_h: int, input_w: int) -> np.ndarray:
    """Scale to cover and keep the centre, the way back from `resize_and_pad`.

    Args:
      im: [H, W] or [H, W, C]; uint8 0..255, or float.
      input_h: height of the result, in pixels.
      input_w: width of the result, in pixels.

    Returns:
      float [input_h, input_w] or [input_h, input_w, C]; 0..1 for uint8.

    Example:
      >>> padded = resize_and_pad(np.full([2, 4], 255, np.uint8), 4, 4)
      >>> resize_and_crop(padded, 2, 4).tolist()
      [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    return _cover(_resize_to_unit, im, input_h, input_w)


def fit_image(im: np.ndarray, h: int, w: int) -> np.ndarray:
    """Fit an image into the network's input size.

    Args:
      im: uint8 [H, W, 3], RGB.
      h: height of the result, in pixels.
      w: width of the result, in pixels.

    Returns:
      uint8 [h, w, 3], RGB, zeros around.
    """
    return _fit(_resize_to_uint8, im, h, w)


def fit_mask(mask: np.ndarray, h: int, w: int) -> np.ndarray:
    """Fit a mask the same way; every pixel that it touches counts, so edges grow.

    Args:
      mask: bool [H, W], True on the object.
      h: height of the result, in pixels.
      w: width of the result, in pixels.

    Returns:
      bool [h, w].
    """
    return _fit(_resize_mask, mask, h, w)


def restore_mask(mask: np.ndarray, h: int, w: int) -> np.ndarray:
    """Bring a mask that was found back to the size of its image.

    Args:
      mask: bool [H, W], on the image as `fit_image` gives it.
      h: height of the image, in pixels.
      w: width of the image, in pixels.

    Returns:
      bool [h, w]; every pixel that the mask touches counts, as in `fit_mask`.
    """
    return _cover(_resize_mask, mask, h, w)
