"""What this process may use of the machine: processors and GPUs."""

import contextlib
import math
import os
from typing import Optional

from util.core.errors import UserError

GPUS = "CUDA_VISIBLE_DEVICES"
FIRST_GPU = "0"  # used where neither -g nor the variable says anything

CGROUP = "/sys/fs/cgroup"


def cores() -> int:
    """Return how many cores this process may use, at least 1.

    Those that a scheduler, a container or `taskset` leaves it, and no more than the
    share of time that its cgroup has.
    """
    try:
        number = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        number = os.cpu_count() or 1
    share = _share_of_time()
    return number if share is None else max(1, min(number, math.ceil(share)))


def _share_of_time() -> Optional[float]:
    """Return how many cores' time a container has; None: all that there is."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = _read("cpu.max").split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota = int(_read("cpu", "cpu.cfs_quota_us"))
        period = int(_read("cpu", "cpu.cfs_period_us"))
        return quota / period if quota > 0 else None
    return None


def _read(*names):
    with open(os.path.join(CGROUP, *names), encoding="ascii") as file:
        return file.read()


def choose_gpus(chosen: Optional[str]) -> None:
    """Let this process see the GPUs of -g, and no others.

    Args:
      chosen: their numbers, counted within what the variable GPUS names already, with
        commas between them; "-1": none; None: those of the variable, and where it is
        not set FIRST_GPU.

    Raises:
      UserError: the variable names fewer.
    """
    given = os.environ.get(GPUS)
    if chosen is None:
        os.environ.setdefault(GPUS, FIRST_GPU)
        return
    if given is not None and chosen != "-1":
        chosen = ",".join(_within(given, int(number)) for number in chosen.split(","))
    os.environ[GPUS] = chosen


def number_of_devices(chosen: Optional[str]) -> int:
    """Return how many devices -g names, at least 1.

    Args:
      chosen: as for `choose_gpus`.

    Example:
      >>> [number_of_devices(chosen) for chosen in (None, "-1", "3", "0,1,2,3")]
      [1, 1, 1, 4]
    """
    return chosen.count(",") + 1 if chosen else 1


def _within(given, number):
    names = []
    for name in filter(None, map(str.strip, given.split(","))):
        if name.startswith("-"):  # CUDA reads no further
            break
        names.append(name)
    if number >= len(names):
        raise UserError(
            f"-g {number}: {GPUS}={given} leaves this process {len(names)} GPUs, "
            "counted from 0: choose among them, or leave out -g"
        )
    return names[number]
