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
    return tf.reduce_mean(tf.reduce_sum(_entropy(logits, target), axis=[1, 2, 3]))


@tf.custom_gradient
def _entropy(logits, target):
    """Return the cross entropy of each pixel.

    Its own gradient, sigmoid(logits) - target, is one operation in place of ten, and
    the target, of which there is no gradient, costs nothing.
    """

    def gradient(slope):
        return slope * (tf.sigmoid(logits) - target), None

    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=logits)
    return entropy, gradient


def iou_loss(logits, target):
    """Return 1 - I / U of soft masks, mean over the batch (Rahman, Wang, ISVC 2016).

    With s = sigmoid(logits) and y the target: I = sum s y and U = sum s + sum y - I.
    There is no epsilon, as in the published runs. At each pixel the gradient is at most
    that of the cross entropy divided by U, which is thousands of pixels.

    Args:
      logits, target: as in `segmentation_loss`.

    Returns:
      float32 scalar, 0..1.

    Example:
      >>> half = iou_loss(tf.zeros([1, 2, 2, 1]), tf.ones([1, 2, 2, 1]))
      >>> with tf.Session() as session:
      ...     round(float(session.run(half)), 4)
      0.5
    """
    intersection, union = _overlap(logits, target)
    return tf.reduce_mean(1.0 - intersection / union)


def region_loss(logits, target):
    """Return the soft IoU loss scaled with the object, so that it acts.

    [U] (1 - I / U), with I and U as in `iou_loss`, mean over the batch. [U] is U, at
    least one pixel, as a constant for the gradient: the loss is U - I, the pixels that
    the soft mask has wrong, and its gradient U times that of the IoU. At a pixel of the
    object that is -s (1 - s), s times that of the cross entropy, and elsewhere
    s (1 - s) I / U, (1 - s) I / U times that: of its order and never more. Where the
    network is sure and wrong it is small, and where the mask is empty it is 0: there
    the cross entropy has to help.

    Source: the soft IoU of Rahman and Wang, "Optimizing Intersection-Over-Union in Deep
    Neural Networks for Image Segmentation" (ISVC 2016); the scale is ours.

    Args:
      logits, target: as in `segmentation_loss`.

    Returns:
      float32 scalar, in pixels an image.

    Example:
      >>> half = region_loss(tf.zeros([1, 2, 2, 1]), tf.ones([1, 2, 2, 1]))
      >>> with tf.Session() as session:
      ...     round(float(session.run(half)), 4)
      2.0
    """
    intersection, union = _overlap(logits, target)
    union = tf.maximum(union, 1.0)
    return tf.reduce_mean(tf.stop_gradient(union) * (1.0 - intersection / union))


def _overlap(logits, target):
    """Return the soft intersection and union of each image, [B]."""
    found = tf.sigmoid(logits)
    intersection = tf.reduce_sum(found * target, axis=[1, 2, 3])
    both = tf.reduce_sum(found, axis=[1, 2, 3]) + tf.reduce_sum(target, axis=[1, 2, 3])
    return intersection, both - intersection


def l2_regularization_loss(variables, weight_decay):
    """Return weight_decay times half the squared length of all `variables`.

    Args:
      variables: list of float32 tf.Variable, at least one.
      weight_decay: float.

    Returns:
      float32 scalar.
    """
    return weight_decay * tf.add_n([tf.nn.l2_loss(v) for v in variables])
