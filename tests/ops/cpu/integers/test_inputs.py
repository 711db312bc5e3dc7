"""Rows of numbers as whole numbers of 16 bits, against numpy."""

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sioconv.ops.cpu.integers.inputs import BLOCK, LARGEST, Inputs, floats_for, padded, prepare

Array = np.ndarray[Any, Any]
# Channels of a block in the order in which codes of four bits are read (`pack`, `load_quarters`): a quarter has from
# each group of 32 channels the even or the odd ones of its first or of its second 16.
ORDER = [32 * group + 2 * pair + part for part in (0, 16, 1, 17) for group in range(4) for pair in range(8)]


@numba.njit
def _prepare(like: Array, inputs: Any, rows: int, k: int) -> None:
    for row in range(rows):
        prepare(like, inputs, row, k)


def size_of(k: int) -> int:
    return -(-k // BLOCK) * BLOCK


def prepared(x: Array, bits: int) -> Inputs:
    """Rows [R, K] for products with codes of so many bits; what was in memory before is garbage."""
    rows, k = x.shape
    size = rows * size_of(k)
    garbage = np.full(size, -7, np.int16), np.full(size // 8, 99, np.int32), np.full(rows, np.nan, np.float32)
    inputs = Inputs(np.ascontiguousarray(x, np.float32).reshape(-1), *garbage)
    _prepare(np.empty(1, np.int8 if bits == 8 else np.uint8), inputs, rows, k)
    return inputs


def codes_of(inputs: Inputs, rows: int, k: int, bits: int) -> Array:
    """The codes of rows, [R, K], in the order of the channels."""
    codes = inputs.codes.reshape(rows, -1, BLOCK)
    if bits == 4:
        codes = codes[:, :, np.argsort(ORDER)]
    codes = codes.reshape(rows, -1)
    assert not codes[:, k:].any()
    return codes[:, :k].astype(np.int64)


@given(st.sampled_from([8, 4]), st.integers(1, 4), st.integers(1, 300), st.floats(1e-25, 1e30), st.integers(0, 2**31))
@settings(max_examples=60)
def test_no_number_is_further_off_than_half_a_code(bits: int, rows: int, k: int, size: float, seed: int) -> None:
    if bits == 4:
        k = -(-k // 32) * 32
    x = (np.random.default_rng(seed).standard_normal((rows, k)) ** 3 * size).astype(np.float32)
    inputs = prepared(x, bits)
    codes, scales = codes_of(inputs, rows, k, bits), inputs.scales.astype(np.float64)[:, None]
    np.testing.assert_allclose(scales[:, 0], np.abs(x).max(1) / LARGEST, rtol=1e-6)
    assert (np.abs(codes).max(1) == LARGEST).all()
    assert (np.abs(codes * scales - x) <= 0.51 * scales).all()
    if bits == 4:
        lanes = inputs.codes.reshape(rows, -1, 4, 16, 2).astype(np.int64)
        assert (inputs.sums.reshape(rows, -1, 16) == -8 * lanes.sum((2, 4))).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_of_zeros_and_of_what_is_no_number(bits: int) -> None:
    x = np.ones((6, 64), np.float32)
    x[0], x[1] = 0, 1e-38
    x[2, 3], x[3, 63], x[4, 0] = np.nan, np.inf, -np.inf
    inputs = prepared(x, bits)
    assert inputs.scales[:2].tolist() == [0, 0] and not codes_of(inputs, 6, 64, bits)[:2].any()
    assert np.isnan(inputs.scales[2:5]).all()
    assert (codes_of(inputs, 6, 64, bits)[5] == LARGEST).all()


@pytest.mark.parametrize("k", [8192, 8193, 16384, 65536 + 7])
def test_the_codes_of_long_rows_leave_room_for_the_sum(k: int) -> None:
    largest = np.abs(prepared(np.full((1, k), -3.0), 8).codes.astype(np.int64)).max()
    assert -(-k // 32) * 2 * 128 * largest < 2**31  # what one of the sums may become
    assert largest > 0.99 * LARGEST * min(1, 8192 / k)
    assert np.abs(prepared(np.full((1, 65536), -3.0), 4).codes).max() == LARGEST


@given(st.integers(1, 70_000))
def test_the_space_of_a_row_holds_codes_sums_and_scale(k: int) -> None:
    assert padded.py_func(k) == size_of(k)
    assert 4 * floats_for(k) >= 2 * size_of(k) + 4 * size_of(k) // 8 + 4
