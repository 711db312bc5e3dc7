import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.evaluate.intervals import bootstrap, wilson


def test_the_bootstrap_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    """For a mean of many values both are mean ± 1.96 standard errors."""
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    interval = bootstrap([(values, np.ones(400))], resamples=4000)
    assert interval is not None
    reach = 1.96 * values.std() / math.sqrt(400)
    assert interval == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.03)


def test_groups_are_drawn_within_themselves() -> None:
    """Two groups of equal units don't vary, although they differ from each other."""
    interval = bootstrap([([1.0, 1.0, 1.0], [1, 1, 1]), ([5.0, 5.0], [1, 1])])
    assert interval == pytest.approx((13 / 5, 13 / 5))


def test_the_seed_decides_the_draws() -> None:
    values, sizes = np.arange(1.0, 30.0), np.arange(2.0, 31.0)
    assert bootstrap([(values, sizes)], 1) == bootstrap([(values, sizes)], 1) != bootstrap([(values, sizes)], 2)


def test_one_unit_says_nothing_of_others() -> None:
    assert bootstrap([([1.0], [2.0])]) is None
    assert bootstrap([([], [])]) is None
    assert bootstrap([]) is None


def test_groups_of_one_unit_have_no_interval_of_width_zero() -> None:
    assert bootstrap([([1.0], [2.0]), ([3.0], [2.0])]) is None
    assert bootstrap([([1.0], [2.0]), ([3.0, 1.0, 2.0], [2.0, 1.0, 1.0])]) is None


@pytest.mark.parametrize("counts", [(5,), (4, 6)])
def test_95_percent_of_the_intervals_hold_the_truth_even_of_few_units(counts: tuple[int, ...]) -> None:
    """Of documents whose bits a byte are normally distributed, of sizes that differ fourfold."""
    random, trials, hits = np.random.default_rng(7), 300, 0
    for trial in range(trials):
        sizes = [random.uniform(500, 2000, size=count) for count in counts]
        groups = [(random.normal(1.5, 0.3, size=len(size)) * size, size) for size in sizes]
        interval = bootstrap(groups, trial, resamples=200)
        assert interval is not None
        hits += interval[0] <= 1.5 <= interval[1]
    assert 0.92 <= hits / trials <= 0.98


@pytest.mark.parametrize(
    ("right", "count", "expected"),  # from Newcombe 1998, table I, method 3
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_intervals_are_the_published_ones(right: int, count: int, expected: tuple[float, float]) -> None:
    assert wilson(right, count) == pytest.approx(expected, abs=5e-5)


@given(st.integers(0, 200), st.integers(0, 200))
def test_a_share_lies_in_its_interval(right: int, wrong: int) -> None:
    low, high = wilson(right, right + wrong)
    assert -1e-12 <= low <= high <= 1 + 1e-12
    if right + wrong:
        assert low - 1e-12 <= right / (right + wrong) <= high + 1e-12
