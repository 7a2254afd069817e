"""Snapshots: their names, what is in them, loading and saving."""

import contextlib
import os
import re
from typing import Dict, List

from util.compat import tf
from util.errors import UserError

KEPT = 4  # snapshots a training run leaves
NAMED = 10  # differences that an error message spells out
BACKBONE_PREFIXES = ("res", "bn", "conv1")


def path(folder: str, dataset: str, step: int) -> str:
    """Return the path of a snapshot as TensorFlow wants it, without file endings."""
    return os.path.join(folder, "{}_iter_{}.tfmodel".format(dataset, step))


def steps(folder: str, dataset: str) -> List[int]:
    """Return the steps of the snapshots in a folder, in rising order."""
    if not os.path.isdir(folder):
        return []
    pattern = re.compile(re.escape(dataset) + r"_iter_([0-9]+)\.tfmodel(\.index)?")
    matches = map(pattern.fullmatch, os.listdir(folder))
    return sorted({int(match.group(1)) for match in matches if match})


def find(folder: str, dataset: str, step: int) -> str:
    """Return the path of a snapshot that is there.

    Raises:
      UserError: it is not; lists those that are.
    """
    there = steps(folder, dataset)
    if step not in there:
        raise UserError(
            "there is no snapshot {}; {}".format(
                path(folder, dataset, step),
                "choose one with -i: " + ", ".join(map(str, there))
                if there
                else "train first (-m train) or put a downloaded one there",
            )
        )
    return path(folder, dataset, step)


@contextlib.contextmanager
def _reading(file):
    """Say in a line what TensorFlow says in fifty of a file that it cannot read."""
    try:
        yield
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(
            "cannot read the checkpoint {}: it is missing, damaged or incomplete; copy "
            "or download all its files again (.index and .data-...)".format(file)
        ) from error


def shapes(checkpoint: str) -> Dict[str, List[int]]:
    """Return variable name -> shape of a checkpoint file.

    Raises:
      UserError: the file is missing or damaged.
    """
    with _reading(checkpoint):
        return tf.train.NewCheckpointReader(checkpoint).get_variable_to_shape_map()


def sizes(checkpoint: str) -> Dict[str, int]:
    """Read from a snapshot's variables how large its network is.

    Returns:
      The arguments of `LSTM_model` that say so.

    Raises:
      UserError: the file cannot be read, or a variable that tells is missing.
    """
    stored = shapes(checkpoint)

    def shape(name, rank):
        found = stored.get("text_objseg/" + name)
        if found is None or len(found) != rank:
            raise UserError(
                "{} is no snapshot of CMPC: text_objseg/{} is {}".format(
                    checkpoint, name, "missing" if found is None else found
                )
            )
        return found

    vocab_size, glove_dim = shape("Variable", 2)
    channels = shape("c5_lateral/DW", 4)[3]
    rows, columns, fused_channels = shape("rnn/conv_lstm_cell/W_ci", 3)
    return {
        "vocab_size": vocab_size,
        "glove_dim": glove_dim,
        "v_emb_dim": channels,
        "rnn_size": channels,
        "mlp_dim": fused_channels,
        "vf_h": rows,
        "vf_w": columns,
        "H": 8 * rows,
        "W": 8 * columns,
    }


def load(session, checkpoint: str) -> None:
    """Load every variable of the session's graph from a snapshot.

    Raises:
      UserError: the file cannot be read or does not fit; names what differs.
    """
    stored = shapes(checkpoint)
    variables = session.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)
    differences = []
    for variable in variables:
        name, wanted = variable.op.name, variable.shape.as_list()
        if name not in stored:
            differences.append("{} {} is missing".format(name, wanted))
        elif stored[name] != wanted:
            differences.append("{} is {}, not {}".format(name, stored[name], wanted))
    if differences:
        more = len(differences) - NAMED
        raise UserError(
            "{} does not fit the network: {}{}".format(
                checkpoint,
                "; ".join(differences[:NAMED]),
                "; and {} more".format(more) if more > 0 else "",
            )
        )
    with _reading(checkpoint):
        tf.train.Saver(variables).restore(session, checkpoint)


def backbone_variables(graph) -> List:
    """Return the variables of the backbone: BACKBONE_PREFIXES begin their names."""
    return [
        variable
        for variable in graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)
        if variable.op.name.startswith(BACKBONE_PREFIXES)
    ]


def load_backbone(session, checkpoint: str) -> str:
    """Load the backbone's variables from the published starting weights.

    What the file lacks keeps its value.

    Returns:
      A line that says how many were loaded and which were missing.

    Raises:
      UserError: the file cannot be read, a shape differs or nothing fits.
    """
    stored = shapes(checkpoint)
    wanted = backbone_variables(session.graph)
    found = [v for v in wanted if v.op.name in stored]
    missing = [v.op.name for v in wanted if v.op.name not in stored]
    for variable in found:
        shape = stored[variable.op.name]
        if shape != variable.shape.as_list():
            raise UserError(
                "{} does not fit the backbone: {} is {}, not {}".format(
                    checkpoint, variable.op.name, shape, variable.shape.as_list()
                )
            )
    if not found:
        raise UserError("{} has no variable of the backbone".format(checkpoint))
    with _reading(checkpoint):
        tf.train.Saver(found).restore(session, checkpoint)
    line = "backbone: {} of {} variables loaded from {}".format(
        len(found), len(wanted), checkpoint
    )
    return line + ("; missing: " + ", ".join(missing) if missing else "")


class Snapshots:
    """Saves the variables of the default graph, the last KEPT times.

    Args:
      folder: where the snapshots go; made where missing.
      dataset: first part of their names.
    """

    def __init__(self, folder: str, dataset: str) -> None:
        self._folder, self._dataset = folder, dataset
        self._saver = tf.train.Saver(max_to_keep=KEPT, save_relative_paths=True)
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise UserError(
                "cannot write snapshots to {}: {}".format(folder, error.strerror)
            ) from error

    def save(self, session, step: int) -> str:
        """Save under the name of `step` and return the path.

        Raises:
          UserError: the snapshot cannot be written; older ones stay.
        """
        snapshot = path(self._folder, self._dataset, step)
        try:
            self._saver.save(session, snapshot, write_meta_graph=False)
        except (tf.errors.OpError, OSError, ValueError) as error:
            raise UserError(
                "cannot write the snapshot {}: is the disk full, or the folder gone "
                "or protected?".format(snapshot)
            ) from error
        return snapshot
