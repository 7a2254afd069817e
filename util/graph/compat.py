"""The one module that decides which TensorFlow the project runs on."""

import contextlib
import ctypes
import os
import warnings

# Messages of its C++ side; what matters comes as an exception.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

with warnings.catch_warnings():
    # TensorFlow 1.15 declares its dtypes in a way newer numpy warns about.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    import tensorflow

tf = tensorflow.compat.v1

tf.logging.set_verbosity(tf.logging.ERROR)  # before the next line warns of itself

tf.disable_v2_behavior()

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8

KEPT_BYTES = 2**31 - 1


def _keep_freed_memory():
    """Keep glibc from handing large tensors back to the kernel, page by page.

    By default each tensor over 32 MiB is mapped and cleared again, which costs more
    than most operations on it. Threads share one heap: in heaps of their own, what one
    frees would be of no use to the others: 0.4 GB in a training step.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_ARENA_MAX, 1)


_keep_freed_memory()
