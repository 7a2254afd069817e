"""Sums and products in an order that costs less; they own no variables.

Axes: B batch of sentences, P images, T words, H rows, W columns, N = H * W cells,
C channels, K terms of a sum.
"""

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


def add_to_sentences(image, sentences):
    """Add what an image gives to what each of its sentences gives.

    Args:
      image: float32 [P, H, W, C].
      sentences: float32 [B, H or 1, W or 1, C]; B is a multiple of P, and those of an
        image stand together.

    Returns:
      float32 [B, H, W, C].

    Example:
      >>> image = tf.constant([[[[1.0]]], [[[2.0]]]])
      >>> sentences = tf.reshape(tf.constant([10.0, 20.0, 30.0, 40.0]), [4, 1, 1, 1])
      >>> with tf.Session() as session:
      ...     session.run(add_to_sentences(image, sentences)).ravel().tolist()
      [11.0, 21.0, 32.0, 42.0]
    """
    number, rows, columns, channels = image.shape.as_list()
    if number in (1, sentences.shape.as_list()[0]):
        return image + sentences
    groups = tf.reshape(sentences, [number, -1, *sentences.shape.as_list()[1:]])
    total = image[:, tf.newaxis] + groups
    return tf.reshape(total, [-1, rows, columns, channels])


def sum_of_products(images, sentences):
    """Weight the projections of images with those of their sentences, and add up.

    Args:
      images: list of K float32 [P, H, W, C].
      sentences: list of K float32 [B, 1, 1, C]; those of an image stand together.

    Returns:
      float32 [B, H, W, C], or another shape of as many elements in their order.
    """
    number, rows, columns, channels = images[0].shape.as_list()
    if sentences[0].shape.as_list()[0] == number:
        return tf.add_n([image * weights for image, weights in zip(images, sentences)])
    # Several sentences an image: for each channel a product [N, K] x [K, sentences].
    shape = [-1, rows * columns, channels, len(images)]
    images = tf.transpose(tf.reshape(tf.stack(images, axis=4), shape), [0, 2, 1, 3])
    shape = [tf.shape(images)[0], -1, channels, len(sentences)]
    sentences = tf.reshape(tf.stack(sentences, axis=4), shape)
    products = tf.matmul(images, tf.transpose(sentences, [0, 2, 3, 1]))
    return tf.transpose(products, [0, 3, 2, 1])


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
