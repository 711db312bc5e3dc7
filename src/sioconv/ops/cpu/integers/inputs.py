"""What a product with codes reads: a row of numbers as whole numbers of 16 bits and one scale.

x[k] = scale * code[k], where the largest code is LARGEST, so that a row loses at most 2^-16 of its largest number. The
sums of products of codes are exact, and so the same bits whatever the order. A row of zeros, or of nothing larger than
TINY, has scale 0; one that holds what is no finite number has scale NaN, and so have all products with it.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from sioconv.ops.cpu.integers.vectors import (
    SHIFT,
    add_products,
    load_whole,
    no_codes,
    no_sums,
    store_low,
    store_low_halves,
    store_whole,
)
from sioconv.ops.cpu.jit import inner
from sioconv.ops.cpu.structures import Array
from sioconv.ops.cpu.vectors import first_lanes, fused, lane_max, load, select, splat, tree_sum, zeros

REGISTERS = (0,)
LANES = 16
BLOCK = 128  # codes of a row are padded with zeros to a multiple
LARGEST = 32767
TINY = 1e-30  # its inverse is a number yet


class Inputs(NamedTuple):
    """Rows of what products read, [R, K], with Kp = `padded(K)`."""

    values: Array  # float32 [R, K]
    codes: Array  # int16 [R, Kp], in four bits in the order of `load_quarters`
    sums: Array  # int32 [R, Kp / 8], in four bits: -8 times the sums of the codes of x that a lane is multiplied by
    scales: Array  # float32 [R]


@inner
def padded(k: int) -> int:
    """K, up to whole blocks."""
    return (k + BLOCK - 1) // BLOCK * BLOCK


@inner
def largest_code(k: int) -> int:
    """For products with codes of 8 bits, which are added up in 16 sums of 32 bits, a pair in each for 32 channels.

    Rows of up to 8,192 channels take LARGEST; in longer ones the codes of x have to be smaller.
    """
    return min(LARGEST, (2**31 - 1) // (2 * 128 * ((k + 31) // 32)))


def floats_for(width: int) -> int:
    """How many float32 take the space of a row of `width` numbers in `Inputs`, without its values."""
    blocks = (width + BLOCK - 1) // BLOCK
    return blocks * (BLOCK // 2 + BLOCK // 8) + LANES


@inner
def _scale_row(inputs: Any, row: int, k: int, limit: Any) -> Any:
    """Sets a row's scale; what its numbers are multiplied by."""
    most = bad = nothing = zeros(inputs.values, REGISTERS)
    for at in range(0, k, LANES):
        value = load(inputs.values, row * k + at, first_lanes(True, k - at, nothing), REGISTERS)
        size = select(value > 0.0, value, 0.0 - value)
        most, bad = select(size > most, size, most), fused(value, nothing, bad)
    largest, inverse, scale = lane_max(most), np.float32(0), np.float32(0)
    if largest >= np.float32(TINY):
        inverse, scale = np.float32(limit) / largest, largest / np.float32(limit)
    inputs.scales[row] = scale + tree_sum(bad)  # 0, or NaN where a number isn't finite
    return inverse


@inner
def _shifted(inputs: Any, row: int, k: int, at: int, inverse: Any) -> Any:
    """Numbers `at` to `at` + 15 of a row as whole numbers, plus SHIFT; 0 beyond K."""
    nothing = zeros(inputs.values, REGISTERS)
    value = load(inputs.values, row * k + at, first_lanes(True, k - at, nothing), REGISTERS)
    return fused(value, splat(inverse, nothing), splat(np.float32(SHIFT), nothing))


def prepare(like: Array, inputs: Any, row: int, k: int) -> None:
    """Fills what products with a matrix of `like`'s dtype read of a row of `inputs`, beside the values."""


@overload(prepare, strict=False, jit_options={"forceinline": True, "fastmath": {"contract"}, "error_model": "numpy"})
def _prepare(like: Any, inputs: Any, row: Any, k: Any) -> Any:
    return {types.int8: _for_bytes, types.uint8: _for_halves}.get(like.dtype, _for_numbers)


def is_prepared(like: Array) -> Any:
    """Whether products with a matrix of `like`'s dtype need `prepare`."""


@overload(is_prepared, strict=False, jit_options={"forceinline": True})
def _is_prepared(like: Any) -> Any:
    return (lambda like: True) if like.dtype in (types.int8, types.uint8) else (lambda like: False)


def _for_numbers(like, inputs, row, k):
    return None


def _for_bytes(like, inputs, row, k):
    size = padded(k)
    inverse = _scale_row(inputs, row, k, largest_code(k))
    for at in range(0, size, LANES):
        store_low(inputs.codes, row * size + at, _shifted(inputs, row, k, at, inverse))


def _for_halves(like, inputs, row, k):
    size = padded(k)
    inverse = _scale_row(inputs, row, k, LARGEST)
    for at in range(0, size, BLOCK):
        start = row * size + at
        for group in range(4):  # channels 0 to 15 are in the low bits of bytes, the other 16 in the high ones
            place = start + 8 * group
            first = _shifted(inputs, row, k, at + 32 * group, inverse)
            store_low_halves(inputs.codes, place, place + 64, first)
            second = _shifted(inputs, row, k, at + 32 * group + LANES, inverse)
            store_low_halves(inputs.codes, place + 32, place + 96, second)
        total, minus_eight = no_sums(), splat(-8, no_codes())
        for quarter in range(4):
            total = add_products(total, load_whole(inputs.codes, start + 32 * quarter), minus_eight)
        store_whole(inputs.sums, start // 8, total)
