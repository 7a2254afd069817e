"""Pictures: read, resized to fit, and as the network wants them.

Axes: H rows, W columns, C channels.
"""

import os

import numpy as np
import skimage.transform
from PIL import Image, ImageOps

from util.errors import UserError

MEAN_BGR = np.array((104.00698793, 116.66876762, 122.67891434))  # Caffe's ImageNet


def read_picture(path: str) -> np.ndarray:
    """Read a picture of any kind that Pillow knows.

    Args:
      path: the file.

    Returns:
      uint8 [H, W, 3], RGB, turned upright as its EXIF data say. Of 16 bits the
      high byte is taken; transparency is left out.

    Raises:
      UserError: the file is missing, damaged, truncated or no picture.
    """
    if not os.path.isfile(path):
        raise UserError(f"there is no picture {path}")
    try:
        with Image.open(path) as file:
            return _to_rgb(ImageOps.exif_transpose(file))
    except Exception as error:  # Pillow's readers raise anything on damaged files
        raise UserError(f"cannot read the picture {path}: {error}") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Return uint8 [H, W, 3] of a Pillow image of any mode."""
    if image.mode.startswith("I"):
        high_byte = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
        image = Image.fromarray(high_byte.astype(np.uint8))
    if image.mode == "P":
        # Pillow warns about transparent palettes unless told to keep them first.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def to_network_input(im: np.ndarray) -> np.ndarray:
    """Turn pictures into the network's input.

    Args:
      im: uint8 [..., 3], RGB.

    Returns:
      float32 [..., 3], BGR minus MEAN_BGR.
    """
    return (im[..., ::-1].astype(np.float32) - MEAN_BGR).astype(np.float32)


def _resize(im: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize as scikit-image did in 2018; all its defaults have changed since."""
    return skimage.transform.resize(
        im,
        (height, width),
        order=1,
        mode="constant",
        cval=0,
        clip=True,
        preserve_range=False,
        anti_aliasing=False,
    )


def _scaled_size(im, scale):
    """Return (height, width) of `im` times `scale`, at least one pixel each."""
    return [max(1, int(np.round(side * scale))) for side in im.shape[:2]]


def resize_and_pad(im: np.ndarray, input_h: int, input_w: int) -> np.ndarray:
    """Scale to fit, centred, with zeros around.

    Args:
      im: [H, W] or [H, W, C]; uint8 0..255, or float.
      input_h: height of the result, in pixels.
      input_w: width of the result, in pixels.

    Returns:
      float [input_h, input_w] or [input_h, input_w, C]; 0..1 for uint8. Of an odd
      rest the smaller half lies above and left.
    """
    scale = min(input_h / im.shape[0], input_w / im.shape[1])
    height, width = _scaled_size(im, scale)
    resized = _resize(im, height, width)
    top, left = (input_h - height) // 2, (input_w - width) // 2
    padded = np.zeros((input_h, input_w) + im.shape[2:], resized.dtype)
    padded[top : top + height, left : left + width] = resized
    return padded


def resize_and_crop(im: np.ndarray, input_h: int, input_w: int) -> np.ndarray:
    """Scale to cover and keep the centre, the way back from `resize_and_pad`.

    Args:
      im: [H, W] or [H, W, C]; uint8 0..255, or float.
      input_h: height of the result, in pixels.
      input_w: width of the result, in pixels.

    Returns:
      float [input_h, input_w] or [input_h, input_w, C]; 0..1 for uint8.
    """
    scale = max(input_h / im.shape[0], input_w / im.shape[1])
    height, width = _scaled_size(im, scale)
    top, left = (height - input_h) // 2, (width - input_w) // 2
    resized = _resize(im, height, width)
    return resized[top : top + input_h, left : left + input_w]


def fit_picture(im: np.ndarray, h: int, w: int) -> np.ndarray:
    """Fit a picture into the network's input size.

    Args:
      im: uint8 [H, W, 3], RGB.
      h: height of the result, in pixels.
      w: width of the result, in pixels.

    Returns:
      uint8 [h, w, 3], RGB, zeros around.
    """
    return np.rint(255 * resize_and_pad(im, h, w)).astype(np.uint8)


def fit_mask(mask: np.ndarray, h: int, w: int) -> np.ndarray:
    """Fit a mask the same way; every pixel that it touches counts, so edges grow.

    Args:
      mask: bool [H, W], True on the object.
      h: height of the result, in pixels.
      w: width of the result, in pixels.

    Returns:
      bool [h, w].
    """
    return resize_and_pad(mask.astype(np.float64), h, w) > 0


def restore_mask(mask: np.ndarray, h: int, w: int) -> np.ndarray:
    """Bring a mask that was found back to the size of its picture.

    Args:
      mask: bool [H, W], on the picture as `fit_picture` gives it.
      h: height of the picture, in pixels.
      w: width of the picture, in pixels.

    Returns:
      bool [h, w]; every pixel that the mask touches counts, as in `fit_mask`.
    """
    return resize_and_crop(mask.astype(np.float64), h, w) != 0
