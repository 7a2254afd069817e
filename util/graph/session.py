"""Sessions: precision, threads, memory; and the versions that results depend on."""

import contextlib
import os
import platform
import re
from typing import Dict, Iterator, List, NamedTuple, Tuple

import numpy as np
import skimage

from util.core.errors import UserError
from util.graph import products
from util.graph.compat import tensorflow, tf

CPU_FLAG = "--tf_xla_cpu_global_jit"  # without it XLA leaves a CPU alone

# What a GPU must be able to, at least.
CAPABILITIES = {"float16": (7, 0), "tf32": (8, 0), "bfloat16": (8, 0)}

# What CUDA and the libraries that are loaded with the first product say of a GPU whose
# memory another process has; TensorFlow passes it on as errors of many kinds.
OUT_OF_MEMORY = re.compile("CUDA_ERROR_OUT_OF_MEMORY|CU[A-Z]+_STATUS_ALLOC_FAILED")

ROUNDED = ("float16", "bfloat16")  # what `products` computes in on a GPU


class Gpu(NamedTuple):
    """A GPU that TensorFlow computes with.

    Attributes:
      name: what its maker calls it.
      capability: CUDA's compute capability.
    """

    name: str
    capability: Tuple[int, int]


def session_config(threads=None, cpus=1, xla=False, side_by_side=False):
    """Return the settings of a session in any precision, see `new_session`."""
    config = tf.ConfigProto(allow_soft_placement=True)
    config.gpu_options.allow_growth = True
    config.device_count["CPU"] = cpus
    if threads:
        config.intra_op_parallelism_threads = threads
        config.inter_op_parallelism_threads = threads
    if side_by_side:
        config.intra_op_parallelism_threads = 1
    rewrites = config.graph_options.rewrite_options
    # It would tie a training step whose features are fed to the image after all.
    rewrites.dependency_optimization = rewrites.OFF
    # It would keep the zeros that Adam's slots begin with.
    rewrites.constant_folding = rewrites.OFF
    if xla:
        optimizer = config.graph_options.optimizer_options
        optimizer.global_jit_level = tf.OptimizerOptions.ON_2
    return config


def new_session(
    graph=None,
    precision="float32",
    threads=None,
    cpus=1,
    target="",
    xla=False,
    side_by_side=False,
):
    """Open a session that takes a GPU's memory as it needs it.

    Where TensorFlow has TF32, its switch for the whole process is set by `precision`.

    Args:
      graph: tf.Graph; None for the default graph.
      precision: one of `cli.PRECISIONS`. "float32" is exact; the others let
        TensorFlow compute products with fewer digits. Variables stay float32. A network
        in the graph was built after `prepare_graph` with it.
      threads: int, of the CPU; None: as many as there are cores.
      cpus: int, devices that the CPU counts as.
      target: address of a server; "": this process.
      xla: bool, compile what XLA can.
      side_by_side: bool, an operation takes one thread, and others run beside it. In a
        small network operations are too short to be shared out. In a program that has
        computed in another session before, it does nothing, see
        `process.own_process`.

    Returns:
      tf.Session.

    Raises:
      UserError: this machine or TensorFlow does not have the precision, or XLA.
      ValueError: `prepare_graph` made the graph for another precision.

    Example:
      >>> with tf.Graph().as_default(), new_session() as session:
      ...     print(session.run(tf.constant(2) + 3))
      5
    """
    require_precision(precision)
    if xla:
        require_xla()
    if products.dtype_of(graph) != dtype_of_products(precision):
        raise ValueError(f"the graph was not made for {precision}: see prepare_graph")
    switch_tf32(precision)
    config = session_config(threads, cpus, xla, side_by_side)
    rewrites = config.graph_options.rewrite_options
    if gpus():
        # A convolution fused with its bias would have a kernel without TF32.
        rewrites.remapping = rewrites.OFF
    elif precision == "bfloat16":
        rewrites.auto_mixed_precision_onednn_bfloat16 = rewrites.ON
    return tf.Session(target, graph, config)


def prepare_graph(precision: str) -> None:
    """Have a network that is built in the default graph compute in a precision.

    Args:
      precision: one of `cli.PRECISIONS`, that of the session to come.

    Raises:
      UserError: this machine or TensorFlow does not have it.
    """
    require_precision(precision)
    products.compute_in(dtype_of_products(precision))


def dtype_of_products(precision: str):
    """Return the tf.DType with which `prepare_graph` has products computed.

    On a CPU it is float32: there TensorFlow rewrites the graph, see `new_session`.

    Args:
      precision: one of `cli.PRECISIONS`.
    """
    if precision in ROUNDED and gpus():
        return tf.as_dtype(precision)
    return tf.float32


@contextlib.contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Tell in one line that a device has not enough memory.

    Args:
      advice: what to do.

    Raises:
      UserError: TensorFlow ran out of memory inside.

    Example:
      >>> with enough_memory("choose a smaller -bs"), tf.Session() as session:
      ...     print(session.run(tf.constant(5)))
      5
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"the device has not enough memory: {advice}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether TensorFlow, or what it uses of a GPU, ran out of memory.

    Args:
      error: tf.errors.OpError of opening a session or of a run.
    """
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return True
    return bool(OUT_OF_MEMORY.search(error.message))


def switch_tf32(precision: str) -> None:
    """Let the products of this process use TF32, or keep them from it.

    TensorFlow 2 uses it unless told not to. What a session computes in another process
    depends on the switch there.

    Args:
      precision: one of `cli.PRECISIONS`; only "tf32" uses it.
    """
    if hasattr(tensorflow.config.experimental, "enable_tensor_float_32_execution"):
        use = precision == "tf32"
        tensorflow.config.experimental.enable_tensor_float_32_execution(use)


def require_precision(precision: str) -> None:
    """Refuse a precision that cannot be had.

    Args:
      precision: one of `cli.PRECISIONS`.

    Raises:
      UserError: this machine or TensorFlow does not have it.
    """
    modern = int(tf.VERSION.split(".")[0]) >= 2
    if precision == "bfloat16" and not gpus():
        _require_bfloat16_of_cpu(modern)
        return
    needed = CAPABILITIES.get(precision)
    if needed and not (modern and any(gpu.capability >= needed for gpu in gpus())):
        raise UserError(
            f"--precision {precision} needs TensorFlow 2 and a GPU of compute "
            f"capability {needed[0]}.{needed[1]} or higher, and TensorFlow "
            f"{tf.VERSION} finds none here: use float32"
        )


def require_trainable(precision: str) -> None:
    """Refuse a precision in which a network would not learn.

    Raises:
      UserError: it is float16.
    """
    if precision == "float16":
        raise UserError(
            "--precision float16 is not for training: gradients that are small would "
            "be 0 in it, and the loss is not scaled against that; use tf32 or bfloat16"
        )


def require_xla() -> None:
    """Refuse XLA where a session would go on without it.

    Raises:
      UserError: there is no GPU, and TensorFlow was not told to compile for the CPU.
    """
    told = os.environ.get("TF_XLA_FLAGS", "").split()
    if not (gpus() or CPU_FLAG in told):
        raise UserError(
            "--xla compiles for GPUs, and TensorFlow finds none here: leave it out, or "
            f"set TF_XLA_FLAGS={CPU_FLAG} to compile for the CPU, which takes minutes"
        )


def _require_bfloat16_of_cpu(modern):
    able = "avx512_bf16" in _cpu_flags()
    if not (modern and able):
        raise UserError(
            "--precision bfloat16 needs TensorFlow 2 and a GPU of compute capability "
            "8.0 or higher or, without GPUs, a CPU with AVX-512 BF16; TensorFlow is "
            f"{tf.VERSION}, and the CPU {'has' if able else 'lacks'} it: use float32"
        )


def gpus() -> List[Gpu]:
    """Return the GPUs that TensorFlow computes with.

    Asking must not make devices with other settings than those of a session: the first
    ones that a process makes decide how it takes a GPU's memory.
    """
    config = tensorflow.config.experimental
    if not config.list_physical_devices("GPU"):
        return []
    if not hasattr(config, "get_device_details"):
        return _gpus_of_sessions()
    about = map(config.get_device_details, config.list_physical_devices("GPU"))
    return [
        Gpu(one.get("device_name", "GPU"), one.get("compute_capability", (0, 0)))
        for one in about
    ]


def _gpus_of_sessions():
    """Return what TensorFlow 1 says of the devices that a session has."""
    from tensorflow.python.client import device_lib

    devices = device_lib.list_local_devices(session_config())
    told = (one.physical_device_desc for one in devices if one.device_type == "GPU")
    about = (dict(part.split(": ", 1) for part in text.split(", ")) for text in told)
    return [
        Gpu(one["name"], tuple(map(int, one["compute capability"].split("."))))
        for one in about
    ]


def _cpu_flags() -> List[str]:
    """Return what the processor can do, as Linux lists it; nothing elsewhere."""
    with contextlib.suppress(OSError):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("flags"):
                    return line.split()
    return []


def versions() -> Dict[str, str]:
    """Return the versions that results may depend on."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.VERSION,
        "numpy": np.__version__,
        "scikit-image": skimage.__version__,
    }
