"""Intervals: how far a figure would move with other documents or other sentences of the same kind."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
RESAMPLES = 1000

Interval = tuple[float, float]


def bootstrap(
    groups: Sequence[tuple[ArrayLike, ArrayLike]], seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval | None:
    """The percentile bootstrap interval of a ratio Σ numerator / Σ denominator over units such as documents.

    Units are drawn with replacement within each group, as many as the group has (Efron & Tibshirani 1993, "An
    Introduction to the Bootstrap", chapters 8 and 13).

    Args:
        groups: of each group, numerators [N] and denominators [N] of its units.
        seed: of the draws.
        resamples: how often all units are drawn.
        level: the share of the resamples that lie inside.

    Returns:
        Its ends; None where there are fewer than two units, which say nothing of others.
    """
    pairs = [(np.asarray(top, float), np.asarray(bottom, float)) for top, bottom in groups]
    if sum(len(top) for top, _ in pairs) < 2:
        return None
    random = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for i in range(resamples):
        draws = [random.integers(len(top), size=len(top)) for top, _ in pairs]
        total = sum(bottom[drawn].sum() for (_, bottom), drawn in zip(pairs, draws, strict=True))
        ratios[i] = sum(top[drawn].sum() for (top, _), drawn in zip(pairs, draws, strict=True)) / total
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson(right: float, count: int, level: float = LEVEL) -> Interval:
    """The interval of a share of `count` independent answers, `right` of them right (Wilson 1927). 0 to 1 for none."""
    if not count:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = right / count
    middle = share + z**2 / (2 * count)
    reach = z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return (middle - reach) / (1 + z**2 / count), (middle + reach) / (1 + z**2 / count)
