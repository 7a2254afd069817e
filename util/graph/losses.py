"""What training minimises."""

from util.graph.compat import tf


def segmentation_loss(logits, target):
    """Sigmoid cross entropy, summed over the pixels, mean over the batch.

    Args:
      logits: float32 [B, H, W, 1].
      target: float32 [B, H, W, 1], 1 on the object and 0 elsewhere.

    Returns:
      float32 scalar, in nats an image.

    Example:
      >>> undecided = segmentation_loss(tf.zeros([1, 2, 2, 1]), tf.ones([1, 2, 2, 1]))
      >>> with tf.Session() as session:
      ...     round(float(session.run(undecided)), 4)  # 4 ln 2
      2.7726
    """
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=logits)
    return tf.reduce_mean(tf.reduce_sum(entropy, axis=[1, 2, 3]))


def l2_regularization_loss(variables, weight_decay):
    """Return weight_decay times half the squared length of all `variables`.

    Args:
      variables: list of float32 tf.Variable, at least one.
      weight_decay: float.

    Returns:
      float32 scalar.
    """
    return weight_decay * tf.add_n([tf.nn.l2_loss(v) for v in variables])
