"""Tasks whose answers are known: something is to be kept in memory, and is asked for after so many tokens.

What is kept, the *size*, doesn't grow with the length: a longer sequence is a longer way to remember. Answers are
predicted where their questions stand; nothing else counts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sioconv.data.batches.loader import IGNORED, Batch

NOISE, MARK, TICK = 0, 1, 2  # tokens that mean something; all others are symbols
FIRST = 3
SYMBOLS = 64  # that are copied, and of keys and of values
VOCABULARY = FIRST + 2 * SYMBOLS
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """A kind of sequence.

    Args:
        make: (random, rows, length, size) to the ids and targets [rows, length] of sequences.
        least: the shortest length at which `size` things fit.
        chance: the share of right answers that guessing among the possible ones has.
    """

    make: Callable[[np.random.Generator, int, int, int], tuple[Ids, Ids]]
    least: Callable[[int], int]
    chance: Callable[[int], float]


def recall(random: np.random.Generator, rows: int, length: int, size: int) -> tuple[Ids, Ids]:
    """Multi-query associative recall (Arora et al. 2023, arXiv:2312.04927): `size` keys with their values, and later
    every key once more, at a place of its own among noise: its value is the answer.
    """
    ids, targets = _empty(rows, length)
    for row in range(rows):
        keys = FIRST + random.permutation(SYMBOLS)[:size]
        values = FIRST + SYMBOLS + random.integers(SYMBOLS, size=size)
        ids[row, : 2 * size : 2], ids[row, 1 : 2 * size : 2] = keys, values
        places = 2 * size + random.permutation(length - 2 * size)[:size]
        ids[row, places], targets[row, places] = keys, values
    return ids, targets


def copying(random: np.random.Generator, rows: int, length: int, size: int) -> tuple[Ids, Ids]:
    """`size` symbols, noise, a mark, and the symbols again: each but the first after the one before it."""
    symbols = FIRST + random.integers(SYMBOLS, size=(rows, size))
    ids, targets = _empty(rows, length)
    ids[:, :size] = symbols
    return _answered(ids, targets, symbols)


def selective_copying(random: np.random.Generator, rows: int, length: int, size: int) -> tuple[Ids, Ids]:
    """`size` symbols scattered in noise, a mark, and the symbols in their order (Gu & Dao 2023, arXiv:2312.00752)."""
    symbols = FIRST + random.integers(SYMBOLS, size=(rows, size))
    ids, targets = _empty(rows, length)
    for row in range(rows):
        places = np.sort(random.permutation(length - size - 1)[:size])
        ids[row, places] = symbols[row]
    return _answered(ids, targets, symbols)


def counting(random: np.random.Generator, rows: int, length: int, size: int) -> tuple[Ids, Ids]:
    """0 to `size` ticks scattered in noise, and a mark at the end: how many there were is the answer."""
    ids, targets = _empty(rows, length)
    counts = random.integers(size + 1, size=rows)
    for row in range(rows):
        ids[row, random.permutation(length - 1)[: counts[row]]] = TICK
    ids[:, -1], targets[:, -1] = MARK, FIRST + counts
    return ids, targets


TASKS = {
    "recall": Task(recall, lambda size: 3 * size, lambda _: 1 / SYMBOLS),
    "copying": Task(copying, lambda size: 2 * size + 1, lambda _: 1 / SYMBOLS),
    "selective copying": Task(selective_copying, lambda size: 2 * size + 1, lambda _: 1 / SYMBOLS),
    "counting": Task(counting, lambda size: size + 1, lambda size: 1 / (size + 1)),
}


def batch(task: str, random: np.random.Generator, rows: int, length: int, size: int) -> Batch:
    """Sequences as training takes them.

    Raises ValueError where `size` things don't fit into the length, or there aren't so many symbols.
    """
    if not 1 <= size <= SYMBOLS or length < TASKS[task].least(size):
        raise ValueError(
            f"{task}: a size of {size} needs 1 to {SYMBOLS} and a length of {TASKS[task].least(size)} or more"
        )
    ids, targets = TASKS[task].make(random, rows, length, size)
    reset = torch.zeros(rows, length, dtype=torch.bool)
    reset[:, 0] = True
    positions = torch.arange(length).expand(rows, length)
    return Batch(torch.from_numpy(ids), torch.from_numpy(targets), reset, positions)


def _empty(rows: int, length: int) -> tuple[Ids, Ids]:
    return np.full((rows, length), NOISE, np.int64), np.full((rows, length), IGNORED, np.int64)


def _answered(ids: Ids, targets: Ids, symbols: Ids) -> tuple[Ids, Ids]:
    """With a mark and the symbols at the end, each predicted from the token before it."""
    size = symbols.shape[1]
    ids[:, -size], ids[:, ids.shape[1] - size + 1 :] = MARK, symbols[:, :-1]
    targets[:, -size:] = symbols
    return ids, targets
