"""The one module that decides which TensorFlow the project runs on."""

import os
import warnings

# Messages of its C++ side; what matters comes as an exception.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

with warnings.catch_warnings():
    # TensorFlow 1.15 declares its dtypes in a way newer numpy warns about.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    import tensorflow
    from tensorflow.core.protobuf import rewriter_config_pb2

tf = tensorflow.compat.v1
tf.logging.set_verbosity(tf.logging.ERROR)  # before the next line warns of itself
tf.disable_v2_behavior()


def new_session(graph=None):
    """Open a session that takes a GPU's memory as it needs it.

    Args:
      graph: tf.Graph; None for the default graph.

    Returns:
      tf.Session. TensorFlow picks the device of each operation.
    """
    config = tf.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    # It would tie a training step whose features are fed to the picture after all.
    rewrites = config.graph_options.rewrite_options
    rewrites.dependency_optimization = rewriter_config_pb2.RewriterConfig.OFF
    return tf.Session(graph=graph, config=config)
