"""Recurrent layers: the LSTM over words and the ConvLSTM over levels.

Axes: B batch, T words, H rows, W columns, C channels.
"""

from collections import namedtuple

from util.graph import products
from util.graph.compat import tf
from util.graph.layers import layer_norm_variables, normalise

LSTM_CELL = "RNN/multi_rnn_cell/cell_0/basic_lstm_cell"  # its scope in checkpoints

WORD_VECTOR_SCALE = 0.6  # standard deviation, about that of public GloVe vectors

ConvLstmVariables = namedtuple(
    "ConvLstmVariables",
    "of_input of_hidden peep_i peep_f norm_j norm_i norm_f peep_o norm_o norm_c",
)


def word_table(vocab_size, size, given=None):
    """Make the table of the word vectors.

    Args:
      vocab_size, size: int, V words of G numbers each.
      given: float32 [V, G], the first values; None: normal noise.

    Returns:
      float32 [V, G].

    Variables:
      Variable  [V, G]
    """
    first = tf.random_normal_initializer(stddev=WORD_VECTOR_SCALE)
    if given is not None:
        first = tf.constant_initializer(given)
    return tf.get_variable("Variable", [vocab_size, size], initializer=first)


def read_words(ids, table, size, name, dropout):
    """Read sentences with an LSTM over word vectors.

    Args:
      ids: int32 [B, T], 0 is padding.
      table: float32 [V, C_in], the vectors.
      size: int, C of the state.
      name: str, scope of the variables, see `lstm`.
      dropout: "emb", "rnn" -> float32 [B, T, C_in], [B, T, C] to multiply vectors and
        outputs with; only of those that drop.

    Returns:
      float32 [B, T, C], zeros at padding.
    """
    vectors = tf.nn.embedding_lookup(table, ids)
    if "emb" in dropout:
        vectors *= dropout["emb"]
    outputs = lstm(vectors, tf.not_equal(ids, 0), size, name)
    if "rnn" in dropout:
        outputs *= dropout["rnn"]
    return outputs


def lstm(x, is_word, size, name):
    """Read sentences with an LSTM; padding leaves its state alone.

    With forget bias 1: cell = sigmoid(f + 1) * cell + sigmoid(i) * tanh(j), and
    hidden = sigmoid(o) * tanh(cell).

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
    from_words, from_hidden = tf.split(kernel, [width, size])
    from_words = tf.tensordot(x, from_words, 1) + bias
    keep = tf.cast(is_word, tf.float32)[:, :, tf.newaxis]
    cell = hidden = tf.zeros_like(from_words[:, 0, :size])
    outputs = []
    by_step = (tf.unstack(x, steps, axis=1) for x in (from_words, keep, 1.0 - keep))
    for of_words, kept, passed in zip(*by_step):
        gates = of_words + tf.matmul(hidden, from_hidden)
        i, j, f, o = tf.split(gates, 4, axis=1)
        new_cell = tf.sigmoid(f + 1.0) * cell + tf.sigmoid(i) * tf.tanh(j)
        new_hidden = tf.sigmoid(o) * tf.tanh(new_cell)
        cell = kept * new_cell + passed * cell
        hidden = kept * new_hidden + passed * hidden
        outputs.append(new_hidden)
    return keep * tf.stack(outputs, axis=1)


def conv_lstm_variables(rows, columns, channels):
    """Make the variables of a ConvLSTM with 1x1 kernels.

    Args:
      rows, columns, channels: int, H, W, C of an input and of the state.

    Returns:
      ConvLstmVariables: the kernel as what input and hidden state give to each of the
      four gates, float32 [C, C]; peepholes; (beta, gamma) of each norm.

    Variables:
      kernel             [1, 1, 2 * C, 4 * C], rows: input, state; columns: candidate,
                         input, forget and output gate
      W_ci, W_cf, W_co   [H, W, C], peepholes
      LayerNorm{,_1,_2,_3,_4}/beta, gamma  [C]: candidate, input, forget, output, cell
    """

    def peephole(gate):
        return tf.get_variable("W_c" + gate, [rows, columns, channels])

    kernel = tf.get_variable(
        "kernel",
        [1, 1, 2 * channels, 4 * channels],
        initializer=tf.glorot_uniform_initializer(),
    )
    halves = tf.split(tf.reshape(kernel, [2 * channels, 4 * channels]), 2)
    of_input, of_hidden = (tf.split(half, 4, axis=1) for half in halves)
    return ConvLstmVariables(
        of_input=of_input,
        of_hidden=of_hidden,
        peep_i=peephole("i"),
        peep_f=peephole("f"),
        norm_j=layer_norm_variables(channels, "LayerNorm"),
        norm_i=layer_norm_variables(channels, "LayerNorm_1"),
        norm_f=layer_norm_variables(channels, "LayerNorm_2"),
        peep_o=peephole("o"),
        norm_o=layer_norm_variables(channels, "LayerNorm_3"),
        norm_c=layer_norm_variables(channels, "LayerNorm_4"),
    )


def conv_lstm(inputs, name):
    """Read a sequence with a ConvLSTM (arXiv:1506.04214) of 1x1 kernels.

    Gates are normalised, and so is the cell that is carried on. The state begins as
    zeros: the first input meets no peepholes, no forget gate and half of the kernel.

    Args:
      inputs: list of float32 [B, H, W, C]; H, W and C known.
      name: str, scope of the variables.

    Returns:
      float32 [B, H, W, C], the last hidden state.

    Variables:
      {name}/...: see conv_lstm_variables
    """
    with tf.variable_scope(name):
        variables = conv_lstm_variables(*inputs[0].shape.as_list()[1:])
    state = None
    for x in inputs:
        gates = gates_of_input(x, variables, is_first=state is None)
        state = conv_lstm_step(gates, state, variables)
    _, hidden = state
    return hidden


def gates_of_input(x, v, is_first=False):
    """Compute what an input of a ConvLSTM gives to the gates, whatever the state.

    A product for each gate: on a CPU with AVX2 one for all takes a third longer, with
    taking it apart again.

    Args:
      x: float32 [P, H, W, C].
      v: ConvLstmVariables.
      is_first: bool, the step begins with the state of zeros.

    Returns:
      list of float32 [P, H, W, C]: candidate, input, forget and output gate; the first
      step forgets nothing and has no forget gate.
    """
    of_j, of_i, of_f, of_o = v.of_input
    kernels = [of_j, of_i, of_o] if is_first else [of_j, of_i, of_f, of_o]
    return [_product(x, kernel) for kernel in kernels]


def conv_lstm_step(gates, state, v):
    """Take one step of a ConvLSTM.

    [j, i, f, o] = [x, hidden] kernel; cell = sigmoid(norm(f + W_cf cell) + 1) * cell +
    sigmoid(norm(i + W_ci cell)) * tanh(norm(j)); o = norm(o + W_co cell); then cell =
    norm(cell), which is carried on, and hidden = sigmoid(o) * tanh(cell).

    Args:
      gates: see `gates_of_input`; [1, ...] serve all sentences.
      state: (cell, hidden), float32 [B, H, W, C] each; None: zeros.
      v: ConvLstmVariables.

    Returns:
      (cell, hidden) after the step.
    """
    if state is None:
        j, i, o = gates
    else:
        cell, hidden = state
        j, i, f, o = (
            gate + _product(hidden, kernel) for gate, kernel in zip(gates, v.of_hidden)
        )
        i += v.peep_i * cell
        f = normalise(f + v.peep_f * cell, *v.norm_f)
        kept = tf.sigmoid(f + 1.0) * cell
    j, i = normalise(j, *v.norm_j), normalise(i, *v.norm_i)
    new = tf.sigmoid(i) * tf.tanh(j)
    cell = new if state is None else kept + new
    o = normalise(o + v.peep_o * cell, *v.norm_o)
    cell = normalise(cell, *v.norm_c)
    return cell, tf.sigmoid(o) * tf.tanh(cell)


def _product(x, kernel):
    _, rows, columns, channels = x.shape.as_list()
    y = products.matmul(tf.reshape(x, [-1, channels]), kernel)
    return tf.reshape(y, [-1, rows, columns, kernel.shape.as_list()[1]])
