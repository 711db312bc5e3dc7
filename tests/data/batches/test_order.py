"""Shares that hold at every moment, and permutations without a list."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.batches.order import LONGEST_PERIOD, fair_sequence, permuted, rank_rows, whole_weights

decimals = st.integers(1, 10_000).map(lambda number: number / 10_000)


@given(st.lists(decimals, min_size=1, max_size=8))
def test_four_decimals_are_exact(weights: list[float]) -> None:
    exact = [Fraction(round(weight * 10_000), 10_000) for weight in weights]
    whole = whole_weights(weights)
    assert [Fraction(weight, sum(whole)) for weight in whole] == [weight / sum(exact) for weight in exact]


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_other_weights_are_close(weights: list[float]) -> None:
    whole = whole_weights(weights)
    assert sum(whole) <= LONGEST_PERIOD
    for weight, number in zip(weights, whole, strict=True):
        assert abs(number / sum(whole) - weight / sum(weights)) < 1e-4


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [-1.0], [float("nan")], [float("inf"), 1.0], [1e-9, 1.0]])
def test_impossible_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        whole_weights(weights)


@given(st.lists(st.integers(1, 60) | st.sampled_from([1, 500]), min_size=1, max_size=8))
def test_counts_never_leave_their_shares(weights: list[int]) -> None:
    sequence = fair_sequence(weights)
    period, bound = sum(weights), 1 - 1 / max(1, 2 * len(weights) - 2)
    assert len(sequence) == period
    counts = np.cumsum(sequence[:, None] == np.arange(len(weights)), axis=0)  # [period, sources]
    shares = np.arange(1, period + 1)[:, None] * np.array(weights) / period
    assert np.abs(counts - shares).max() <= bound + 1e-9
    assert counts[-1].tolist() == weights


def order(size: int, seed: int = 0, name: str = "x", epoch: int = 0) -> Sequence[int]:
    return [permuted(index, size, seed, name, epoch) for index in range(size)]


def test_every_size_up_to_two_thousand_is_permuted() -> None:
    # Growing sizes in full would be two million calls: every size up to 130, then every size at one of five keys.
    for size in [*range(1, 131), *range(131, 2001, 23), 2000]:
        assert sorted(order(size, seed=size % 5)) == list(range(size))


@given(st.integers(1, 2000), st.integers(0, 2**64), st.text(max_size=5), st.integers(0, 10**9))
def test_any_key_permutes(size: int, seed: int, name: str, epoch: int) -> None:
    assert sorted(order(size, seed, name, epoch)) == list(range(size))


@given(st.integers(10**9, 2**60), st.integers(0, 2**32))
def test_large_sizes_stay_inside_and_apart(size: int, seed: int) -> None:
    places = [permuted(index, size, seed, "x", 0) for index in (*range(50), *range(size - 50, size))]
    assert len(set(places)) == 100
    assert all(0 <= place < size for place in places)


def test_seeds_sources_and_epochs_have_their_own_orders() -> None:
    orders = [order(100, *key) for key in ((0, "x", 0), (1, "x", 0), (0, "y", 0), (0, "x", 1))]
    orders.append(list(range(100)))
    for number, first in enumerate(orders):
        for second in orders[:number]:
            assert sum(a == b for a, b in zip(first, second, strict=True)) < 15


def test_every_place_is_taken_about_equally_often() -> None:
    size, epochs = 7, 4000
    counts = np.zeros((size, size))
    for epoch in range(epochs):
        counts[np.arange(size), order(size, epoch=epoch)] += 1
    # The standard deviation of a count is about 22; 5 of them leave room for all 49.
    assert np.abs(counts - epochs / size).max() < 5 * np.sqrt(epochs / size)


def test_places_outside_are_programming_errors() -> None:
    for index, size in ((-1, 5), (5, 5), (0, 0)):
        with pytest.raises(ValueError, match="index"):
            permuted(index, size, 0, "x", 0)


@given(st.integers(0, 200), st.integers(1, 40))
def test_the_ranks_rows_are_the_batch_in_order(size: int, world_size: int) -> None:
    parts = [rank_rows(size, rank, world_size) for rank in range(world_size)]
    assert [row for part in parts for row in part] == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_ranks_outside_are_programming_errors() -> None:
    for size, rank, world_size in ((-1, 0, 1), (4, 2, 2), (4, -1, 2)):
        with pytest.raises(ValueError, match="rank"):
            rank_rows(size, rank, world_size)
