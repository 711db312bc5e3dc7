"""Vectors of whole numbers, against numpy."""

from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sioconv.ops.cpu.integers.vectors import (
    add_products,
    as_floats,
    load_codes,
    load_quarters,
    load_whole,
    no_codes,
    no_sums,
    spread_four,
    store_whole,
)
from sioconv.ops.cpu.vectors import first_lanes, store

Array = np.ndarray[Any, Any]


@numba.njit
def _products(codes: Array, x: Array, total: Array, floats: Array) -> None:
    count = codes.size
    weights = load_codes(codes, 0, first_lanes(True, count, no_codes()))
    whole = add_products(load_whole(total, 0), weights, load_whole(x, 0))
    store_whole(total, 0, whole)
    store(floats, 0, None, as_floats(whole))


@given(st.integers(0, 32), st.integers(0, 2**31), st.integers(-(2**29), 2**29))
def test_products_are_exact(count: int, seed: int, before: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.choice([-128, 127, -1, 0, 5], count).astype(np.int8)
    x = random.choice([-32767, 32767, -32768, 1, 777], 32).astype(np.int16)
    total, floats = np.full(16, before, np.int32), np.empty(16, np.float32)
    _products(codes, x, total, floats)
    products = np.zeros(32, np.int64)
    products[:count] = codes.astype(np.int64) * x[:count]
    expected = before + products.reshape(16, 2).sum(1)
    assert total.tolist() == expected.tolist()
    assert floats.tolist() == expected.astype(np.float32).tolist()


@numba.njit
def _quarters(codes: Array, scales: Array, groups: int, picks: Array, out: Array, spread: Array) -> None:
    mask = first_lanes(True, 4 * groups, no_sums())
    quarters = load_quarters(codes, 0, mask)
    for quarter in range(4):
        for lane in range(2):
            chosen = add_products(no_sums(), quarters[quarter], load_whole(picks, 32 * lane))
            store_whole(out, 16 * (2 * quarter + lane), chosen)
    store(spread, 0, None, spread_four(scales, 0, mask))


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_four_bits_and_their_scales(groups: int) -> None:
    """A pair of bytes is a lane, whose codes are in the four vectors; nothing is read behind the last group."""
    random = np.random.default_rng(groups)
    codes = random.integers(0, 256, 16 * groups, np.uint8)
    numbers = torch.randn(groups).bfloat16()
    picks = np.tile(np.array([[1, 0], [0, 1]], np.int16)[:, None], (1, 16, 1)).reshape(-1)
    out, spread = np.empty(128, np.int32), np.empty(16, np.float32)
    _quarters(codes, numbers.view(torch.uint16).numpy(), groups, picks, out, spread)
    words = np.zeros(32, np.uint16)
    words[: 8 * groups] = codes.view("<u2")
    expected = [(words >> 4 * quarter & 15)[lane::2] for quarter in range(4) for lane in range(2)]
    assert out.tolist() == np.concatenate(expected).tolist()
    assert spread.tolist() == [*numbers.float().repeat_interleave(4).tolist(), *[0.0] * (16 - 4 * groups)]
