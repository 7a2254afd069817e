"""Work shared out to processes: errors, Ctrl-C and dead workers end all of them."""

import contextlib
import functools
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Iterator, Sequence

from util.errors import UserError


def run(work: Callable, tasks: Sequence, jobs: int) -> Iterator[Any]:
    """Yield `work(task)` of each task, in order.

    Closing the iterator or an error ends the processes; tasks that were not begun
    stay undone.

    Args:
      work: a function that can be pickled, if `jobs` is not 1.
      tasks: its arguments, likewise.
      jobs: number of processes; 1: this one.

    Raises:
      UserError: a process died.
    """
    if jobs == 1:
        yield from map(work, tasks)
        return
    # A fork would copy the threads of whatever is loaded already.
    context = multiprocessing.get_context("spawn")
    try:
        with _one_interrupt() as allow, ProcessPoolExecutor(jobs, context) as pool:
            futures = [pool.submit(work, task) for task in tasks]
            allow()
            try:
                for future in futures:
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died; free some memory or use fewer --jobs"
        ) from error


@contextlib.contextmanager
def _one_interrupt():
    """Ignore Ctrl-C until the function yielded is called, and then all but one.

    Processes that start before the call ignore it for good, and the end of the
    pool, which the one brings about, would hang if it were interrupted too.
    """

    def interrupt(*_):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield functools.partial(signal.signal, signal.SIGINT, interrupt)
    finally:
        signal.signal(signal.SIGINT, handler)
