"""Matrix times vectors, for the decoding kernel: y[r, i] = matrix[i] . x[r] + bias[i] for a few or many rows r.

A matrix [M, K] is float32, bfloat16 as its bits in uint16, or codes: int8 with a scale for each row, or uint8 as two
codes of four bits (`sioconv.model.quantised.pack`), with a scale for each GROUP codes of a row. What is read from
memory are these few bits.

A sum is the same bits whatever stands beside it. Of floating numbers it is one chain of fused multiply-adds over the
lanes of a vector, whose lanes are then added in halves. With codes x is whole numbers too (`integers.inputs`): sums of
products are exact, in 8 bits until the lanes are added, in 4 bits for each group, whose sums are multiplied by their
scales in one chain.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.extending import overload
from numba.np.numpy_support import carray

from sioconv.ops.cpu.integers.inputs import BLOCK, Inputs, padded
from sioconv.ops.cpu.integers.vectors import (
    add_products,
    as_floats,
    load_codes,
    load_quarters,
    load_whole,
    no_codes,
    no_sums,
    spread_four,
)
from sioconv.ops.cpu.jit import inner, outlined
from sioconv.ops.cpu.structures import Array
from sioconv.ops.cpu.vectors import (
    address_to_pointer,
    called,
    first_lanes,
    four_sums,
    fused,
    load,
    load_halves,
    load_like,
    prefetch,
    splat,
    spread,
    store,
    zeros,
)

REGISTERS = (0,)  # vectors of 64 bytes: 16 channels
LANES = 16
PAIR = 2 * LANES
GROUP = 32  # of `sioconv.model.quantised`
MANY_REGISTERS = bool(get_host_cpu_features().get("avx512f"))  # 32 of 64 bytes each
MANY = 4  # rows, from which on a matrix is used for several of them at once
AHEAD = 2048  # bytes of a matrix between what is read and what is asked for
# The columns of a product in the table of addresses, from its first one on; 0 where it has no such tensor.
MATRIX, BIAS, ROW_SCALES, SCALES = range(4)
COLUMNS_OF_PRODUCT = 4


class Matrix(NamedTuple):
    """A matrix [M, K] as it lies in memory."""

    codes: Array  # its numbers, flat
    scales: Array  # [M, K / GROUP] bfloat16 as bits; of no meaning but in four bits


@inner
def array_at(address: int, size: int, like: Array) -> Array:
    """The array of `size` numbers of `like`'s dtype at an address."""
    return carray(address_to_pointer(address, like), (size,))


@inner
def matrix_at(line: Array, product: int, size: int, like: Array, bits: Array) -> Any:
    """The matrix of the product whose columns begin at `product`; `like` has the dtype of its numbers."""
    return Matrix(array_at(line[product + MATRIX], size, like), array_at(line[product + SCALES], size // GROUP, bits))


def _by_kind(function: Callable[..., Any], numbers: Any, codes: Any, halves: Any) -> None:
    """What `function` does in kernels, by the kind of the matrix that is its first argument."""

    @overload(function, strict=False, jit_options={"forceinline": True, "fastmath": {"contract"}})
    def choose(matrix: Any, *_: Any) -> Any:
        return {types.int8: codes, types.uint8: halves}.get(matrix[0].dtype, numbers)


def channels_of_step(matrix: Any) -> Any:
    """How many channels of a row are read at once."""


_by_kind(channels_of_step, lambda matrix: PAIR, lambda matrix: PAIR, lambda matrix: BLOCK)


def weights_at(matrix: Any, i: int, k: int, at: int, edge: Any) -> Any:
    """The channels of row i from `at` on that a step reads."""


def _numbers_of_row(matrix, i, k, at, edge):
    start, nothing = i * k + at, zeros(matrix.codes, REGISTERS)
    one = load(matrix.codes, start, first_lanes(edge, k - at, nothing), REGISTERS)
    return one, load(matrix.codes, start + LANES, first_lanes(edge, k - at - LANES, nothing), REGISTERS)


def _codes_of_row(matrix, i, k, at, edge):
    return load_codes(matrix.codes, i * k + at, first_lanes(edge, k - at, no_codes()))


def _halves_of_row(matrix, i, k, at, edge):
    start, mask = i * k + at, first_lanes(edge, (k - at) // 8, no_sums())
    return load_quarters(matrix.codes, start // 2, mask), spread_four(matrix.scales, start // GROUP, mask)


_by_kind(weights_at, _numbers_of_row, _codes_of_row, _halves_of_row)


def inputs_at(matrix: Any, x: Any, row: int, k: int, at: int, edge: Any) -> Any:
    """What these channels are multiplied by, of row `row` of x."""


def _values_of_row(matrix, x, row, k, at, edge):
    start, nothing = row * k + at, zeros(x.values, REGISTERS)
    one = load(x.values, start, first_lanes(edge, k - at, nothing), REGISTERS)
    return one, load(x.values, start + LANES, first_lanes(edge, k - at - LANES, nothing), REGISTERS)


def _whole_of_row(matrix, x, row, k, at, edge):
    return load_whole(x.codes, row * padded(k) + at)


def _quarters_of_row(matrix, x, row, k, at, edge):
    start = row * padded(k) + at
    one, two = load_whole(x.codes, start), load_whole(x.codes, start + 32)
    three, four = load_whole(x.codes, start + 64), load_whole(x.codes, start + 96)
    return (one, two, three, four), load_whole(x.sums, start // 8)


_by_kind(inputs_at, _values_of_row, _whole_of_row, _quarters_of_row)


def no_total(matrix: Any, x: Any) -> Any:
    """What a sum begins with: a vector."""


_by_kind(
    no_total,
    lambda matrix, x: zeros(x.values, REGISTERS),
    lambda matrix, x: no_sums(),
    lambda matrix, x: zeros(x.values, REGISTERS),
)


def step(matrix: Any, weights: Any, inputs: Any, total: Any) -> Any:
    """The total with the products of some channels."""


def _chain(matrix, weights, inputs, total):
    return fused(weights[1], inputs[1], fused(weights[0], inputs[0], total))


def _exactly(matrix, weights, inputs, total):
    return add_products(total, weights, inputs)


def _by_groups(matrix, weights, inputs, total):
    codes, scale = weights
    values, whole = inputs
    whole = add_products(add_products(whole, codes[0], values[0]), codes[1], values[1])
    whole = add_products(add_products(whole, codes[2], values[2]), codes[3], values[3])
    return fused(as_floats(whole), scale, total)


_by_kind(step, _chain, _exactly, _by_groups)


def floats_of(matrix: Any, total: Any) -> Any:
    """A total as float32."""


_by_kind(floats_of, lambda matrix, total: total, lambda matrix, total: as_floats(total), lambda matrix, total: total)


def ask_ahead(matrix: Any, at: int) -> None:
    """Asks for what will be read AHEAD bytes after the step at channel `at` of the whole matrix.

    Of codes alone: of numbers one stream is read, in which the processor sees what comes next.
    """


_by_kind(
    ask_ahead,
    lambda matrix, at: None,
    lambda matrix, at: prefetch(matrix.codes, at + AHEAD),
    lambda matrix, at: prefetch(matrix.codes, at // 2 + AHEAD),
)


class Rows(NamedTuple):
    """Four rows of a matrix; fewer at its end, where the last one stands for those that are missing."""

    a: int
    b: int
    c: int
    d: int


class Result(NamedTuple):
    """What four outputs become before they are written."""

    scales: Any  # of four rows of the matrix, in 8 bits
    bias: Any
    mask: Any  # which of the four there are


def scaled(matrix: Any, sums: Any, scale: Any, result: Any) -> Any:
    """Four sums with a row of x, of that scale, as they are written."""


_by_kind(
    scaled,
    lambda matrix, sums, scale, result: sums + result.bias,
    lambda matrix, sums, scale, result: fused(sums, result.scales * scale, result.bias),
    lambda matrix, sums, scale, result: fused(sums, splat(scale, sums), result.bias),
)


@inner
def _write(matrix: Any, a: Any, b: Any, c: Any, d: Any, x: Any, row: int, result: Any, y: Array, at: int) -> None:
    """Four outputs of a row, of their totals, to y[at:]."""
    sums = four_sums(floats_of(matrix, a), floats_of(matrix, b), floats_of(matrix, c), floats_of(matrix, d))
    store(y, at, result.mask, scaled(matrix, sums, x.scales[row], result))


@inner
def _one_row(matrix: Any, of: Any, k: int, x: Any, row: int, result: Any, y: Array, at_y: int, edge: Any) -> None:
    """Four rows of the matrix times one of x."""
    a, b = two_totals(matrix, of.a, of.b, k, x, row, edge)
    c, d = two_totals(matrix, of.c, of.d, k, x, row, edge)
    _write(matrix, a, b, c, d, x, row, result, y, at_y)


def two_totals(matrix: Any, i: int, j: int, k: int, x: Any, row: int, edge: Any) -> Any:
    """Of the rows i and j of the matrix with row `row` of x."""


def _one_by_one(matrix, i, j, k, x, row, edge):
    return _total(matrix, i, k, x, row, edge), _total(matrix, j, k, x, row, edge)


def _side_by_side(matrix, i, j, k, x, row, edge):
    a = b = no_total(matrix, x)
    width = channels_of_step(matrix)
    for at in range(0, k, width):
        ask_ahead(matrix, i * k + 2 * at)
        ask_ahead(matrix, i * k + 2 * at + width)
        value = inputs_at(matrix, x, row, k, at, edge)
        a = step(matrix, weights_at(matrix, i, k, at, edge), value, a)
        b = step(matrix, weights_at(matrix, j, k, at, edge), value, b)
    return a, b


# Numbers come fastest in one stream. Rows of codes are shorter, and one of them alone waits for its own sum.
_by_kind(two_totals, _one_by_one, _side_by_side, _side_by_side)


@inner
def _total(matrix: Any, i: int, k: int, x: Any, row: int, edge: Any) -> Any:
    """Of row i of the matrix with row `row` of x."""
    total = no_total(matrix, x)
    for at in range(0, k, channels_of_step(matrix)):
        total = step(matrix, weights_at(matrix, i, k, at, edge), inputs_at(matrix, x, row, k, at, edge), total)
    return total


@outlined
def _tiles(
    matrix: Any, of: Any, k: int, x: Any, rows: int, result: Any, y: Array, at_y: int, stride: int, edge: Any
) -> int:
    """Four rows of a matrix times as many rows of x as whole tiles take, to y[r, at_y] and behind it."""
    called()
    row, place = 0, at_y
    if MANY_REGISTERS:
        while row + 4 <= rows:
            _four_by_four(matrix, of, k, x, row, result, y, place, stride, edge)
            row, place = row + 4, place + 4 * stride
    else:
        while row + 2 <= rows:
            a, b, e, f = _two_by_two(matrix, of.a, of.b, k, x, row, edge)
            c, d, g, h = _two_by_two(matrix, of.c, of.d, k, x, row, edge)
            _write(matrix, a, b, c, d, x, row, result, y, place)
            _write(matrix, e, f, g, h, x, row + 1, result, y, place + stride)
            row, place = row + 2, place + 2 * stride
    return row


@inner
def _four_by_four(
    matrix: Any, of: Any, k: int, x: Any, row: int, result: Any, y: Array, to: int, stride: int, edge: Any
) -> None:
    """Four rows of a matrix times four of x, from `row` on: 16 sums at once."""
    z = no_total(matrix, x)
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = z, z, z, z, z, z, z, z, z, z, z, z, z, z, z, z
    for at in range(0, k, channels_of_step(matrix)):
        one, two = inputs_at(matrix, x, row, k, at, edge), inputs_at(matrix, x, row + 1, k, at, edge)
        three, four = inputs_at(matrix, x, row + 2, k, at, edge), inputs_at(matrix, x, row + 3, k, at, edge)
        w = weights_at(matrix, of.a, k, at, edge)
        a0, a1 = step(matrix, w, one, a0), step(matrix, w, two, a1)
        a2, a3 = step(matrix, w, three, a2), step(matrix, w, four, a3)
        w = weights_at(matrix, of.b, k, at, edge)
        b0, b1 = step(matrix, w, one, b0), step(matrix, w, two, b1)
        b2, b3 = step(matrix, w, three, b2), step(matrix, w, four, b3)
        w = weights_at(matrix, of.c, k, at, edge)
        c0, c1 = step(matrix, w, one, c0), step(matrix, w, two, c1)
        c2, c3 = step(matrix, w, three, c2), step(matrix, w, four, c3)
        w = weights_at(matrix, of.d, k, at, edge)
        d0, d1 = step(matrix, w, one, d0), step(matrix, w, two, d1)
        d2, d3 = step(matrix, w, three, d2), step(matrix, w, four, d3)
    _write(matrix, a0, b0, c0, d0, x, row, result, y, to)
    _write(matrix, a1, b1, c1, d1, x, row + 1, result, y, to + stride)
    _write(matrix, a2, b2, c2, d2, x, row + 2, result, y, to + 2 * stride)
    _write(matrix, a3, b3, c3, d3, x, row + 3, result, y, to + 3 * stride)


@inner
def _two_by_two(matrix: Any, i: int, j: int, k: int, x: Any, row: int, edge: Any) -> Any:
    """Totals of two rows of a matrix with row `row` of x, then with the next: for processors with fewer registers."""
    z = no_total(matrix, x)
    a0, a1, b0, b1 = z, z, z, z
    for at in range(0, k, channels_of_step(matrix)):
        one, two = inputs_at(matrix, x, row, k, at, edge), inputs_at(matrix, x, row + 1, k, at, edge)
        w = weights_at(matrix, i, k, at, edge)
        a0, a1 = step(matrix, w, one, a0), step(matrix, w, two, a1)
        w = weights_at(matrix, j, k, at, edge)
        b0, b1 = step(matrix, w, one, b0), step(matrix, w, two, b1)
    return a0, b0, a1, b1


def for_many(matrix: Any, of: Any, k: int, edge: Any, bits: Array) -> Any:
    """The matrix, and which rows of it, as they are used for many rows of x."""


def _as_they_are(matrix, of, k, edge, bits):
    return matrix, of


def _widened(matrix, of, k, edge, bits):
    room = np.empty(4 * k, np.float32)
    nothing = zeros(room, REGISTERS)
    for j in range(4):
        for at in range(0, k, PAIR):
            one, two = weights_at(matrix, of[j], k, at, edge)
            store(room, j * k + at, first_lanes(edge, k - at, nothing), one)
            store(room, j * k + at + LANES, first_lanes(edge, k - at - LANES, nothing), two)
    return Matrix(room, bits), Rows(0, 1, 2, 3)


@overload(for_many, strict=False, jit_options={"forceinline": True, "fastmath": {"contract"}})
def _for_many(matrix: Any, of: Any, k: Any, edge: Any, bits: Any) -> Any:
    return _widened if matrix[0].dtype == types.uint16 else _as_they_are


@outlined
def project(
    line: Array, product: int, like: Array, bits: Array, first: int, last: int, k: int, size: int, x: Inputs, rows: int,
    y: Array, edge: Any,
) -> None:  # fmt: skip
    """y[r, i] = matrix[i] . x[r] + bias[i] for first <= i < last and all rows.

    Args:
        line: addresses, of which `product` is the first column of this product's.
        like: has the dtype of the matrix.
        bits: has the dtype of scales.
        first: outputs from here ...
        last: ... to here.
        k: length of a row of the matrix and of x.
        size: rows of the matrix, and length of a row of y.
        x: R rows, prepared for that dtype.
        rows: R.
        y: float32 [R, M].
        edge: None where k is a multiple of what a step reads.
    """
    called()
    matrix = matrix_at(line, product, size * k, like, bits)
    bias, scale = line[product + BIAS], line[product + ROW_SCALES]
    biases, scales = array_at(bias, size, x.values), array_at(scale, size, bits)
    nothing = zeros(x.values, REGISTERS)
    none = four_sums(nothing, nothing, nothing, nothing)
    for i in range(first, last, 4):
        top = last - 1
        of = Rows(i, min(i + 1, top), min(i + 2, top), min(i + 3, top))
        mask = first_lanes(True, last - i, none)
        result = Result(
            load_like(scales, i, mask, none) if scale != 0 else none,
            load_like(biases, i, mask, none) if bias != 0 else none,
            mask,
        )
        row = 0
        if rows >= MANY:
            wide, them = for_many(matrix, of, k, edge, bits)
            row = _tiles(wide, them, k, x, rows, result, y, i, size, edge)
        while row < rows:
            _one_row(matrix, of, k, x, row, result, y, row * size + i, edge)
            row += 1


@inner
def number_at(bits: Array, at: int) -> Any:
    """A bfloat16 of an array of their bits, as a float32."""
    return np.uint32(np.uint32(bits[at]) << np.uint32(16)).view(np.float32)


def load_pair(matrix: Any, i: int, k: int, at: int, edge: Any) -> Any:
    """Channels `at` to `at` + 31 of row i of a matrix as numbers: two vectors, without the row's scale."""


def _pair_of_halves(matrix, i, k, at, edge):
    start = i * k + at
    low, high = load_halves(matrix.codes, start // 2, REGISTERS)
    scale = spread(matrix.scales, start // GROUP, REGISTERS)
    return low * scale, high * scale


_by_kind(load_pair, _numbers_of_row, _numbers_of_row, _pair_of_halves)


@inner
def read_row(line: Array, product: int, like: Array, bits: Array, i: int, k: int, size: int, x: Array, at: int,
             edge: Any) -> Any:  # fmt: skip
    """Row i of a matrix [M, K] to x[at:]; the sum of its squares as a vector of lanes."""
    matrix = matrix_at(line, product, size * k, like, bits)
    factor = np.float32(1)
    if line[product + ROW_SCALES] != 0:
        factor = number_at(array_at(line[product + ROW_SCALES], size, bits), i)
    square = zeros(x, REGISTERS)
    for channel in range(0, k, PAIR):
        one, two = load_pair(matrix, i, k, channel, edge)
        one, two = one * factor, two * factor
        square = fused(two, two, fused(one, one, square))
        store(x, at + channel, first_lanes(edge, k - channel, square), one)
        store(x, at + channel + LANES, first_lanes(edge, k - channel - LANES, square), two)
    return square
