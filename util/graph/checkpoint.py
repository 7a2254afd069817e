"""Snapshots: their names, what is in them, and loading."""

import contextlib
import glob
import hashlib
import json
import os
import re
from typing import Any, Dict, Iterable, List, Optional, Union

import numpy as np

from util.core.errors import UserError
from util.graph.compat import tf
from util.graph.session import is_out_of_memory

NAMED = 10  # differences that an error message spells out

DATA, STATE, INDEX = ".data-00000-of-00001", ".state.json", ".index"

WORDS = "vocabulary"  # key of its checksum in a state
OPTIONS = "options"  # key of those that the model was made with, see `models.OPTIONS`

BEST = "best"

# What an older state of RRN's release had behind the data set in snapshots' names.
OLD_NAME = "_(?:resnet|deeplab)_(?:LSTM|RMI)"


def path(folder: str, dataset: str, step: Any) -> str:
    """Return the path of a snapshot as TensorFlow wants it, without file endings.

    Args:
      step: int, or BEST.
    """
    return os.path.join(folder, f"{dataset}_iter_{step}.tfmodel")


def steps(folder: str, dataset: str) -> List[int]:
    """Return the steps of the snapshots in a folder, in rising order."""
    return sorted(_named(folder, re.escape(dataset)))


def there(folder: str, dataset: str) -> Dict[int, str]:
    """Return step -> path of the snapshots in a folder, in rising order.

    Names of RRN's older release count, too, where no other has the step.
    """
    old = _named(folder, re.escape(dataset) + OLD_NAME)
    return dict(sorted({**old, **_named(folder, re.escape(dataset))}.items()))


def _named(folder, pattern):
    """Return step -> path of the snapshots whose names begin with a pattern."""
    if not os.path.isdir(folder):
        return {}
    pattern += r"_iter_([0-9]+)\.tfmodel(\.index)?"
    names = sorted(os.listdir(folder))
    matches = filter(None, (re.fullmatch(pattern, name) for name in names))
    return {
        int(match.group(1)): os.path.join(folder, without_ending(match.group()))
        for match in matches
    }


def data_set_of(snapshot: str) -> str:
    """Return the name of the data set that a snapshot's name begins with.

    Example:
      >>> data_set_of("ckpts/unc+_iter_700000.tfmodel")
      'unc+'
      >>> data_set_of("ckpts/unc_deeplab_LSTM_iter_700000.tfmodel")
      'unc'
    """
    return re.sub(f"({OLD_NAME})?_iter_.*", "", os.path.basename(snapshot))


def without_ending(snapshot: str) -> str:
    """Return a snapshot's path also where one of its files was named."""
    return re.sub(r"(\.index|\.data-\d+-of-\d+|\.meta)$", "", snapshot)


def resumable(folder: str, dataset: str) -> List[str]:
    """Return the paths of the snapshots to go on from, the newest first."""
    paths = (path(folder, dataset, step) for step in reversed(steps(folder, dataset)))
    ends = (INDEX, DATA, STATE)
    return [one for one in paths if all(os.path.exists(one + end) for end in ends)]


def newest(folder: str, dataset: str) -> Optional[str]:
    """Return the path of the newest snapshot that training can go on from, or None."""
    return next(iter(resumable(folder, dataset)), None)


def read_state(snapshot: str) -> Dict[str, Any]:
    """Return what `Snapshots.save` got as `state`.

    Raises:
      UserError: the file is damaged.
    """
    try:
        with open(snapshot + STATE, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"cannot read {snapshot + STATE}: move the snapshot away to resume from an "
            "older one"
        ) from error


def read_vocabulary_checksum(snapshot: str) -> Optional[str]:
    """Return the checksum of the words that a snapshot knows; None: it is unknown.

    Raises:
      UserError: its state is damaged.
    """
    if not os.path.exists(snapshot + STATE):
        return None
    return read_state(snapshot).get(WORDS)


def read_options(snapshot: str) -> Dict[str, str]:
    """Return the options, of `models.OPTIONS`, that a snapshot's state tells.

    Raises:
      UserError: its state is damaged.
    """
    if not os.path.exists(snapshot + STATE):
        return {}
    options = read_state(snapshot).get(OPTIONS, {})
    if not isinstance(options, dict):
        raise UserError(f"{snapshot + STATE} is damaged: {OPTIONS} is {options!r}")
    return options


def find(folder: str, dataset: str, step: Any) -> str:
    """Return the path of a snapshot that is there.

    Args:
      step: int, or BEST; None: the newest one, or BEST where it is the only one.

    Raises:
      UserError: it is not; lists those that are.
    """
    require_usable_name(folder)
    best = path(folder, dataset, BEST)
    known = {BEST: best} if os.path.exists(best + INDEX) else {}
    known.update(there(folder, dataset))
    if step is None and known:
        step = list(known)[-1]
    if step not in known:
        wanted = path(folder, dataset, "N" if step is None else step)
        choice = "train first (-m train) or put a downloaded one there"
        if known:
            choice = f"choose one with -i: {', '.join(map(str, known))}"
        raise UserError(f"there is no snapshot {wanted}; {choice}")
    return known[step]


def require_usable_name(folder: str) -> None:
    """Refuse a name that TensorFlow takes for a pattern or address, or cannot write.

    Raises:
      UserError: says which signs it has.
    """
    pattern = r"[][*?{}\\\x00-\x1f\x7f\ud800-\udfff]|://"
    signs = sorted(set(re.findall(pattern, folder)))
    if signs:
        raise UserError(
            f"TensorFlow cannot use the name {folder!a}: it has "
            f"{' '.join(ascii(sign) for sign in signs)}; choose or give another name"
        )


def fingerprint(snapshot: str) -> Optional[str]:
    """Return what tells the weights of a snapshot from others, as hexadecimal digits.

    It is the checksum of the index, which holds the checksums of all values.

    Args:
      snapshot: path of the snapshot.

    Returns:
      None where there is no index: the file has the format of TensorFlow before 1.0.
    """
    if not os.path.exists(snapshot + INDEX):
        return None
    with open(snapshot + INDEX, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def require_whole(snapshot: str) -> None:
    """Read all of a snapshot, whose values have checksums.

    Raises:
      UserError: it is damaged or incomplete.
    """
    with _reading(snapshot):
        reader = tf.train.NewCheckpointReader(snapshot)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)


@contextlib.contextmanager
def _reading(file):
    """Say in a line what TensorFlow says in fifty of a file that it cannot read."""
    require_usable_name(file)
    try:
        yield
    except (tf.errors.OpError, ValueError, IndexError) as error:
        if isinstance(error, tf.errors.OpError) and is_out_of_memory(error):
            raise  # of the device, see `enough_memory`
        raise UserError(
            f"cannot read the checkpoint {file}: it is missing, damaged or "
            "incomplete; copy or download all its files again (.index and .data-...)"
        ) from error


def shapes(checkpoint: str) -> Dict[str, List[int]]:
    """Return variable name -> shape of a checkpoint file.

    Raises:
      UserError: the file is missing or damaged, or has fewer bytes than values.
    """
    with _reading(checkpoint):
        reader = tf.train.NewCheckpointReader(checkpoint)
        found = reader.get_variable_to_shape_map()
        # A network of sizes that an index invents would take all memory.
        size = sum(map(os.path.getsize, glob.glob(glob.escape(checkpoint) + "*")))
        if sum(np.prod(shape, dtype=np.float64) for shape in found.values()) > size:
            raise ValueError(f"it has {size} bytes")
        return found


def read(checkpoint: str, names: Iterable[str]) -> Dict[str, np.ndarray]:
    """Return variable name -> value, of some that a checkpoint file has.

    Raises:
      UserError: the file is missing or damaged.
    """
    with _reading(checkpoint):
        reader = tf.train.NewCheckpointReader(checkpoint)
        return {name: reader.get_tensor(name) for name in names}


def load(
    session, checkpoint: str, variables: Union[None, List, Dict[str, Any]] = None
) -> None:
    """Load variables from a snapshot.

    Args:
      session: of the variables' graph.
      checkpoint: the snapshot's path.
      variables: of tf.Variable; a dict: by their names in the snapshot; None: all of
        the graph.

    Raises:
      UserError: the file cannot be read, does not fit, or holds NaN or infinite
        values; names what differs.
    """
    if variables is None:
        variables = session.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)
    if not isinstance(variables, dict):
        variables = {variable.op.name: variable for variable in variables}
    stored, differences = shapes(checkpoint), []
    for name, variable in variables.items():
        wanted = variable.shape.as_list()
        if name not in stored:
            differences.append(f"{name} {wanted} is missing")
        elif stored[name] != wanted:
            differences.append(f"{name} is {stored[name]}, not {wanted}")
    if differences:
        named, more = "; ".join(differences[:NAMED]), len(differences) - NAMED
        raise UserError(
            f"{checkpoint} does not fit the network: {named}"
            + (f"; and {more} more" if more > 0 else "")
        )
    with session.graph.as_default(), _reading(checkpoint):
        tf.train.Saver(variables).restore(session, checkpoint)
    check_finite(checkpoint, variables)


@contextlib.contextmanager
def closed_on_error(session):
    """Close a session if the body fails, such as `load`; else it stays open."""
    try:
        yield
    except BaseException:
        session.close()
        raise


def check_finite(checkpoint: str, names: Iterable[str]) -> None:
    """Refuse values that are no numbers, with which a network answers nonsense.

    Args:
      checkpoint: path of a file.
      names: of variables in it.

    Raises:
      UserError: one is NaN or infinite somewhere; or the file cannot be read.
    """
    with _reading(checkpoint):
        reader = tf.train.NewCheckpointReader(checkpoint)
        for name in sorted(names):
            value = reader.get_tensor(name)
            if np.issubdtype(value.dtype, np.floating):
                bad = np.size(value) - np.count_nonzero(np.isfinite(value))
                if bad:
                    raise UserError(
                        f"{checkpoint} is of no use: {bad} of {np.size(value)} values "
                        f"of {name} are NaN or infinite: take another file"
                    )
