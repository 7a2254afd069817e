"""The backbone's variables in checkpoints: the published starting weights."""

from typing import List

from util.core.errors import UserError
from util.graph import checkpoint
from util.graph.compat import tf

PREFIXES = ("res", "bn", "conv1")  # of their names


def is_of_backbone(name: str) -> bool:
    """Tell by its op name whether a variable is the backbone's."""
    return name.startswith(PREFIXES)


def variables(graph) -> List:
    """Return the tf.Variable of the backbone in a graph."""
    return [
        variable
        for variable in graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)
        if is_of_backbone(variable.op.name)
    ]


def check(path: str) -> int:
    """Read the backbone's variables of a file, and return how many they are.

    Raises:
      UserError: the file cannot be read, has none, or has some that are NaN.
    """
    names = list(filter(is_of_backbone, checkpoint.shapes(path)))
    if not names:
        raise UserError(f"{path} has no variable of the backbone")
    checkpoint.check_finite(path, names)
    return len(names)


def load(session, path: str) -> str:
    """Load the backbone's variables from a file; what it lacks keeps its value.

    Args:
      session: of the graph with the backbone.
      path: of a checkpoint, such as the published starting weights.

    Returns:
      A line that says how many were loaded and which were missing.

    Raises:
      UserError: the file cannot be read, a shape differs or nothing fits.
    """
    stored, wanted = checkpoint.shapes(path), variables(session.graph)
    found = [variable for variable in wanted if variable.op.name in stored]
    if not found:
        raise UserError(f"{path} has no variable of the backbone")
    checkpoint.load(session, path, found)
    missing = [v.op.name for v in wanted if v.op.name not in stored]
    line = f"backbone: {len(found)} of {len(wanted)} variables loaded from {path}"
    return line + ("; missing: " + ", ".join(missing) if missing else "")
