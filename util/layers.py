"""Layers that own variables. Their scope names are the checkpoint format.

Axes: B batch, T words, H rows, W columns, C channels.
"""

from util.compat import tf

# tf.contrib.layers.layer_norm, with which the published weights were trained.
LAYER_NORM_EPSILON = 1e-12


def conv(x, filters, size, name):
    """Convolve with stride 1 and zero padding, then add a bias.

    Args:
      x: float32 [B, H, W, C_in]; C_in known when the graph is built.
      filters: int, C_out.
      size: int, side of the square kernel, in cells.
      name: str, scope of the variables below.

    Returns:
      float32 [B, H, W, filters], before any activation.

    Raises:
      ValueError: C_in is unknown.

    Variables:
      {name}/DW      [size, size, C_in, filters]
      {name}/biases  [filters]
    """
    channels = x.shape.as_list()[-1]
    if channels is None:
        raise ValueError("{}: channels of {} are unknown".format(name, x))
    with tf.variable_scope(name):
        kernel = tf.get_variable(
            "DW",
            [size, size, channels, filters],
            initializer=tf.glorot_uniform_initializer(),
        )
        bias = tf.get_variable("biases", [filters], initializer=tf.zeros_initializer())
    return tf.nn.bias_add(tf.nn.conv2d(x, kernel, [1, 1, 1, 1], "SAME"), bias)


def layer_norm(x, name):
    """Normalise each batch element over all its axes (arXiv:1607.06450).

    Args:
      x: float32 [B, H, W, C].
      name: str, scope of the variables below.

    Returns:
      float32 [B, H, W, C], mean 0 and variance 1 before scale and shift.

    Variables:
      {name}/beta, {name}/gamma  [C]
    """
    channels = x.shape.as_list()[-1]
    with tf.variable_scope(name):
        beta = tf.get_variable("beta", [channels], initializer=tf.zeros_initializer())
        gamma = tf.get_variable("gamma", [channels], initializer=tf.ones_initializer())
    mean, variance = tf.nn.moments(x, [1, 2, 3], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, LAYER_NORM_EPSILON)


def lstm(x, is_word, size, name):
    """Read sentences with an LSTM; padding leaves its state alone.

    Args:
      x: float32 [B, T, C_in], one vector a word; T and C_in known.
      is_word: bool [B, T], False where the position is padding.
      size: int, C of the state.
      name: str, scope of the variables below.

    Returns:
      float32 [B, T, size], zeros at padding.

    Variables:
      {name}/kernel  [C_in + size, 4 * size], gates in the order input, candidate,
                     forget, output (that of BasicLSTMCell)
      {name}/bias    [4 * size]
    """
    _, steps, width = x.shape.as_list()
    with tf.variable_scope(name):
        kernel = tf.get_variable("kernel", [width + size, 4 * size])
        bias = tf.get_variable("bias", [4 * size], initializer=tf.zeros_initializer())
    from_words = tf.tensordot(x, kernel[:width], 1) + bias
    from_hidden = kernel[width:]
    keep = tf.cast(is_word, tf.float32)[:, :, tf.newaxis]
    cell = hidden = tf.zeros_like(from_words[:, 0, :size])
    outputs = []
    for step in range(steps):
        gates = from_words[:, step] + tf.matmul(hidden, from_hidden)
        i, j, f, o = tf.split(gates, 4, axis=1)
        new_cell = tf.sigmoid(f + 1.0) * cell + tf.sigmoid(i) * tf.tanh(j)
        new_hidden = tf.sigmoid(o) * tf.tanh(new_cell)
        kept = keep[:, step]
        cell = kept * new_cell + (1.0 - kept) * cell
        hidden = kept * new_hidden + (1.0 - kept) * hidden
        outputs.append(kept * new_hidden)
    return tf.stack(outputs, axis=1)


def conv_lstm_step(x, state, name):
    """Advance a ConvLSTM (arXiv:1506.04214) with 1x1 kernels by one input.

    Gates are normalised, and so is the cell that is carried on.

    Args:
      x: float32 [B, H, W, C]; H, W and C known.
      state: (cell, hidden), two float32 [B, H, W, C].
      name: str, scope of the variables below; shared by all steps.

    Returns:
      The new (cell, hidden), shapes as in `state`.

    Variables:
      {name}/kernel             [1, 1, 2 * C, 4 * C], gates in the order candidate,
                                input, forget, output
      {name}/W_ci, W_cf, W_co   [H, W, C], peepholes
      {name}/LayerNorm{,_1,_2,_3,_4}/beta, gamma  [C]: candidate, input, forget,
                                output, cell
    """
    cell, hidden = state
    _, rows, columns, channels = x.shape.as_list()

    def peephole(gate):
        return tf.get_variable("W_c" + gate, [rows, columns, channels]) * cell

    with tf.variable_scope(name, reuse=tf.AUTO_REUSE):
        kernel = tf.get_variable(
            "kernel",
            [1, 1, 2 * channels, 4 * channels],
            initializer=tf.glorot_uniform_initializer(),
        )
        gates = tf.nn.conv2d(
            tf.concat([x, hidden], axis=3), kernel, [1, 1, 1, 1], "SAME"
        )
        j, i, f, o = tf.split(gates, 4, axis=3)
        i += peephole("i")
        f += peephole("f")
        j = layer_norm(j, "LayerNorm")
        i = layer_norm(i, "LayerNorm_1")
        f = layer_norm(f, "LayerNorm_2")
        cell = cell * tf.sigmoid(f + 1.0) + tf.sigmoid(i) * tf.tanh(j)
        o = layer_norm(o + peephole("o"), "LayerNorm_3")
        cell = layer_norm(cell, "LayerNorm_4")
    return cell, tf.sigmoid(o) * tf.tanh(cell)
