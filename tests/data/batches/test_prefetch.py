"""Items come in their order, made ahead, and nothing is left running."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.batches.prefetch import prefetch


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


@given(st.lists(st.none() | st.integers(), max_size=20), st.integers(1, 5))
def test_the_same_items_in_the_same_order(items: list[int | None], depth: int) -> None:
    assert list(prefetch(items, depth)) == items
    assert not threads()


def test_as_many_as_asked_are_made_ahead() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    items = prefetch(numbers(), 3)
    assert not made
    assert next(items) == 0
    deadline = time.monotonic() + 30
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)  # for a fifth, if one were made
    assert made == [0, 1, 2, 3]
    items.close()
    assert not threads()


def test_an_error_comes_in_its_place() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    items = prefetch(numbers(), 8)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    assert not threads()


def test_an_item_that_is_an_error_is_an_item() -> None:
    error = ValueError("kept")
    assert list(prefetch([error])) == [error]


def test_closing_frees_a_thread_that_waits_for_room() -> None:
    items = prefetch(iter(range(10**9)), 1)
    assert next(items) == 0
    items.close()
    assert not threads()
    with pytest.raises(StopIteration):
        next(items)


def test_items_are_made_while_the_last_one_is_used() -> None:
    used = threading.Event()

    def numbers() -> Iterator[int]:
        yield 1
        assert used.wait(30)  # is set only while the consumer has the first item
        yield 2

    items = prefetch(numbers(), 1)
    assert next(items) == 1
    used.set()
    assert list(items) == [2]


def test_a_depth_below_one_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="depth"):
        prefetch([1], 0)
