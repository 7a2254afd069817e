"""The one module that decides which TensorFlow the project runs on."""

import contextlib
import ctypes
import os
import warnings

from util.errors import UserError

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

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT_BYTES = 2**31 - 1


def _keep_freed_memory():
    """Keep glibc from handing large tensors back to the kernel, page by page.

    By default each tensor over 32 MiB is mapped and cleared anew, which costs more
    than most operations on it. Threads share one heap: in heaps of their own, what one
    frees would be of no use to the others: 0.4 GB in a training step.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_ARENA_MAX, 1)


_keep_freed_memory()


def release_freed_memory():
    """Hand freed memory back after all, where much of it will not be needed again."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def session_config(precision="float32", threads=None, cpus=1):
    """Return the settings of a session, see `new_session`."""
    config = tf.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    config.device_count["CPU"] = cpus
    if threads:
        config.intra_op_parallelism_threads = threads
        config.inter_op_parallelism_threads = threads
    rewrites = config.graph_options.rewrite_options
    switch = rewriter_config_pb2.RewriterConfig
    # It would tie a training step whose features are fed to the picture after all.
    rewrites.dependency_optimization = switch.OFF
    # It would keep the zeros that Adam's slots begin with.
    rewrites.constant_folding = switch.OFF
    if precision == "bfloat16":
        rewrites.auto_mixed_precision_onednn_bfloat16 = switch.ON
    elif precision == "float16":
        rewrites.auto_mixed_precision = switch.ON
    return config


def new_session(graph=None, precision="float32", threads=None, cpus=1, target=""):
    """Open a session that takes a GPU's memory as it needs it.

    Args:
      graph: tf.Graph; None for the default graph.
      precision: one of `options.PRECISIONS`. "float32" is exact; the others let
        TensorFlow compute products with fewer digits. Variables stay float32.
      threads: int, of the CPU; None: as many as there are cores.
      cpus: int, devices that the CPU counts as.
      target: address of a server; "": this process.

    Returns:
      tf.Session.

    Raises:
      UserError: this machine or TensorFlow does not have the precision.
    """
    require_precision(precision)
    if hasattr(tensorflow.config.experimental, "enable_tensor_float_32_execution"):
        use_tf32 = precision == "tf32"
        tensorflow.config.experimental.enable_tensor_float_32_execution(use_tf32)
    return tf.Session(target, graph, session_config(precision, threads, cpus))


def require_precision(precision):
    """Refuse a precision that cannot be had.

    Raises:
      UserError: this machine or TensorFlow does not have it.
    """
    modern = int(tf.VERSION.split(".")[0]) >= 2
    if precision == "bfloat16" and not (modern and "avx512_bf16" in _cpu_flags()):
        raise UserError(
            "--precision bfloat16 needs TensorFlow 2 and a CPU with AVX-512 BF16; this "
            "is TensorFlow {}, and the CPU {} it: use float32".format(
                tf.VERSION, "has" if "avx512_bf16" in _cpu_flags() else "lacks"
            )
        )
    needed = {"float16": (7, 0), "tf32": (8, 0)}.get(precision)
    if needed and not (modern and tf.test.is_gpu_available(True, needed)):
        raise UserError(
            "--precision {} needs TensorFlow 2 and a GPU of compute capability {}.{} "
            "or higher, and TensorFlow {} finds none here: use float32".format(
                precision, needed[0], needed[1], tf.VERSION
            )
        )


def _cpu_flags():
    """Return what the processor can do, as Linux lists it; nothing elsewhere."""
    with contextlib.suppress(OSError):
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("flags"):
                    return line.split()
    return []
