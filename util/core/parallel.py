"""Work on several cores: in processes, or in threads that begin it early."""

import collections
import contextlib
import ctypes
import functools
import itertools
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Iterable, Iterator, Optional, Sequence

from util.core.errors import UserError

_END = object()
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class ProcessDied(UserError):
    """A process ended in the midst of its work, as when a library crashes."""


class Pool:
    """Processes that do work next to this one, and never outlive it.

    Use it as a context manager, whose end waits for what is under way.

    Example:
      >>> with Pool(2, died="a process died") as pool:
      ...     futures = [pool.submit(pow, 2, exponent) for exponent in range(4)]
      ...     print([pool.result(future) for future in futures])
      [1, 2, 4, 8]

    Args:
      jobs: int, number of processes, at least 1.
      died: the error where a process dies, for want of memory as a rule.
    """

    def __init__(self, jobs: int, died: str) -> None:
        self.jobs, self._died = jobs, died
        # A fork would copy the threads of whatever is loaded already.
        context = multiprocessing.get_context("spawn")
        # Only this process holds the pipe's other end, so however it ends, its workers
        # read the end of the file.
        ours, self._alive = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            jobs, context, initializer=_end_with_parent, initargs=(ours,)
        )

    def submit(self, work: Callable, *args: Any) -> Future:
        """Start `work(*args)`, all of which can be pickled; `result` waits for it.

        Raises:
          ProcessDied: a process died before.
        """
        with self._death_reported():
            return self._pool.submit(work, *args)

    def result(self, future: Future, what: Optional[str] = None) -> Any:
        """Wait for what `submit` started and return its result, or raise its error.

        Args:
          future: of `submit`.
          what: names it where a process died.

        Raises:
          ProcessDied: a process died.
        """
        with self._death_reported(what):
            return future.result()

    @contextlib.contextmanager
    def _death_reported(self, what=None):
        try:
            yield
        except BrokenProcessPool as error:
            place = f"{what}: " if what else ""
            raise ProcessDied(place + self._died) from error

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._pool.shutdown()


def _end_with_parent(alive):
    """Begin to wait, in a worker, for the end of the process that started it."""

    def wait():
        with contextlib.suppress(EOFError, OSError):
            alive.recv_bytes()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Let Linux send this process a signal when the one that started it is gone.

    For the `preexec_fn` of programs that a command starts, however it ends.

    Args:
      number: the signal.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))


def run(
    work: Callable,
    tasks: Sequence,
    jobs: Optional[int],
    name: Callable[[Any], str] = str,
) -> Iterator[Any]:
    """Yield `work(task)` of each task, in order.

    Closing the iterator or an error ends the processes; tasks that were not begun
    stay undone.

    Args:
      work: a function that can be pickled, if `jobs` is not None, and called twice.
      tasks: its arguments, likewise.
      jobs: number of processes; None: none but this one, which a library's crash ends.
      name: function of a task: what to call it where a process dies of it.

    Raises:
      ProcessDied: a process died; names the task if it is the same when the task is
        alone.
    """
    if jobs is None:
        yield from map(work, tasks)
        return
    died = "a worker process died; free some memory or use fewer --jobs"
    with _one_interrupt() as allow, Pool(jobs, died) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        allow()
        try:
            for future in futures:
                yield pool.result(future)
        except ProcessDied:
            undone = [t for t, future in zip(tasks, futures) if not _is_done(future)]
            _find_deadly(work, undone[: 2 * jobs], name)  # they are begun in order
            raise
        finally:
            for future in futures:
                future.cancel()


def _is_done(future):
    return future.done() and not future.cancelled() and future.exception() is None


def _find_deadly(work, tasks, name):
    """Do tasks one by one, and raise an error with the name of that which kills."""
    died = "a process dies of it: it is damaged, or takes more memory than there is"
    with Pool(1, died) as pool:
        for task in tasks:
            pool.result(pool.submit(work, task), name(task))


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


def prefetch(
    work: Callable[[Any], Any], items: Iterable, depth: int, threads: int
) -> Iterator:
    """Yield `work(item)` of each item, in order, begun before it is asked for.

    Args:
      work: function of an item; several threads call it at once.
      items: may be endless; the caller's own thread takes them, `depth` ahead.
      depth: how many results are under way or wait.
      threads: how many work.

    Yields:
      The results. What `work` or `items` raised is raised in the place of a result.
      Closing the generator waits for what is under way and drops the rest.
    """
    items = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting = collections.deque()

        def begin_next():
            try:
                waiting.append(pool.submit(work, next(items)))
            except StopIteration:
                pass
            except Exception as error:
                waiting.append(_failed(error))

        try:
            for _ in range(depth):
                begin_next()
            while waiting:
                begin_next()
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _failed(error):
    future = Future()
    future.set_exception(error)
    return future


def prefetch_iterator(items: Iterator, depth: int) -> Iterator:
    """Yield the items of an iterator that a thread takes `depth` items ahead.

    What the iterator raises is raised here, after the items before it. Closing the
    generator waits for the item under way; the iterator can then be used or closed.
    """
    taken = prefetch(
        lambda _: next(items, _END), itertools.repeat(None), depth, threads=1
    )
    try:
        for item in taken:
            if item is _END:
                return
            yield item
    finally:
        taken.close()
