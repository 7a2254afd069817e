"""The process of a command: TensorFlow and memory, set up for nothing but our work.

A program that imports a model is not touched.
"""

import contextlib
import ctypes
import os
import sys
from typing import Iterator

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8

KEPT_BYTES = 2**31 - 1

KERAS = "keras"


def own_process() -> None:
    """Set TensorFlow and the memory of this process up; TensorFlow loads here.

    Each session gets threads of its own: else all have those of the first one.
    """
    with without_keras():
        from util.graph import compat
    compat.only_graphs()
    compat.no_deprecations()
    os.environ["TF_OVERRIDE_GLOBAL_THREADPOOL"] = "1"
    compat.tf.logging.set_verbosity(compat.tf.logging.ERROR)
    keep_freed_memory()


@contextlib.contextmanager
def without_keras() -> Iterator[None]:
    """Keep TensorFlow 2 from loading Keras with itself, a quarter of a command's start.

    It does so for models saved with Keras, and goes without where Keras is not
    installed. Afterwards `import keras` and `tf.keras` work as ever.
    """
    if KERAS in sys.modules:
        yield
        return
    sys.modules[KERAS] = None  # as if it were not installed
    try:
        yield
    finally:
        del sys.modules[KERAS]


def keep_freed_memory() -> None:
    """Keep glibc from handing large tensors back to the kernel, page by page.

    By default each tensor over 32 MiB is mapped and cleared again, which costs more
    than most operations on it. Threads share one heap: in heaps of their own, what one
    frees would be of no use to the others: 0.4 GB in a training step.

    It is for the whole process, and for threads that have not started yet. Without
    glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_ARENA_MAX, 1)


def release_freed_memory() -> None:
    """Hand freed memory back after all, where much of it will not be needed again."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
