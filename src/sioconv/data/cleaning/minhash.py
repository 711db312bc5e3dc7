"""Which texts are nearly the same: MinHash over character n-grams.

A signature has `ROWS · BANDS` minima (Broder 1997). Documents whose minima agree in a whole band are compared by all of
them: the share of minima that agree estimates the share of n-grams that two documents have in common (Jaccard). n-grams
are of characters, because Japanese has no spaces to find words by.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sioconv.data.cleaning.config import NearDuplicates
from sioconv.data.cleaning.ngrams import compared, ngram_pieces

# Some band agrees with the probability 1 - (1 - s^ROWS)^BANDS: 0.92 at s = 0.7, 0.998 at 0.8, 0.27 at 0.5.
ROWS, BANDS = 6, 20
MINIMA = ROWS * BANDS
AT_ONCE = 2048  # n-grams whose hashes are in the cache together
NOBODY = np.uint64(2**64 - 1)

_random = np.random.PCG64(2024)  # its raw bits are the same in every version of numpy
_FACTORS = _random.random_raw(MINIMA)[:, None] | np.uint64(1)
_TERMS = _random.random_raw(MINIMA)[:, None]


def signature(text: str, shingle: int) -> NDArray[np.uint32]:
    """[MINIMA]: the smallest of each of as many hashes over the text's character n-grams.

    The hashes are the upper halves of factor · h + term modulo 2⁶⁴ (Dietzfelbinger's multiply-add-shift).
    """
    letters = compared(text) or text
    least = np.full(MINIMA, NOBODY)
    for piece in ngram_pieces(letters, min(shingle, len(letters)) or 1):
        for start in range(0, len(piece), AT_ONCE):
            hashes = _FACTORS * piece[start : start + AT_ONCE] + _TERMS  # [MINIMA, up to AT_ONCE], wraps around
            np.minimum(least, hashes.min(axis=1), out=least)
    return (least >> np.uint64(32)).astype(np.uint32)


class Minima:
    """The signatures of all documents, read from their files where they are needed.

    Args:
        files: one for each task.
        first: [tasks + 1], the number of each task's first document.
    """

    def __init__(self, files: list[Path], first: NDArray[np.int64]) -> None:
        self._first = first
        self._parts = [
            np.memmap(file, "<u4", "r").reshape(-1, MINIMA) if file.stat().st_size else np.empty((0, MINIMA), "<u4")
            for file in files
        ]

    def band(self, number: int) -> NDArray[Any]:
        """[documents]: the minima of a band as one value that can be compared."""
        low = number * ROWS
        parts = [np.ascontiguousarray(part[:, low : low + ROWS]) for part in self._parts]
        return np.concatenate(parts).view(f"V{4 * ROWS}").reshape(-1)

    def of(self, documents: NDArray[np.int64]) -> NDArray[np.uint32]:
        """[documents, MINIMA]: the whole signatures of some documents."""
        found = np.empty((len(documents), MINIMA), np.uint32)
        task = np.searchsorted(self._first, documents, "right") - 1
        for number in np.unique(task):
            chosen = task == number
            found[chosen] = self._parts[number][documents[chosen] - self._first[number]]
        return found


def equal_pairs(values: NDArray[Any]) -> NDArray[np.int64]:
    """[pairs, 2]: each place whose value has come before, and the place before it that has the same."""
    keys = np.ascontiguousarray(values)
    order = np.argsort(_sortable(keys), kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    return np.stack([order[same], order[same + 1]], axis=1)


def near_pairs(minima: Minima, near: NearDuplicates) -> NDArray[np.int64]:
    """[pairs, 2]: documents that agree in a band and in a share `near.threshold` of all minima.

    Of the documents that agree in a band, each is compared with the one before it and with the first.
    """
    found = [np.empty((0, 2), np.int64)]
    for number in range(BANDS):
        neighbours = equal_pairs(minima.band(number))
        fresh = np.flatnonzero(~np.isin(neighbours[:, 0], neighbours[:, 1]))
        runs = np.zeros(len(neighbours), np.int64)
        runs[fresh] = fresh
        heads = neighbours[np.maximum.accumulate(runs), 0] if len(neighbours) else np.empty(0, np.int64)
        candidates = np.concatenate([neighbours, np.stack([heads, neighbours[:, 1]], axis=1)])
        for start in range(0, len(candidates), AT_ONCE):
            part = candidates[start : start + AT_ONCE]
            alike = np.mean(minima.of(part[:, 0]) == minima.of(part[:, 1]), axis=1)  # [part]
            found.append(part[alike >= near.threshold])
    return np.concatenate(found)


def earliest(documents: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """[documents]: the first of all documents that a document is joined with by pairs, itself where it is alone."""
    original = np.arange(documents)
    while len(pairs):
        ends = original[pairs]  # [pairs, 2]
        pairs = np.sort(ends[ends[:, 0] != ends[:, 1]], axis=1)
        np.minimum.at(original, pairs[:, 1], pairs[:, 0])
        while True:  # the first of the first
            onward = original[original]
            if np.array_equal(onward, original):
                break
            original = onward
    return original


def _sortable(keys: NDArray[Any]) -> NDArray[Any]:
    """A 64-bit value a key that is the same for the same key."""
    words = keys.view("<u8" if keys.dtype.itemsize % 8 == 0 else "<u4").reshape(len(keys), -1).astype(np.uint64)
    mixed = np.zeros(len(keys), np.uint64)
    for column in range(words.shape[1]):
        mixed = (mixed ^ words[:, column]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed
