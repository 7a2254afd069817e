"""Work that threads do before its results are asked for."""

import collections
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterable, Iterator

_END = object()


def do_ahead(
    work: Callable[[Any], Any], items: Iterable, depth: int, threads: int
) -> Iterator:
    """Yield `work(item)` of each item, in order, begun before it is asked for.

    Args:
      work: function of an item; several threads call it at once.
      items: may be endless; the caller's own thread takes them, `depth` ahead.
      depth: how many results are under way or wait.
      threads: how many work.

    Yields:
      The results. What `work` raised is raised in the place of its result. Closing the
      generator waits for what is under way and drops the rest.
    """
    items = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting = collections.deque()
        try:
            for item in itertools.islice(items, depth):
                waiting.append(pool.submit(work, item))
            while waiting:
                for item in itertools.islice(items, 1):
                    waiting.append(pool.submit(work, item))
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def take_ahead(items: Iterator, depth: int) -> Iterator:
    """Yield the items of an iterator that a thread takes `depth` items ahead.

    What the iterator raises is raised here, after the items before it. Closing the
    generator waits for the item under way; the iterator can then be used or closed.
    """
    taken = do_ahead(
        lambda _: next(items, _END), itertools.repeat(None), depth, threads=1
    )
    try:
        for item in taken:
            if item is _END:
                return
            yield item
    finally:
        taken.close()
