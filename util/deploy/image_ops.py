"""What `im_processing` does, as operations of a graph, bit for bit.

Only the samples that are kept are computed, so that an image of 20000 x 10 pixels
needs no square of 20000 x 20000 on the way.

Axes: B batch, H rows and W columns of the network's input, C channels.
"""

from collections import namedtuple

from util.data.im_processing import MEAN_BGR
from util.graph.compat import tf

# Samples along an axis of `size` pixels that is scaled to `new_size`. All int64:
# before, part: [number], see `im_processing._samples`; inside: bool [number], False
# beyond the scaled axis.
Samples = namedtuple("Samples", "before part inside size new_size")


def to_network_input(im):
    """Turn images into the network's input, see `im_processing.to_network_input`.

    Args:
      im: uint8 [..., 3], RGB.

    Returns:
      float32 [..., 3], BGR minus MEAN_BGR.
    """
    return tf.cast(tf.cast(im[..., ::-1], tf.float64) - MEAN_BGR, tf.float32)


def fit_image(image, h, w):
    """Fit an image into the network's input size, see `im_processing.fit_image`.

    Args:
      image: uint8 [rows, columns, 3], RGB; any size from 1 x 1.
      h: int, height of the result, in pixels.
      w: int, width of the result, in pixels.

    Returns:
      uint8 [h, w, 3], RGB, zeros around.
    """
    rows, columns = _sides(image, 0)
    height, width = _scaled_sizes(rows, columns, h, w, tf.minimum)
    vertical = _samples(-((h - height) // 2), h, rows, height)
    horizontal = _samples(-((w - width) // 2), w, columns, width)
    dtype = tf.int32 if 255 * 4 * h * w < 2**31 else tf.int64
    resized = _interpolate(image, 0, vertical, dtype)
    resized = _interpolate(resized, 1, horizontal, dtype)
    resized = _round_ratio(resized, tf.cast(4 * height * width, dtype))
    low, high = tf.reduce_min(image), tf.reduce_max(image)
    resized = _clip(resized, tf.cast(low, dtype), tf.cast(high, dtype))
    inside = vertical.inside[:, tf.newaxis] & horizontal.inside
    fitted = resized * tf.cast(inside[..., tf.newaxis], dtype)
    fitted = tf.cast(fitted, tf.uint8)
    fitted.set_shape([h, w, 3])
    return fitted


def restore_mask(masks, rows, columns):
    """Bring masks back to the size of an image, see `im_processing.restore_mask`.

    Args:
      masks: bool [B, H, W], on the image as `fit_image` gives it.
      rows, columns: int64 scalars, the image's size.

    Returns:
      bool [B, rows, columns].
    """
    for axis, samples in enumerate(_covering(masks, rows, columns), start=1):
        touched = samples.before + tf.cast(samples.part > 0, tf.int64)
        masks = _take(masks, axis, samples.before, samples.size) | _take(
            masks, axis, touched, samples.size
        )
    return masks


def resize_and_crop(x, rows, columns):
    """Scale to cover and keep the centre, see `im_processing.resize_and_crop`.

    Args:
      x: float32 [B, H, W], on the image as `fit_image` gives it.
      rows, columns: int64 scalars, the image's size.

    Returns:
      float32 [B, rows, columns].
    """
    vertical, horizontal = _covering(x, rows, columns)
    resized = _interpolate(x, 1, vertical, tf.float32)
    resized = _interpolate(resized, 2, horizontal, tf.float32)
    scale = 4.0 * tf.cast(vertical.new_size, tf.float64)
    scale *= tf.cast(horizontal.new_size, tf.float64)
    resized /= tf.cast(scale, tf.float32)
    # Without an axis that grows rounding may leave the values of x, in numpy too.
    grows = vertical.new_size > vertical.size
    grows |= horizontal.new_size > horizontal.size
    free = tf.where(grows, 0.0, float("inf"))
    low = tf.reduce_min(x, axis=[1, 2], keepdims=True) - free
    return _clip(resized, low, tf.reduce_max(x, axis=[1, 2], keepdims=True) + free)


def _sides(x, first):
    """Return the sizes of two axes of `x`, int64 scalars."""
    return tf.unstack(tf.shape(x, out_type=tf.int64)[first : first + 2])


def _clip(x, low, high):
    return tf.minimum(tf.maximum(x, low), high)


def _round_ratio(x, y):
    """Return x / y of whole numbers that are not negative, rounded half to even.

    TensorFlow turns a division of floats by a constant into a product with its
    reciprocal, which misses the halves.
    """
    whole = x // y
    twice = 2 * (x - whole * y)
    up = (twice > y) | (tf.equal(twice, y) & tf.equal(whole % 2, 1))
    return whole + tf.cast(up, x.dtype)


def _scaled_sizes(rows, columns, h, w, choose):
    """Return int64 (height, width) of an image scaled to fit or to cover h x w."""
    sides = [tf.cast(side, tf.float64) for side in (rows, columns)]
    wanted = [tf.cast(side, tf.float64) for side in (h, w)]
    # A maximum that changes nothing: were the divisor a constant, see `_round_ratio`.
    ratios = [new / tf.maximum(old, -new) for new, old in zip(wanted, sides)]
    scale = choose(*ratios)
    one = tf.constant(1, tf.int64)
    return [
        tf.maximum(one, tf.cast(tf.round(side * scale), tf.int64)) for side in sides
    ]


def _covering(x, rows, columns):
    """Return the Samples of both axes that bring [B, H, W] to the image's size."""
    size = _sides(x, 1)
    new_size = _scaled_sizes(*size, rows, columns, tf.maximum)
    return [
        _samples((new - kept) // 2, kept, old, new)
        for old, new, kept in zip(size, new_size, (rows, columns))
    ]


def _samples(first, number, size, new_size):
    """Return Samples: `number` of the `new_size` ones, from the `first` on."""
    wanted = first + tf.range(tf.cast(number, tf.int64))
    sample = _clip(wanted, tf.constant(0, tf.int64), new_size - 1)
    # One pixel further on, such that nothing is negative.
    position = (2 * sample + 1) * size + new_size
    before = position // (2 * new_size)
    part = position - before * (2 * new_size)
    return Samples(before - 1, part, tf.equal(wanted, sample), size, new_size)


def _take(x, axis, pixel, size):
    """Gather along an axis; what lies outside is the pixel at the border."""
    return tf.gather(x, _clip(pixel, tf.constant(0, tf.int64), size - 1), axis=axis)


def _interpolate(x, axis, samples, dtype):
    """Resize one axis; see `im_processing._interpolate`."""
    terms = []
    for pixel, weight in (
        (samples.before, 2 * samples.new_size - samples.part),
        (samples.before + 1, samples.part),
    ):
        is_there = (pixel >= 0) & (pixel < samples.size)
        weight = tf.cast(weight * tf.cast(is_there, tf.int64), dtype)
        weight = tf.reshape(weight, [-1] + [1] * (x.shape.ndims - 1 - axis))
        terms.append(tf.cast(_take(x, axis, pixel, samples.size), dtype) * weight)
    return terms[0] + terms[1]
