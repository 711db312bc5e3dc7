"""Threads that share tasks: each task is done once, after all of the phase before, whoever takes part."""

import threading
import time
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sioconv.ops.cpu.crew import LINE, finish_phase, take_task

Array = np.ndarray[Any, Any]
WIDTH = 64  # numbers of a phase


@numba.njit(nogil=True)
def _walk(member: int, board: Array, tasks: Array, numbers: Array, done: Array) -> None:
    """Phase p fills numbers[p + 1] of numbers[p], each of its tasks some; `done` counts how often each was done."""
    for phase in range(tasks.size):
        count, task = 0, take_task(board, phase, member, tasks[phase])
        while task >= 0:
            done[phase, task] += 1
            for i in range(task * WIDTH // tasks[phase], (task + 1) * WIDTH // tasks[phase]):
                numbers[phase + 1, i] = 3 * numbers[phase, i] + numbers[phase, (i + 31) % WIDTH] + phase
            count, task = count + 1, take_task(board, phase, member, tasks[phase])
        finish_phase(board, phase, count, tasks[phase])


def _work(tasks: list[int], members: int) -> tuple[Array, Array, Array, Array, Array]:
    """Board, tasks, numbers, counts of done, and what the numbers must become."""
    board = np.zeros((len(tasks), members + 1, LINE), np.int64)
    numbers = np.zeros((len(tasks) + 1, WIDTH), np.int64)
    numbers[0] = np.arange(WIDTH)
    expected = numbers.copy()
    for phase, count in enumerate(tasks):
        if count:
            expected[phase + 1] = 3 * expected[phase] + np.roll(expected[phase], -31) + phase
    return board, np.array(tasks, np.int64), numbers, np.zeros((len(tasks), WIDTH), np.int64), expected


def _check(tasks: list[int], numbers: Array, done: Array, expected: Array) -> None:
    assert (numbers == expected).all()
    for count, times in zip(tasks, done, strict=True):
        assert (times[:count] == 1).all() and not times[count:].any()


@settings(max_examples=50)
@given(tasks=st.lists(st.integers(0, WIDTH), min_size=1, max_size=30), data=st.data())
def test_members_that_come_one_after_the_other_or_never_are_not_waited_for(
    tasks: list[int], data: st.DataObject
) -> None:
    """Whoever comes first does everything; a busy machine may start the others when all is done."""
    members = data.draw(st.integers(1, 5))
    order = data.draw(st.permutations(range(members)))
    board, counts, numbers, done, expected = _work(tasks, members)
    for member in order[: data.draw(st.integers(1, members))]:
        _walk(member, board, counts, numbers, done)
        _check(tasks, numbers, done, expected)


@pytest.mark.parametrize("members", [2, 3, 8])
def test_members_at_once_see_what_the_others_have_done(members: int) -> None:
    """More threads than processors too: one that holds a task may be stopped for a while."""
    random = np.random.default_rng(members)
    for _ in range(50):
        tasks = random.integers(0, WIDTH + 1, 40).tolist()
        board, counts, numbers, done, expected = _work(tasks, members)
        waits = random.exponential(2e-5, members)

        def run(member: int, work: tuple[Any, ...] = (board, counts, numbers, done), waits: Array = waits) -> None:
            time.sleep(waits[member])
            _walk(member, *work)

        threads = [threading.Thread(target=run, args=(member,)) for member in range(members)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _check(tasks, numbers, done, expected)
