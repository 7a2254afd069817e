"""util.core.parallel: order, threads, errors and the end."""

import itertools
import threading

import pytest

from util.core.parallel import prefetch, prefetch_iterator


def test_results_come_in_the_order_of_the_items():
    second_is_done = threading.Event()

    def work(item):
        if item == 0:  # the first ends after the second, which needs its own thread
            assert second_is_done.wait(10)
        elif item == 1:
            second_is_done.set()
        return 10 * item

    assert list(prefetch(work, range(5), depth=2, threads=2)) == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("number, depth", [(0, 2), (1, 2), (5, 9)])
def test_items_may_be_fewer_than_what_is_done_ahead(number, depth):
    assert list(prefetch(str, range(number), depth, 1)) == list("01234"[:number])
    assert list(prefetch_iterator(iter(range(number)), depth)) == list(range(number))


def noted(items, taken):
    """Yield the items and note which were taken, in which thread."""
    for item in items:
        taken.append((item, threading.current_thread()))
        yield item


def test_another_thread_takes_as_many_items_ahead_as_asked():
    taken = []
    items = prefetch_iterator(noted(itertools.count(), taken), depth=3)
    assert next(items) == 0 and next(items) == 1
    items.close()  # waits for what is under way, and drops what is not
    assert 2 <= len(taken) <= 5
    assert [item for item, _ in taken] == list(range(len(taken)))
    assert len({thread for _, thread in taken}) == 1
    assert taken[0][1] is not threading.current_thread()


def test_items_can_be_taken_on_after_closing():
    source = itertools.count()
    items = prefetch_iterator(source, depth=2)
    next(items)
    items.close()
    assert next(source) <= 3
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name]


def broken():
    yield "good"
    raise KeyError("the file's name")


def test_error_comes_after_the_items_before_it_and_ends():
    items = prefetch_iterator(broken(), depth=5)
    assert next(items) == "good"
    with pytest.raises(KeyError, match="the file's name"):
        next(items)
    assert list(items) == []


def test_error_of_the_items_is_raised_in_its_place():
    results = prefetch(str.upper, broken(), depth=5, threads=2)
    assert next(results) == "GOOD"
    with pytest.raises(KeyError, match="the file's name"):
        next(results)


def test_error_of_the_work_is_raised_in_its_place():
    results = prefetch(lambda item: 6 // item, [3, 2, 0, 1], depth=9, threads=4)
    assert next(results) == 2 and next(results) == 3
    with pytest.raises(ZeroDivisionError):
        next(results)
