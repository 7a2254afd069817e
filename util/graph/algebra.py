"""Sums and products in an order that costs less; they own no variables.

Axes: B batch of sentences, P images, T words, H rows, W columns, N = H * W cells,
C channels, K terms of a sum.
"""

import numpy as np

from util.graph.compat import tf


def project_back(x, kernel):
    """Multiply by the transpose of a 1x1 kernel: what `x` asks of the kernel's inputs.

    Args:
      x: float32 [B, T, C_out].
      kernel: float32 [1, 1, C_in, C_out].

    Returns:
      float32 [B, T, C_in].
    """
    _, _, channels, filters = kernel.shape.as_list()
    kernel = tf.reshape(kernel, [channels, filters])
    y = tf.matmul(tf.reshape(x, [-1, filters]), kernel, transpose_b=True)
    return tf.reshape(y, [-1, x.shape.as_list()[1], channels])


class Share:
    """What sentences have of their images: a function of float32 [P, ...].

    It gives [B, ...], each sentence what was computed of its image.

    Args:
      image_of: int32 [B], the number of each sentence's image; None: each has its own,
        or all have one.
    """

    def __init__(self, image_of=None):
        self.image_of = image_of

    def __call__(self, x):
        """Return what each sentence has of x."""
        return x if self.image_of is None else rows_of(x, self.image_of)

    def weighted_sum(self, images, sentences):
        """Weight the terms of each image with those of its sentences and add them up.

        Args:
          images: list of K float32 [P, H, W, C]; all but P known.
          sentences: list of K float32 [B, 1, 1, C].

        Returns:
          float32 [B, H, W, C].
        """
        if self.image_of is None:
            return tf.add_n([x * weight for x, weight in zip(images, sentences)])
        return sums_of_images(images, sentences, self.image_of)


def rows_of(x, numbers):
    """Take rows, some of them more than once: what images give to their sentences.

    The product with a matrix of zeros and ones has a gradient that is a product, too;
    that of tf.gather adds up row by row.

    Args:
      x: float32 [P, ...]; all but P known when the graph is built.
      numbers: int32 [B], 0..P - 1.

    Returns:
      float32 [B, ...].
    """
    chosen = tf.one_hot(numbers, tf.shape(x)[0], dtype=x.dtype)
    shape = x.shape.as_list()[1:]
    rows = tf.matmul(chosen, tf.reshape(x, [-1, int(np.prod(shape))]))
    return tf.reshape(rows, [-1, *shape])


def match_sentences(cells, sentences):
    """Multiply each cell with what the sentence asks for.

    Args:
      cells: float32 [B or 1, H, W, C].
      sentences: float32 [B, 1, 1, C].

    Returns:
      float32 [B, H, W, 1].

    Example:
      >>> cells = tf.constant([[[[1.0, 0.0], [0.5, 2.0]]]])
      >>> with tf.Session() as session:
      ...     found = session.run(match_sentences(cells, tf.constant([[[[0.0, 1.0]]]])))
      >>> found.ravel().tolist()
      [0.0, 2.0]
    """
    _, rows, columns, channels = cells.shape.as_list()
    cells = tf.reshape(cells, [-1, rows * columns, channels])
    matches = tf.matmul(cells, tf.reshape(sentences, [-1, channels, 1]))
    return tf.reshape(matches, [-1, rows, columns, 1])


def sum_of_cells(cells, weights):
    """Sum cells as the sentence weighs them.

    Args:
      cells: float32 [B or 1, H, W, C].
      weights: float32 [B, H, W, 1].

    Returns:
      float32 [B, 1, 1, C].

    Example:
      >>> cells = tf.constant([[[[1.0, 0.0], [0.5, 2.0]]]])
      >>> with tf.Session() as session:
      ...     found = session.run(sum_of_cells(cells, tf.constant([[[[1.0], [2.0]]]])))
      >>> found.ravel().tolist()
      [2.0, 4.0]
    """
    _, rows, columns, channels = cells.shape.as_list()
    cells = tf.reshape(cells, [-1, rows * columns, channels])
    weights = tf.reshape(weights, [-1, 1, rows * columns])
    return tf.reshape(tf.matmul(weights, cells), [-1, 1, 1, channels])


def sums_of_images(images, sentences, numbers):
    """Weight the terms of images with those of their sentences and add them up.

    A product for each channel, forward and in the gradients: no term is copied for each
    sentence of its image. A weight is zero where the image is another one.

    Args:
      images: list of K float32 [P, H, W, C]; all but P known.
      sentences: list of K float32 [B, 1, 1, C].
      numbers: int32 [B], 0..P - 1: which image a sentence is about.

    Returns:
      float32 [B, H, W, C].
    """
    heads, (_, rows, columns, channels) = len(images), images[0].shape.as_list()
    terms = tf.stack(images, axis=1)
    terms = tf.reshape(terms, [-1, rows * columns, channels])  # [P * K, N, C]
    chosen = tf.one_hot(numbers, tf.shape(images[0])[0])
    weights = tf.reshape(tf.concat(sentences, axis=1), [-1, 1, heads, channels])
    weights *= chosen[:, :, tf.newaxis, tf.newaxis]  # [B, P, K, C]
    weights = tf.reshape(weights, [-1, tf.shape(terms)[0], channels])
    weights = tf.transpose(weights, [2, 0, 1])
    sums = tf.matmul(weights, tf.transpose(terms, [2, 0, 1]))  # [C, B, N]
    return tf.reshape(tf.transpose(sums, [1, 2, 0]), [-1, rows, columns, channels])


def sums_of_one_image(image, sentences):
    """Weight an image's projections with those of its sentences and add them up.

    A depthwise convolution over the heads reads the image once for each sentence
    and makes nothing but the sum. (Its gradients are slow.)

    Args:
      image: float32 [1, H, W, K * C].
      sentences: list of K float32 [B, 1, 1, C].

    Returns:
      float32 [B, H * W, 1, 1, C].
    """
    heads, channels = len(sentences), sentences[0].shape.as_list()[3]
    image = tf.reshape(image, [-1, heads, 1, channels])
    weights = tf.reshape(tf.concat(sentences, axis=1), [-1, heads, 1, channels, 1])

    def of_sentence(weights):
        return tf.nn.depthwise_conv2d(image, weights, [1, 1, 1, 1], "VALID")

    return tf.map_fn(of_sentence, weights, parallel_iterations=1)
