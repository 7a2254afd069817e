"""A batch spread over devices: each computes a share, with the same variables.

Only the device of operations changes: losses and gradients of the whole batch follow
as if one device had computed it.
"""

from typing import Any, Callable, Dict, List, NamedTuple, Optional

from util.core.errors import UserError
from util.graph.compat import tf

COPIES = "frozen_copies"  # graph collection of (variable, its copy)


class Tower(NamedTuple):
    """One of the devices.

    Attributes:
      device: what tf.device takes.
      getter: what tf.variable_scope takes as `custom_getter`.
    """

    device: Callable
    getter: Optional[Callable] = None


def local_towers(number: int) -> List[Tower]:
    """Return the towers of this machine: its GPUs, or virtual CPU devices.

    The first device holds the variables.

    Args:
      number: how many; 1: TensorFlow places everything.

    Raises:
      UserError: there are GPUs, but fewer.
    """
    if number == 1:
        return []
    return [Tower(_placer("", 1, name)) for name in local_devices(number)]


def local_devices(number: int) -> List[str]:
    """Return the names of this machine's GPUs, or of virtual CPU devices.

    Args:
      number: how many; 1: "", TensorFlow places everything.

    Raises:
      UserError: there are GPUs, but fewer. TensorFlow would put the rest on the first.
    """
    if number == 1:
        return [""]
    found = len(tf.config.experimental.list_physical_devices("GPU"))
    if 0 < found < number:
        raise UserError(
            f"-g names {number} GPUs, and TensorFlow finds {found} of them here: name "
            "those that there are"
        )
    return _names("", number)


def remote_towers(
    workers: List[str], num_ps: int, number: int, frozen: Callable[[str], bool]
) -> List[Tower]:
    """Return the towers of a cluster, whose parameter servers hold the variables.

    A worker keeps copies of the variables that never change, see `copy_frozen`.

    Args:
      workers: their tasks, such as "/job:worker/task:0".
      num_ps: int, parameter servers.
      number: devices of each worker.
      frozen: tells by its name whether a variable never changes.
    """
    return [
        Tower(_placer("/job:ps", num_ps, name), _copies(name, frozen))
        for worker in workers
        for name in _names(worker, number)
    ]


def local_placement(number: int) -> Optional[Callable]:
    """Return the device of what belongs to none of `local_towers`, for tf.device."""
    return None if number == 1 else _placer("", 1, _names("", 1)[0])


def remote_placement(chief: str, num_ps: int) -> Callable:
    """Return the device of what belongs to none of `remote_towers`, for tf.device."""
    return _placer("/job:ps", num_ps, chief)


def _names(task, number):
    kind = "GPU" if tf.config.experimental.list_physical_devices("GPU") else "CPU"
    return [f"{task}/device:{kind}:{index}" for index in range(number)]


def _placer(job, tasks, device):
    if not job:
        job = _names("", 1)[0]
    return tf.train.replica_device_setter(
        ps_tasks=tasks, ps_device=job, worker_device=device
    )


def _copies(device, frozen):
    copies = {}

    def get(getter, name, *args, **options):
        variable = getter(name, *args, **options)
        if not frozen(name):
            return variable
        if name not in copies:
            with tf.device(device):
                copies[name] = tf.Variable(
                    tf.zeros(variable.shape),
                    trainable=False,
                    collections=[tf.GraphKeys.LOCAL_VARIABLES],
                    name="copy",
                )
            tf.add_to_collection(COPIES, (variable, copies[name]))
        return copies[name]

    return get


def copy_frozen(session) -> None:
    """Bring the copies of `remote_towers` up to date with their variables."""
    pairs = tf.get_collection(COPIES)
    session.run([tf.assign(copy, variable) for variable, copy in pairs])


def spread(
    function: Callable[[Dict], Any],
    towers: List[Tower],
    inputs: Dict,
    images: Optional[Dict] = None,
    image_counts: Any = None,
) -> Any:
    """Apply a function to shares of a batch, one a tower, and join the results.

    Args:
      function: takes a dict of tensors [B, ...] and returns tensors [B, ...] in dicts,
        lists or tuples; makes its variables with tf.get_variable.
      towers: their number divides B; none: the function is applied as it is.
      inputs: name -> tensor [B, ...].
      images: more of them, of the images: name -> tensor [P, ...].
      image_counts: int32 [number of towers], how many images each has; None: as many.

    Returns:
      What the function returns for the whole batch.
    """
    images = images or {}
    if not towers:
        return function({**inputs, **images})
    shares = {name: tf.split(x, len(towers)) for name, x in inputs.items()}
    for name, x in images.items():
        counts = len(towers) if image_counts is None else image_counts
        shares[name] = tf.split(x, counts, num=len(towers))
    results = []
    for number, (device, getter) in enumerate(towers):
        share = {name: parts[number] for name, parts in shares.items()}
        here = tf.variable_scope(
            tf.get_variable_scope(),
            reuse=True if number else None,
            custom_getter=getter,
        )
        with tf.device(device), here:
            results.append(function(share))
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *results)
