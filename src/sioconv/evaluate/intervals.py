"""Intervals: how far a figure would move with other documents or other sentences of the same kind."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
RESAMPLES = 1000

Interval = tuple[float, float]


def bootstrap(
    groups: Sequence[tuple[ArrayLike, ArrayLike]], seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval | None:
    """The bootstrap interval of a ratio Σ numerator / Σ denominator over units such as documents.

    Units are drawn with replacement within each group, as many as the group has (Efron & Tibshirani 1993, "An
    Introduction to the Bootstrap", chapters 8 and 13). The percentiles' distances from the ratio are widened by what
    they lack for few units: √(N/(N−1)) in each group, and Student's t instead of the normal distribution (Hesterberg
    2015, arXiv:1411.5279), with Satterthwaite's degrees of freedom.

    Args:
        groups: of each group, numerators [N] and denominators [N] of its units.
        seed: of the draws.
        resamples: how often all units are drawn.
        level: the share of the resamples that lie inside, were there many units.

    Returns:
        Its ends; None where a group has fewer than two units, which say nothing of others.
    """
    pairs = [(np.asarray(top, float), np.asarray(bottom, float)) for top, bottom in groups]
    if min((len(top) for top, _ in pairs), default=0) < 2:
        return None
    random = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for i in range(resamples):
        draws = [random.integers(len(top), size=len(top)) for top, _ in pairs]
        total = sum(bottom[drawn].sum() for (_, bottom), drawn in zip(pairs, draws, strict=True))
        ratios[i] = sum(top[drawn].sum() for (top, _), drawn in zip(pairs, draws, strict=True)) / total
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    ratio = sum(top.sum() for top, _ in pairs) / sum(bottom.sum() for _, bottom in pairs)
    wider = _widening(pairs, ratio, level)
    return float(ratio - wider * (ratio - low)), float(ratio + wider * (high - ratio))


def _widening(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], ratio: float, level: float) -> float:
    """How much wider than the percentiles an interval must be, so that few units don't make it too narrow."""
    counts = np.array([len(top) for top, _ in pairs])
    spread = np.array([np.var(top - ratio * bottom) * len(top) for top, bottom in pairs])  # of a group's sum
    if not spread.any():
        return 1.0
    unbiased = spread * counts / (counts - 1)
    freedom = unbiased.sum() ** 2 / (unbiased**2 / (counts - 1)).sum()
    z = NormalDist().inv_cdf((1 + level) / 2)
    return float((unbiased.sum() / spread.sum()) ** 0.5) * _student(z, float(freedom)) / z


def _student(z: float, freedom: float) -> float:
    """Student's quantile where the normal distribution's is z (Abramowitz & Stegun 26.7.5; 11 % too small at 1)."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def wilson(right: float, count: int, level: float = LEVEL) -> Interval:
    """The interval of a share of `count` independent answers, `right` of them right (Wilson 1927). 0 to 1 for none."""
    if not count:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = right / count
    middle = share + z**2 / (2 * count)
    reach = z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return (middle - reach) / (1 + z**2 / count), (middle + reach) / (1 + z**2 / count)
