"""Products with kernels, in bfloat16 or float16 where the graph was told so.

For a GPU the network is built with them: TensorFlow can turn a finished graph to
float16 by itself, but then lengths and layer norms overflow, too. Here it is the
products of `layers.convolve`, `layers.gated_conv` and the ConvLSTM; the sums inside
are of float32, as is all else: words, attention, norms and maps of scores.
"""

from util.graph.compat import tf

DTYPES = "dtype_of_products"  # graph collection, of one dtype or none


def compute_in(dtype):
    """Have the products of the default graph that come after this computed in a dtype.

    Args:
      dtype: tf.DType, as tf.bfloat16.
    """
    tf.get_default_graph().get_collection_ref(DTYPES)[:] = [dtype]


def dtype_of(graph=None):
    """Return the dtype of a graph's products.

    Args:
      graph: tf.Graph; None for the default graph.

    Example:
      >>> with tf.Graph().as_default():
      ...     before = dtype_of()
      ...     compute_in(tf.bfloat16)
      ...     print(before.name, dtype_of().name)
      float32 bfloat16
    """
    graph = graph or tf.get_default_graph()
    return next(iter(graph.get_collection(DTYPES)), tf.float32)


def matmul(x, y, **options):
    """Multiply as tf.matmul does, in the dtype of the graph; float32 in and out."""
    return _product(tf.matmul, x, y, options)


def conv2d(x, kernel, stride):
    """Convolve as tf.nn.conv2d does with zero padding, see `matmul`."""
    options = {"strides": [1, stride, stride, 1], "padding": "SAME"}
    return _product(tf.nn.conv2d, x, kernel, options)


def atrous_conv2d(x, kernel, rate):
    """Convolve as tf.nn.atrous_conv2d does with zero padding, see `matmul`."""
    options = {"rate": rate, "padding": "SAME"}
    return _product(tf.nn.atrous_conv2d, x, kernel, options)


def _product(function, x, y, options):
    dtype = dtype_of()
    is_score = y.shape.as_list()[-1] == 1  # the answer: it keeps all its digits
    if dtype == tf.float32 or is_score:
        return function(x, y, **options)
    product = function(tf.cast(x, dtype), tf.cast(y, dtype), **options)
    return tf.cast(product, tf.float32)
