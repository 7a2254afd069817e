"""DeepLab ResNet-101 (arXiv:1512.03385, arXiv:1606.00915), up to its last block.

The names are those of the Caffe model. Blocks 4 and 5 are dilated instead of strided,
so that blocks 3 to 5 all end on a grid of an eighth of the image's side. Batch
normalisation uses its stored moments, in training too.

Axes: B batch, H rows, W columns, C channels.
"""

import itertools
import re
from collections import namedtuple

import numpy as np

from util.graph.compat import tf
from util.graph.layers import convolve

Block = namedtuple("Block", "number units width stride rate")

BLOCKS = (
    Block("2", ["a", "b", "c"], 64, stride=1, rate=1),
    Block("3", ["a"] + ["b%d" % i for i in range(1, 4)], 128, stride=2, rate=1),
    Block("4", ["a"] + ["b%d" % i for i in range(1, 23)], 256, stride=1, rate=2),
    Block("5", ["a", "b", "c"], 512, stride=1, rate=4),
)
UNITS = tuple(len(block.units) for block in BLOCKS)  # of ResNet-101
WIDTH = 64  # of ResNet-101: channels of the stem
CHANNELS = {"c5": 2048, "c4": 1024, "c3": 512}  # of the levels, deep to shallow
LEVELS = tuple(CHANNELS)
BATCH_NORM_EPSILON = 1e-3
# What a unit drawn at random adds to its shortcut: the first of a block half of its
# branch, the others nothing, as if they had not been trained yet (arXiv:1706.02677).
# Added in full, 33 random branches bury what the image shows.
FIRST_UNIT_SCALE = 0.5
# Graph collection of (stored moment, moment of this batch), see `calibrate`.
MOMENTS = "backbone_moments"


def conv_bn(
    x, filters, size, name, stride=1, rate=1, activation=None, batch_moments=False
):
    """Convolve without a bias, normalise and apply an activation.

    Args:
      x: float32 [B, H, W, C_in].
      filters: int, C_out.
      size: int, side of the square kernel.
      name: str, "conv1", or what follows "res" and "bn" in the names below.
      stride, rate: int, of the convolution; one of them is 1.
      activation: function of a tensor, or None.
      batch_moments: bool, normalise with the moments of this batch and note them in
        the collection MOMENTS, instead of using the stored ones.

    Returns:
      float32 [B, H / stride, W / stride, filters].

    Variables:
      res{name}/weights  [size, size, C_in, filters]
      bn{name}/beta, gamma, moving_mean, moving_variance  [filters]
      for the stem: conv1/weights, bn_conv1/...
    """
    stem = name == "conv1"
    with tf.variable_scope(name if stem else "res" + name):
        kernel = tf.get_variable(
            "weights",
            [size, size, x.shape.as_list()[-1], filters],
            initializer=tf.variance_scaling_initializer(2.0),
        )
    with tf.variable_scope("bn_conv1" if stem else "bn" + name):
        zeros, ones = tf.zeros_initializer(), tf.ones_initializer()
        beta = tf.get_variable("beta", [filters], initializer=zeros)
        gamma = tf.get_variable("gamma", [filters], initializer=ones)
        mean = tf.get_variable(
            "moving_mean", [filters], initializer=zeros, trainable=False
        )
        variance = tf.get_variable(
            "moving_variance", [filters], initializer=ones, trainable=False
        )
    if batch_moments:
        y = convolve(x, kernel, tf.zeros([filters]), stride, rate)
        batch_mean, batch_variance = tf.nn.moments(y, [0, 1, 2])
        tf.add_to_collection(MOMENTS, (mean, batch_mean))
        tf.add_to_collection(MOMENTS, (variance, batch_variance))
        y = tf.nn.batch_normalization(
            y, batch_mean, batch_variance, beta, gamma, BATCH_NORM_EPSILON
        )
        return y if activation is None else activation(y)
    # The stored moments are constants: they fold into the kernel and a bias.
    scale = gamma * tf.rsqrt(variance + BATCH_NORM_EPSILON)
    return convolve(x, kernel * scale, beta - mean * scale, stride, rate, activation)


def bottleneck(x, name, width, stride, rate, project, batch_moments):
    """Return relu(shortcut + 1x1 -> 3x3 -> 1x1) of `x`, with 4 * width channels."""
    branch = name + "_branch"

    def layer(x, filters, size, which, **options):
        return conv_bn(
            x, filters, size, branch + which, batch_moments=batch_moments, **options
        )

    shortcut = layer(x, 4 * width, 1, "1", stride=stride) if project else x
    y = layer(x, width, 1, "2a", stride=stride, activation=tf.nn.relu)
    y = layer(y, width, 3, "2b", rate=rate, activation=tf.nn.relu)
    return tf.nn.relu(shortcut + layer(y, 4 * width, 1, "2c"))


def features(image, batch_moments=False, units=UNITS, width=WIDTH):
    """Compute the feature levels of a batch of images.

    Args:
      image: float32 [B, H, W, 3], BGR minus the mean, see
        `im_processing.to_network_input`. H and W divisible by 8.
      batch_moments: bool, see `conv_bn`.
      units: how many each block has, of those of ResNet-101, at least one.
      width: int, channels of the stem; those of all layers shrink alike.

    Returns:
      dict: c3, c4, c5 -> float32 [B, H / 8, W / 8, C], C is 8, 16, 32 times `width`:
      512, 1024, 2048.

    Variables:
      the 520 of the backbone, fewer with fewer units, see `conv_bn`
    """
    x = conv_bn(image, width, 7, "conv1", 2, 1, tf.nn.relu, batch_moments)
    x = tf.nn.max_pool(x, [1, 3, 3, 1], [1, 2, 2, 1], "SAME")
    levels = {}
    for block, number in zip(BLOCKS, units):
        # Cells a rate apart never meet within a block: as images of their own they
        # need no dilation, if all of these have the same size.
        apart = block.rate
        if any(side % apart for side in x.shape.as_list()[1:3]):
            apart = 1
        x = _take_apart(x, apart)
        for unit in block.units[:number]:
            first = unit == "a"
            x = bottleneck(
                x,
                block.number + unit,
                block.width * width // WIDTH,
                stride=block.stride if first else 1,
                rate=block.rate // apart,
                project=first,
                batch_moments=batch_moments,
            )
        x = levels["c" + block.number] = _put_together(x, apart)
    del levels["c2"]
    return levels


def _take_apart(x, rate):
    """Turn each image into rate * rate ones of every rate-th row and column."""
    if rate == 1:
        return x
    _, rows, columns, channels = x.shape.as_list()
    x = tf.space_to_batch(x, [[0, 0], [0, 0]], block_size=rate)
    return tf.reshape(x, [-1, rows // rate, columns // rate, channels])


def _put_together(x, rate):
    """Undo `_take_apart`."""
    if rate == 1:
        return x
    _, rows, columns, channels = x.shape.as_list()
    x = tf.batch_to_space(x, [[0, 0], [0, 0]], block_size=rate)
    return tf.reshape(x, [-1, rows * rate, columns * rate, channels])


def stored_sizes(shapes):
    """Return the arguments of `features` that a checkpoint's backbone was built with.

    Args:
      shapes: dict, name of its variables -> shape.

    Returns:
      dict, with `units`, a list of int, and `width`, an int, where they are not those
      of ResNet-101; a stem that is no kernel tells nothing, and does not load.

    Example:
      >>> stored_sizes({"conv1/weights": [7, 7, 3, 16], "res2a_branch1/weights": []})
      {'units': [1, 0, 0, 0], 'width': 16}
    """
    matches = (re.match("res([2-5][a-z][0-9]*)_", name) for name in shapes)
    found = {match.group(1) for match in matches if match}
    units = [
        sum(block.number + unit in found for unit in block.units) for block in BLOCKS
    ]
    sizes = {}
    if any(units) and units != [len(block.units) for block in BLOCKS]:
        sizes["units"] = units
    stem = shapes.get("conv1/weights", [])
    if len(stem) == 4 and stem[3] not in (0, WIDTH):
        sizes["width"] = stem[3]
    return sizes


def calibrate(session, batches):
    """Make a backbone that was drawn at random usable.

    Args:
      session: of the graph that `features` was built in; variables are initialised.
      batches: iterable of float32 [B, H, W, 3] as `features` takes them, one size.

    Variables:
      moving_mean, moving_variance of all layers; gamma of each unit's last layer
    """
    quieten_units(session)
    batches = iter(batches)
    first = next(batches)
    with session.graph.as_default():
        image = tf.placeholder(tf.float32, [None, *first.shape[1:]])
        shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
        with tf.variable_scope(tf.get_variable_scope(), reuse=True):
            features(image, batch_moments=True, **stored_sizes(shapes))
    measure_moments(session, image, itertools.chain([first], batches))


def quieten_units(session):
    """Set what each unit adds to its shortcut at first, see FIRST_UNIT_SCALE.

    Args:
      session: of a graph with the backbone, whose variables are initialised.

    Variables:
      gamma of each unit's last layer
    """
    with session.graph.as_default():
        quiet = []
        for variable in tf.global_variables():
            if variable.op.name.endswith("_branch2c/gamma"):
                first = "a_branch" in variable.op.name
                scale = FIRST_UNIT_SCALE if first else 0.0
                quiet.append(tf.assign(variable, scale * tf.ones_like(variable)))
        # At once: TensorFlow prepares the whole graph anew for each set of fetches.
        session.run(quiet)


def measure_moments(session, image, batches):
    """Store each layer's moments of some images, so that features keep a sane scale.

    They are measured while the layers before are normalised by theirs.

    Args:
      session: of a graph with `features(image, batch_moments=True)`.
      image: the placeholder.
      batches: iterable of what to feed it with.

    Variables:
      moving_mean, moving_variance of all layers
    """
    with session.graph.as_default():
        stored, of_batch = zip(*tf.get_collection(MOMENTS))
        measured = [session.run(of_batch, {image: batch}) for batch in batches]
        means = [np.mean(values, axis=0) for values in zip(*measured)]
        session.run([tf.assign(s, mean) for s, mean in zip(stored, means)])
