"""Layers that own variables. Their scope names are the checkpoint format.

Axes: B batch, T words, H rows, W columns, C channels.
"""

import numpy as np

from util.graph import products
from util.graph.compat import tf

# tf.contrib.layers.layer_norm, with which the published weights were trained.
LAYER_NORM_EPSILON = 1e-12
LEAST_LENGTH = 1e-6  # that l2_normalize divides by
MANY = 256  # channels: at full size, 500, the product was measured to pay


def conv_variables(channels, filters, size, name):
    """Make the kernel and the bias of a convolution.

    Args:
      channels, filters: int, C_in and C_out.
      size: int, side of the square kernel, in cells.
      name: str, scope of the variables below.

    Returns:
      (kernel, bias): float32 [size, size, channels, filters] and [filters].

    Variables:
      {name}/DW      [size, size, channels, filters]
      {name}/biases  [filters]
    """
    with tf.variable_scope(name):
        kernel = tf.get_variable(
            "DW",
            [size, size, channels, filters],
            initializer=tf.glorot_uniform_initializer(),
        )
        bias = tf.get_variable("biases", [filters], initializer=tf.zeros_initializer())
    return kernel, bias


def convolve(x, kernel, bias, stride=1, rate=1, activation=None):
    """Convolve with zero padding, add a bias and apply an activation.

    A 1x1 kernel is a matrix product of cells and kernel, which TensorFlow computes
    faster than it convolves, forward and in the gradients. So is a kernel from MANY
    channels to one, but for adding up what a cell gives to its neighbours.

    Args:
      x: float32 [B, H, W, C_in]; all but B known when the graph is built.
      kernel: float32 [size, size, C_in, C_out].
      bias: float32 [C_out].
      stride, rate: int, of the convolution; one of them is 1.
      activation: function of a tensor, or None.

    Returns:
      float32 [B, H / stride, W / stride, C_out].
    """
    size, _, channels, filters = kernel.shape.as_list()
    if size == 1:
        x = x if stride == 1 else x[:, ::stride, ::stride]
        cells = tf.reshape(x, [-1, channels])
        y = products.matmul(cells, tf.reshape(kernel, [channels, filters]))
    elif filters == stride == rate == 1 and channels >= MANY:
        y = _map_of_scores(x, kernel)
    elif rate == 1:
        y = products.conv2d(x, kernel, stride)
    else:
        y = products.atrous_conv2d(x, kernel, rate)
    y = tf.nn.bias_add(y, bias)
    y = y if activation is None else activation(y)
    return tf.reshape(y, [-1] + x.shape.as_list()[1:3] + [filters]) if size == 1 else y


def _map_of_scores(x, kernel):
    """Convolve with one output: what a cell gives to each neighbour, then their sums.

    The sums are a convolution, too, of size * size channels in place of C_in.
    """
    size, _, channels, _ = kernel.shape.as_list()
    places = size * size
    given = tf.matmul(
        tf.reshape(x, [-1, channels]),
        tf.reshape(kernel, [places, channels]),
        transpose_b=True,
    )
    given = tf.reshape(given, [-1] + x.shape.as_list()[1:3] + [places])
    each = np.eye(places, dtype=np.float32).reshape([size, size, places, 1])
    return tf.nn.conv2d(given, each, [1, 1, 1, 1], "SAME")


def conv(x, filters, size, name, activation=None):
    """Convolve with stride 1 and zero padding, and add a bias.

    Args:
      x: float32 [B, H, W, C_in]; all but B known when the graph is built.
      filters: int, C_out.
      size: int, side of the square kernel, in cells.
      name: str, scope of the variables below.
      activation: function of a tensor, or None.

    Returns:
      float32 [B, H, W, filters].

    Raises:
      ValueError: C_in is unknown.

    Variables:
      {name}/DW, {name}/biases: see conv_variables
    """
    channels = x.shape.as_list()[-1]
    if channels is None:
        raise ValueError(f"{name}: channels of {x} are unknown")
    kernel, bias = conv_variables(channels, filters, size, name)
    return convolve(x, kernel, bias, activation=activation)


def gated_conv(x, gate, name):
    """Let a gate for each channel choose from a 1x1 convolution: gate * relu(W x + b).

    Args:
      x: float32 [B, H, W, C_in]; all but B known when the graph is built.
      gate: float32 [B, 1, 1, C_out].
      name: str, scope of the variables below.

    Returns:
      float32 [B, H, W, C_out].

    Variables:
      {name}/DW, {name}/biases: see conv_variables
    """
    _, rows, columns, channels = x.shape.as_list()
    filters = gate.shape.as_list()[3]
    kernel, bias = conv_variables(channels, filters, 1, name)
    y = _gated_product(
        tf.reshape(x, [-1, rows * columns, channels]),
        tf.reshape(kernel, [channels, filters]),
        tf.convert_to_tensor(bias),
        tf.reshape(gate, [-1, 1, filters]),
    )
    return tf.reshape(y, [-1, rows, columns, filters])


@tf.custom_gradient
def _gated_product(cells, kernel, bias, gates):
    """Return gates * relu(cells kernel + bias), [B, N, C_out].

    The gate is the same for all cells of a sentence. In its own gradient that of the
    gate follows from those of the sentence's kernel and bias, without a pass over the
    cells.
    """
    _, number, channels = cells.shape.as_list()
    filters = kernel.shape.as_list()[1]
    offer = products.matmul(tf.reshape(cells, [-1, channels]), kernel)
    offer = tf.reshape(tf.nn.relu(tf.nn.bias_add(offer, bias)), [-1, number, filters])

    def gradient(slope):
        slope = tf.raw_ops.ReluGrad(gradients=slope, features=offer)
        # Before the gate.
        d_kernels = products.matmul(cells, slope, transpose_a=True)
        d_biases = tf.reduce_sum(slope, axis=1, keepdims=True)
        d_gates = tf.reduce_sum(d_kernels * kernel, axis=1, keepdims=True)
        slope = tf.reshape(gates * slope, [-1, filters])
        d_cells = products.matmul(slope, kernel, transpose_b=True)
        return (
            tf.reshape(d_cells, [-1, number, channels]),
            tf.reduce_sum(gates * d_kernels, axis=0),
            tf.reduce_sum(gates * d_biases, axis=[0, 1]),
            d_gates + d_biases * bias,
        )

    return gates * offer, gradient


def dropout_mask(shape, keep, seed):
    """Draw what dropout multiplies with: 0, or 1 / keep with the probability `keep`.

    Args:
      shape: list of int.
      keep: float in (0, 1).
      seed: int64 [2] tensor; the same one draws the same mask.

    Returns:
      float32 of that shape.
    """
    noise = tf.random.stateless_uniform(shape, seed)
    return tf.cast(noise < keep, tf.float32) / keep


def layer_norm_variables(channels, name):
    """Make the shift and the scale of a layer norm.

    Returns:
      (beta, gamma): float32 [channels].

    Variables:
      {name}/beta, {name}/gamma  [channels]
    """
    with tf.variable_scope(name):
        beta = tf.get_variable("beta", [channels], initializer=tf.zeros_initializer())
        gamma = tf.get_variable("gamma", [channels], initializer=tf.ones_initializer())
    return beta, gamma


def layer_norm(x, name):
    """Normalise each batch element over all its axes (arXiv:1607.06450).

    Args:
      x: float32 [B, H, W, C].
      name: str, scope of the variables below.

    Returns:
      float32 [B, H, W, C], mean 0 and variance 1 before scale and shift.

    Variables:
      {name}/beta, {name}/gamma: see layer_norm_variables
    """
    return normalise(x, *layer_norm_variables(x.shape.as_list()[-1], name))


@tf.custom_gradient
def normalise(x, beta, gamma):
    """Do what `layer_norm` says.

    Its own gradient takes fewer passes over x than the derived one: all sums over the
    cells follow from two sums for each channel.
    """
    # E x^2 - (E x)^2, without a pass for the squares as tf.nn.moments has it.
    count = float(np.prod(x.shape.as_list()[1:]))
    mean = tf.reduce_mean(x, [1, 2, 3], keepdims=True)
    length = tf.math.reduce_euclidean_norm(x, [1, 2, 3], keepdims=True)
    variance = tf.square(length) / count - mean * mean
    inverse = tf.rsqrt(tf.maximum(variance, 0.0) + LAYER_NORM_EPSILON)
    scale = gamma * inverse

    def gradient(slope):
        sum_slope = tf.reduce_sum(slope, [1, 2], keepdims=True)
        sum_product = tf.reduce_sum(slope * x, [1, 2], keepdims=True)
        d_gamma = inverse * (sum_product - mean * sum_slope)  # [B, 1, 1, C]

        def mean_of(sums):
            return tf.reduce_sum(gamma * sums, 3, keepdims=True) / count

        curve = inverse * inverse * mean_of(d_gamma)
        constant = mean * curve - inverse * mean_of(sum_slope)
        d_x = slope * scale + (constant - x * curve)
        d_beta = tf.reduce_sum(sum_slope, [0, 1, 2])
        return d_x, d_beta, tf.reduce_sum(d_gamma, [0, 1, 2])

    return x * scale + (beta - mean * scale), gradient


def resize_scores(scores, rows, columns):
    """Resize as tf.image.resize_bilinear does, with its origin in the corner.

    The gradient is that of two matrix products: TensorFlow's own one adds up pixel by
    pixel, which takes four times as long, and on a GPU in another order each time.

    Args:
      scores: float32 [B, h, w, 1]; h and w known.
      rows, columns: int, the new size.

    Returns:
      float32 [B, rows, columns, 1].
    """
    _, h, w, _ = scores.shape.as_list()
    from_rows, from_columns = bilinear_shares(h, rows), bilinear_shares(w, columns)

    @tf.custom_gradient
    def resize(x):
        def gradient(slope):
            by_columns = tf.matmul(tf.reshape(slope, [-1, columns]), from_columns)
            by_rows = tf.reshape(by_columns, [-1, rows, w])
            by_rows = tf.tensordot(by_rows, from_rows, [[1], [0]])  # [B, w, h]
            return tf.transpose(by_rows, [0, 2, 1])[..., tf.newaxis]

        return tf.image.resize_bilinear(x, [rows, columns]), gradient

    return resize(scores)


def bilinear_shares(before: int, after: int) -> np.ndarray:
    """Return what each place has of each one before a bilinear resizing.

    Args:
      before, after: int, lengths of an axis.

    Returns:
      float32 [after, before], 0..1, each row's sum is 1.

    Example:
      >>> bilinear_shares(2, 4).tolist()
      [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]]
    """
    place = np.arange(after, dtype=np.float32) * np.float32(before / after)
    lower = place.astype(int)
    upper = np.minimum(lower + 1, before - 1)
    share, all_rows = place - lower, np.arange(after)
    shares = np.zeros([after, before], np.float32)
    shares[all_rows, lower] = 1 - share
    shares[all_rows, upper] += share
    return shares


@tf.custom_gradient
def l2_normalize(x):
    """Scale to unit length along the last axis, as tf.nn.l2_normalize does.

    Its own gradient saves passes over x: y, the length and one sum say it all.

    Args:
      x: float32 [..., C].

    Returns:
      float32 [..., C].
    """
    length = tf.math.reduce_euclidean_norm(x, -1, keepdims=True)
    inverse = 1.0 / tf.maximum(length, LEAST_LENGTH)
    y = x * inverse

    def gradient(slope):
        # Below the least length the scale is a constant.
        along = tf.reduce_sum(slope * y, -1, keepdims=True)
        along *= tf.cast(length >= LEAST_LENGTH, tf.float32)
        return (slope - y * along) * inverse

    return y, gradient


def layer_norm_of_product(shares, rows, name):
    """Compute layer_norm(shares x rows) without ever making a pass over the product.

    Each cell's shares sum to 1, so that what is added to all rows is added to the
    product: mean and variance come from small matrices, and scale and shift go into
    the rows.

    Args:
      shares: float32 [B, N, T], not negative, sum 1 along T.
      rows: float32 [B, T, C].
      name: str, scope of the variables below.

    Returns:
      float32 [B, N, C].

    Variables:
      {name}/beta, {name}/gamma: see layer_norm_variables
    """
    _, cells, _ = shares.shape.as_list()
    _, _, channels = rows.shape.as_list()
    beta, gamma = layer_norm_variables(channels, name)
    mean_share = tf.reduce_mean(shares, axis=1, keepdims=True)
    rows -= tf.matmul(mean_share, tf.reduce_mean(rows, axis=2, keepdims=True))
    # The sum of squares of a product U R is that of (U^T U) * (R R^T).
    squares = tf.matmul(shares, shares, transpose_a=True)
    squares *= tf.matmul(rows, rows, transpose_b=True)
    variance = tf.reduce_sum(squares, axis=[1, 2], keepdims=True) / (cells * channels)
    rows *= tf.rsqrt(variance + LAYER_NORM_EPSILON)
    return tf.matmul(shares, rows * gamma + beta)


def coordinates(rows: int, columns: int) -> np.ndarray:
    """Describe each cell of a grid by its place and size.

    Args:
      rows, columns: int, the grid's size in cells.

    Returns:
      float32 [rows, columns, 8]: left, top, right, bottom, centre x, centre y, all in
      [-1, 1] over the image, then 1 / columns and 1 / rows.

    Example:
      >>> coordinates(1, 2)[0, 0].tolist()
      [-1.0, -1.0, 0.0, 1.0, -0.5, 0.0, 0.5, 1.0]
    """
    top, left = np.meshgrid(
        np.arange(rows) / rows * 2 - 1,
        np.arange(columns) / columns * 2 - 1,
        indexing="ij",
    )
    right, bottom = left + 2 / columns, top + 2 / rows
    centre_x, centre_y = left + 1 / columns, top + 1 / rows
    width, height = np.full_like(left, 1 / columns), np.full_like(top, 1 / rows)
    return np.stack(
        [left, top, right, bottom, centre_x, centre_y, width, height], axis=2
    ).astype(np.float32)
