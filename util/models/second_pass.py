"""A second look at the relation graph, by a network that knows its first answer.

It is no part of a paper: public training runs of CMPC (2021) tried it, and it did not
help, see ckpts/README.md. The adjacency of the second pass is w1 times the first one
plus w2 Q, where Q says what the first score p of the cells tells about their edges.

Axes: B batch, N cells, C channels.
"""

from util.graph.compat import tf

SHARPNESS = 1600.0  # of affinities: the published number of cells, and a constant since


def mixture(score, kind):
    """Return a function that mixes messages with what a first score tells.

    "score": Q_ij = p_i, so that Q X is an outer product: p times the sum of all cells.
    "affinity": Q = R R with R = softmax_j(1600 p_i p_j). The row's maximum is taken off
    before the product rounds: 1600 p_i (p_j - p_m), where p_m is the largest score, or
    the smallest one in a row with p_i < 0. Q serves all levels.

    Args:
      score: float32 [B, H, W, 1], logits of the first pass.
      kind: str, "score" or "affinity".

    Returns:
      Function of (messages, cells), float32 [B, N, C], that gives w1 messages +
      w2 Q cells, of the same shape.

    Variables:
      pred_adj/DW  [1, 1, 2, 1], w1 and w2
    """
    _, rows, columns, _ = score.shape.as_list()
    score = tf.reshape(score, [-1, rows * columns, 1])
    with tf.variable_scope("pred_adj"):
        initializer = tf.glorot_uniform_initializer()
        weights = tf.get_variable("DW", [1, 1, 2, 1], initializer=initializer)
    of_first, of_known = tf.unstack(tf.reshape(weights, [2]))
    if kind == "score":
        return lambda messages, cells: (
            of_first * messages
            + of_known * (score * tf.reduce_sum(cells, axis=1, keepdims=True))
        )
    adjacency = _affinity(score)
    return lambda messages, cells: (
        of_first * messages + of_known * (tf.matmul(adjacency, cells))
    )


def _affinity(score):
    """Return R R, [B, N, N], of a score [B, N, 1]."""
    largest = tf.reduce_max(score, axis=1, keepdims=True)
    smallest = tf.reduce_min(score, axis=1, keepdims=True)
    ones = tf.ones_like(score)
    extreme = tf.where(score > 0, largest * ones, smallest * ones)
    # What is taken off a row does not change its softmax: no gradient goes there.
    below = tf.transpose(score, [0, 2, 1]) - tf.stop_gradient(extreme)
    shares = tf.nn.softmax(SHARPNESS * score * below, axis=2)
    return tf.matmul(shares, shares)
