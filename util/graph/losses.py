"""What training minimises."""

from util.graph.compat import tf


def segmentation_loss(logits, target):
    """Sigmoid cross entropy, summed over the pixels, mean over the batch.

    Args:
      logits: float32 [B, H, W, 1].
      target: float32 [B, H, W, 1], 1 on the object and 0 elsewhere.

    Returns:
      float32 scalar, in nats an image.
    """
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=logits)
    return tf.reduce_mean(tf.reduce_sum(entropy, axis=[1, 2, 3]))


def l2_regularization_loss(variables, weight_decay):
    """Return weight_decay times half the squared length of all `variables`."""
    return weight_decay * tf.add_n([tf.nn.l2_loss(v) for v in variables])
