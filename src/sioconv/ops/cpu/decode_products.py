"""Matrix times vectors, for the decoding kernel: y[r, i] = matrix[i] . x[r] + bias[i] for a few or many rows r.

Each sum is one chain of fused multiply-adds over the lanes of a vector, whose lanes are then added in halves: it is the
same bits whatever stands beside it. A matrix [M, K] is float32, bfloat16 as its bits in uint16, or whole numbers: int8
with a scale for each row, or uint8 as two numbers of four bits (`sioconv.model.quantised.pack`), with a scale for each
GROUP numbers of a row. They become float32 in registers, so that what is read from memory are the few bits.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.extending import overload
from numba.np.numpy_support import carray

from sioconv.ops.cpu.jit import inner, outlined
from sioconv.ops.cpu.structures import Array
from sioconv.ops.cpu.vectors import (
    address_to_pointer,
    called,
    first_lanes,
    fused,
    load,
    load_halves,
    spread,
    store,
    tree_sum,
    zeros,
)

REGISTERS = (0,)  # vectors of 64 bytes: 16 channels
LANES = 16
PAIR = 2 * LANES
GROUP = 32  # of `sioconv.model.quantised`
MANY_REGISTERS = bool(get_host_cpu_features().get("avx512f"))  # 32 of 64 bytes each
MANY = 4  # rows, from which on a matrix is widened in memory, some rows at a time, and used for several of them
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


def load_pair(matrix: Any, i: int, k: int, at: int, edge: Any) -> Any:
    """Channels `at` to `at` + 31 of row i of a matrix [M, K]: two vectors, without the row's scale."""


@overload(load_pair, strict=False, inline="never", jit_options={"forceinline": True, "fastmath": {"contract"}})
def _load_pair(matrix: Any, i: Any, k: Any, at: Any, edge: Any) -> Any:
    if matrix[0].dtype == types.uint8:
        return _pair_of_halves
    return _pair_of_numbers


def _pair_of_numbers(matrix, i, k, at, edge):
    start, nothing = i * k + at, zeros(matrix.codes, REGISTERS)
    one = load(matrix.codes, start, first_lanes(edge, k - at, nothing), REGISTERS)
    return one, load(matrix.codes, start + LANES, first_lanes(edge, k - at - LANES, nothing), REGISTERS)


def _pair_of_halves(matrix, i, k, at, edge):
    start = i * k + at
    low, high = load_halves(matrix.codes, start // 2, REGISTERS)
    scale = spread(matrix.scales, start // GROUP, REGISTERS)
    return low * scale, high * scale


@inner
def _numbers_at(x: Array, start: int, k: int, at: int, edge: Any) -> Any:
    """Channels `at` to `at` + 31 of a vector [K] at `start`, as two vectors."""
    nothing = zeros(x, REGISTERS)
    one = load(x, start + at, first_lanes(edge, k - at, nothing), REGISTERS)
    return one, load(x, start + at + LANES, first_lanes(edge, k - at - LANES, nothing), REGISTERS)


@inner
def _chain(weights: Any, values: Any, total: Any) -> Any:
    return fused(weights[1], values[1], fused(weights[0], values[0], total))


@inner
def _one_row(matrix: Any, i: int, k: int, x: Array, row: int, y: Array, at_y: int, edge: Any) -> None:
    """y[at_y] to y[at_y + 3] = rows i to i + 3 of the matrix times x[row]."""
    nothing = zeros(x, REGISTERS)
    a, b, c, d = nothing, nothing, nothing, nothing
    for at in range(0, k, PAIR):
        value = _numbers_at(x, row * k, k, at, edge)
        a = _chain(load_pair(matrix, i, k, at, edge), value, a)
        b = _chain(load_pair(matrix, i + 1, k, at, edge), value, b)
        c = _chain(load_pair(matrix, i + 2, k, at, edge), value, c)
        d = _chain(load_pair(matrix, i + 3, k, at, edge), value, d)
    y[at_y], y[at_y + 1], y[at_y + 2], y[at_y + 3] = tree_sum(a), tree_sum(b), tree_sum(c), tree_sum(d)


@outlined
def _tiles(wide: Array, i: int, k: int, x: Array, rows: int, y: Array, at_y: int, stride: int, edge: Any) -> int:
    """Rows i to i + 3 of a float32 matrix times as many rows of x as whole tiles take, to y[r, at_y] and behind it."""
    called()
    row, place = 0, at_y
    if MANY_REGISTERS:
        while row + 4 <= rows:
            _four_by_four(wide, i * k, k, x, row * k, y, place, stride, edge)
            row, place = row + 4, place + 4 * stride
    else:
        while row + 2 <= rows:
            _two_by_two(wide, i * k, k, x, row * k, y, place, stride, edge)
            _two_by_two(wide, (i + 2) * k, k, x, row * k, y, place + 2, stride, edge)
            row, place = row + 2, place + 2 * stride
    return row


@inner
def _four_by_four(
    wide: Array, at: int, k: int, x: Array, start: int, y: Array, to: int, stride: int, edge: Any
) -> None:
    """Four rows of a matrix, from `at` on, times four of x, from `start` on: 16 sums at once."""
    z = zeros(x, REGISTERS)
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = z, z, z, z, z, z, z, z, z, z, z, z, z, z, z, z
    for j in range(0, k, LANES):
        mask = first_lanes(edge, k - j, z)
        one, two = load(x, start + j, mask, REGISTERS), load(x, start + k + j, mask, REGISTERS)
        three, four = load(x, start + 2 * k + j, mask, REGISTERS), load(x, start + 3 * k + j, mask, REGISTERS)
        w = load(wide, at + j, mask, REGISTERS)
        a0, a1, a2, a3 = fused(w, one, a0), fused(w, two, a1), fused(w, three, a2), fused(w, four, a3)
        w = load(wide, at + k + j, mask, REGISTERS)
        b0, b1, b2, b3 = fused(w, one, b0), fused(w, two, b1), fused(w, three, b2), fused(w, four, b3)
        w = load(wide, at + 2 * k + j, mask, REGISTERS)
        c0, c1, c2, c3 = fused(w, one, c0), fused(w, two, c1), fused(w, three, c2), fused(w, four, c3)
        w = load(wide, at + 3 * k + j, mask, REGISTERS)
        d0, d1, d2, d3 = fused(w, one, d0), fused(w, two, d1), fused(w, three, d2), fused(w, four, d3)
    y[to], y[to + 1], y[to + 2], y[to + 3] = tree_sum(a0), tree_sum(b0), tree_sum(c0), tree_sum(d0)
    to += stride
    y[to], y[to + 1], y[to + 2], y[to + 3] = tree_sum(a1), tree_sum(b1), tree_sum(c1), tree_sum(d1)
    to += stride
    y[to], y[to + 1], y[to + 2], y[to + 3] = tree_sum(a2), tree_sum(b2), tree_sum(c2), tree_sum(d2)
    to += stride
    y[to], y[to + 1], y[to + 2], y[to + 3] = tree_sum(a3), tree_sum(b3), tree_sum(c3), tree_sum(d3)


@inner
def _two_by_two(wide: Array, at: int, k: int, x: Array, start: int, y: Array, to: int, stride: int, edge: Any) -> None:
    """`_four_by_four` of two rows each: for processors with fewer registers."""
    z = zeros(x, REGISTERS)
    a0, a1, b0, b1 = z, z, z, z
    for j in range(0, k, LANES):
        mask = first_lanes(edge, k - j, z)
        one, two = load(x, start + j, mask, REGISTERS), load(x, start + k + j, mask, REGISTERS)
        w = load(wide, at + j, mask, REGISTERS)
        a0, a1 = fused(w, one, a0), fused(w, two, a1)
        w = load(wide, at + k + j, mask, REGISTERS)
        b0, b1 = fused(w, one, b0), fused(w, two, b1)
    y[to], y[to + 1] = tree_sum(a0), tree_sum(b0)
    y[to + stride], y[to + stride + 1] = tree_sum(a1), tree_sum(b1)


@inner
def _single(matrix: Any, i: int, k: int, x: Array, row: int, edge: Any) -> Any:
    total = zeros(x, REGISTERS)
    for at in range(0, k, PAIR):
        total = _chain(load_pair(matrix, i, k, at, edge), _numbers_at(x, row * k, k, at, edge), total)
    return tree_sum(total)


def widened(matrix: Any, i: int, k: int, edge: Any, room: Array) -> Any:
    """Rows i to i + 3 of a matrix in float32: an array and the number of the first of them in it.

    `room` [4, K] is where they are written, unless they are float32 already.
    """


@overload(widened, strict=False, jit_options={"forceinline": True, "fastmath": {"contract"}})
def _widened(matrix: Any, i: Any, k: Any, edge: Any, room: Any) -> Any:
    return _as_they_are if matrix[0].dtype == types.float32 else _in_room


def _as_they_are(matrix, i, k, edge, room):
    return matrix.codes, i


def _in_room(matrix, i, k, edge, room):
    nothing = zeros(room, REGISTERS)
    for j in range(4):
        for at in range(0, k, PAIR):
            one, two = load_pair(matrix, i + j, k, at, edge)
            store(room, j * k + at, first_lanes(edge, k - at, nothing), one)
            store(room, j * k + at + LANES, first_lanes(edge, k - at - LANES, nothing), two)
    return room, 0


@outlined
def project(
    line: Array, product: int, like: Array, bits: Array, first: int, last: int, k: int, size: int, x: Array, rows: int,
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
        x: float32 [R, K].
        rows: R.
        y: float32 [R, M].
        edge: None where k is a multiple of two vectors.
    """
    called()
    matrix = matrix_at(line, product, size * k, like, bits)
    bias, scale = line[product + BIAS], line[product + ROW_SCALES]
    biases, scales = array_at(bias, size, x), array_at(scale, size, bits)
    room = np.empty(4 * k if rows >= MANY else 0, np.float32)
    i = first
    while i + 4 <= last:
        row = 0
        if rows >= MANY:
            wide, at = widened(matrix, i, k, edge, room)
            row = _tiles(wide, at, k, x, rows, y, i, size, edge)
        while row < rows:
            _one_row(matrix, i, k, x, row, y, row * size + i, edge)
            row += 1
        i += 4
    while i < last:
        for row in range(rows):
            y[row * size + i] = _single(matrix, i, k, x, row, edge)
        i += 1
    if scale != 0:
        for row in range(rows):
            for j in range(first, last):
                y[row * size + j] *= number_at(scales, j)
    if bias != 0:
        for row in range(rows):
            for j in range(first, last):
                y[row * size + j] += biases[j]


@inner
def number_at(bits: Array, at: int) -> Any:
    """A bfloat16 of an array of their bits, as a float32."""
    return np.uint32(np.uint32(bits[at]) << np.uint32(16)).view(np.float32)


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
        square = _chain((one, two), (one, two), square)
        store(x, at + channel, first_lanes(edge, k - channel, square), one)
        store(x, at + channel + LANES, first_lanes(edge, k - channel - LANES, square), two)
    return square
