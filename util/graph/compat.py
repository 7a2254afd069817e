"""The one module that decides which TensorFlow the project runs on.

`tf` is TensorFlow 1's interface; `tensorflow` is the package itself. Nothing is
switched here: a program that imports a model keeps its TensorFlow 2 as it was. Networks
are built in a graph, where there is no eager mode.
"""

import contextlib
import os
import sys
import warnings
from typing import Any, Iterator

from util.core.quiet import without_noise

if "tensorflow" not in sys.modules:
    # Messages of its C++ side; what matters comes as an exception.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

with warnings.catch_warnings():
    # TensorFlow 1.15 declares its dtypes in a way newer numpy warns about.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    with without_noise():
        import tensorflow
        from tensorflow.python.framework import ops
        from tensorflow.python.util import deprecation

tf = tensorflow.compat.v1


def only_graphs() -> None:
    """Make this whole process one of TensorFlow 1: no eager mode, nothing of 2."""
    verbosity = tf.logging.get_verbosity()
    tf.logging.set_verbosity(tf.logging.ERROR)  # the next line warns of itself
    tf.disable_v2_behavior()
    tf.logging.set_verbosity(verbosity)


def no_deprecations() -> None:
    """Have TensorFlow not look for what is deprecated, in this whole process.

    Commands do not show its warnings. 1.15 looks at the arguments of each operation,
    which is a seventh of the time that a graph takes to build.
    """
    deprecation._PRINT_DEPRECATION_WARNINGS = False


@contextlib.contextmanager
def new_graph() -> Iterator[Any]:
    """Make a new default graph; nothing is left of it if the body fails.

    Else it is for `forget_gradients` to let go of it.

    Yields:
      tf.Graph.

    Example:
      >>> with new_graph() as graph, tf.Session() as session:
      ...     print(session.run(tf.constant(5)))
      5
      >>> forget_gradients(graph)
    """
    with tf.Graph().as_default() as graph:
        try:
            yield graph
        except BaseException:
            forget_gradients(graph)
            raise


@contextlib.contextmanager
def temporary_graph() -> Iterator[Any]:
    """Make a new default graph that nothing is left of afterwards.

    Yields:
      tf.Graph.

    Example:
      >>> with temporary_graph(), tf.Session() as session:
      ...     print(session.run(tf.constant(5)))
      5
    """
    with new_graph() as graph:
        yield graph
        forget_gradients(graph)


def forget_gradients(graph: Any) -> None:
    """Let go of a graph that will not be differentiated any more.

    TensorFlow keeps the functions of custom gradients for the whole process, and with
    them the graph: a program that opens and closes many networks would keep them all.

    Args:
      graph: tf.Graph.
    """
    for operation in graph.get_operations():
        if operation.type == "IdentityN":  # what a custom gradient is tied to
            with contextlib.suppress(ValueError):  # another one
                name = operation.get_attr("_gradient_op_type").decode()
                ops._gradient_registry._registry.pop(name, None)
