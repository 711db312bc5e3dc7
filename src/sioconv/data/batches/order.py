"""The order of training: which source a window comes from, and which of its windows it is.

Both are computed from the window's number alone, so that a run can begin anywhere and on any number of processes.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LONGEST_PERIOD = 100_000
ROUNDS = 6
MASK_64 = (1 << 64) - 1


def whole_weights(weights: Sequence[float]) -> list[int]:
    """Whole numbers in the proportions of `weights`, their sum at most `LONGEST_PERIOD`, as small as can be.

    Exact where such numbers exist, as they do for weights with up to four decimals that sum to 10 or less; else each
    share is rounded to a multiple of 1 / `LONGEST_PERIOD`.

    Raises ValueError for weights that aren't finite and positive, or so small beside the others that they round to 0.
    """
    if not weights or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"weights must be finite and positive, got {list(weights)}")
    exact = [Fraction(str(weight)) for weight in weights]  # the decimals that were written, not their binary neighbours
    unit = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * unit) for weight in exact]
    if sum(whole) // math.gcd(*whole) > LONGEST_PERIOD:
        whole = [round(Fraction(weight * (LONGEST_PERIOD - len(whole)), sum(whole))) for weight in whole]
    if 0 in whole:
        raise ValueError(f"a weight is under about {1 / LONGEST_PERIOD:g} of the sum, got {list(weights)}")
    return [weight // math.gcd(*whole) for weight in whole]


def fair_sequence(weights: Sequence[int]) -> NDArray[np.int64]:
    """One period, [sum of weights], of a sequence of 0 … k-1 in which each number's count keeps up with its share.

    After n elements, for every n and also in the repeated sequence, the count of i is within 1 - 1/(2k - 2) of
    n · weights[i] / sum. The algorithm is R. Tijdeman's (The chairman assignment problem, Discrete Mathematics 32,
    1980): among those i that are behind their share by at least 1/(2k - 2), the next is the one that would soonest be
    too far behind.
    """
    period, margin = sum(weights), 2 * len(weights) - 2
    if margin == 0:
        return np.zeros(period, np.int64)
    scale = math.lcm(*weights)
    counts = [0] * len(weights)
    chosen = np.empty(period, np.int64)
    for n in range(1, period + 1):
        # Both conditions are multiplied out, so that whole numbers decide: behind_i = n·w_i/P - counts_i ≥ 1/margin,
        # and the deadline of i is the t at which t·w_i/P - counts_i reaches 1 - 1/margin; the earliest is taken.
        _, choice = min(
            ((margin * count + margin - 1) * (scale // weight), i)
            for i, (weight, count) in enumerate(zip(weights, counts, strict=True))
            if margin * (n * weight - count * period) >= period
        )
        chosen[n - 1] = choice
        counts[choice] += 1
    return chosen


class Turns:
    """Whose turn each element of an endless sequence is, so that every name keeps to its share.

    Args:
        weights: the share of each name, in any unit, all of them positive.

    Raises ValueError as `whole_weights` does.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.names = list(weights)
        self._weights = whole_weights(list(weights.values()))
        self._sequence = fair_sequence(self._weights)  # [period]
        # How often the same name has come before in the period, so that no counting is needed later.
        self._earlier = np.empty_like(self._sequence)  # [period]
        for number, weight in enumerate(self._weights):
            self._earlier[self._sequence == number] = np.arange(weight)

    def turn(self, element: int) -> tuple[int, int]:
        """The number of the name that `element` belongs to, and how many elements before it did."""
        period, place = divmod(element, len(self._sequence))
        number = int(self._sequence[place])
        return number, period * self._weights[number] + int(self._earlier[place])

    def counts(self, elements: int) -> dict[str, int]:
        """How many of the first `elements` elements belong to each name."""
        periods, rest = divmod(elements, len(self._sequence))
        partial = np.bincount(self._sequence[:rest], minlength=len(self.names))
        return {
            name: periods * weight + int(count)
            for name, weight, count in zip(self.names, self._weights, partial, strict=True)
        }


def rank_rows(size: int, rank: int, world_size: int) -> range:
    """The rows of a global batch of `size` that process `rank` of `world_size` computes: consecutive, at most one more
    than another's, and all rows together. The batch itself doesn't depend on the number of processes.
    """
    if size < 0 or not 0 <= rank < world_size:
        raise ValueError(f"size >= 0 and 0 <= rank < world_size expected, got {size}, {rank} and {world_size}")
    return range(rank * size // world_size, (rank + 1) * size // world_size)


def permuted(index: int, size: int, seed: int, name: str, epoch: int) -> int:
    """Where a permutation of 0 … size-1, chosen by (seed, name, epoch), takes `index`.

    A Feistel network on pairs of numbers below a and b, where a·b is just above `size`, walked until it ends below
    `size` (J. Black and P. Rogaway, Ciphers with Arbitrary Finite Domains, 2002): no list is kept or shuffled.
    """
    if not 0 <= index < size:
        raise ValueError(f"0 <= index < size expected, got index={index}, size={size}")
    a = math.isqrt(size - 1) + 1
    b = -(-size // a)
    keys = _round_keys(seed, name, epoch)
    while True:
        left, right = divmod(index, b)
        for first, second in zip(keys[::2], keys[1::2], strict=True):
            left = (left + _scrambled(right ^ first)) % a
            right = (right + _scrambled(left ^ second)) % b
        index = left * b + right
        if index < size:
            return index


@lru_cache(maxsize=256)
def _round_keys(seed: int, name: str, epoch: int) -> tuple[int, ...]:
    digest = hashlib.shake_128(f"{seed}\n{epoch}\n{name}".encode()).digest(8 * ROUNDS)
    return tuple(int.from_bytes(digest[place : place + 8], "big") for place in range(0, len(digest), 8))


def _scrambled(value: int) -> int:
    """64 bits that all depend on all bits of `value` (the finaliser of SplitMix64, Steele, Lea and Flood, 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK_64
    return value ^ (value >> 31)
