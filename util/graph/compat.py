"""The one module that decides which TensorFlow the project runs on.

`tf` is TensorFlow 1's interface, in graph mode; `tensorflow` is the package itself.
"""

import os
import warnings

from util.core.quiet import without_noise

# Messages of its C++ side; what matters comes as an exception.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

with warnings.catch_warnings():
    # TensorFlow 1.15 declares its dtypes in a way newer numpy warns about.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    with without_noise():
        import tensorflow

tf = tensorflow.compat.v1

tf.logging.set_verbosity(tf.logging.ERROR)  # before the next line warns of itself

tf.disable_v2_behavior()
