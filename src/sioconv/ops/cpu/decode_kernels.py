"""The kernel of decoding on CPUs: the whole model reads N tokens in one call.

A row is one token of one sequence. Rows of the same sequence stand in the order of its text and share one state, so
reading a prompt and writing on with many sequences are the same call. Weights are read once for all rows, states are
advanced in place. One thread computes each number, in one fixed order: a token's logits depend neither on the rows
beside it, nor on how its text was cut into calls, nor on the number of threads.

Tensors arrive as addresses, because a compiled function takes no list of arrays of many sizes: `weights` [L + 1, W]
holds the columns below for each layer and, in the last line, for what stands outside the layers; `states` [N] the
memory [L, S, H, P] of each row's sequence: c, and with a mixture with the last z (S = 2) that z. Matrices have the
dtype of `matrix` (float32, or bfloat16 as its bits), everything else is float32. `edge` as in `vectors`:
None where every size is a multiple of a vector.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba.np.numpy_support import carray

from sioconv.ops.cpu.jit import inner, kernel, outlined
from sioconv.ops.cpu.scan_kernels import Array
from sioconv.ops.cpu.vectors import address_to_pointer, called, first_lanes, fused, load, store, tree_sum, zeros

PIECES = (0,)  # vectors of 64 bytes: 16 channels
LANES = 16
# Columns of `weights`: those of a layer, then those of the last line.
(
    MIXER_NORM, Z, Z_BIAS, Z_GATE, Z_GATE_BIAS, Y, Y_BIAS, Y_GATE, Y_GATE_BIAS, DT, DT_BIAS, RATE, HEAD_NORM,
    HEAD_NORM_BIAS, FFN_NORM, UP, UP_BIAS, GATE, GATE_BIAS, DOWN, DOWN_BIAS, MIX, MIX_BIAS,
) = range(23)  # fmt: skip
EMBEDDING, NORM, HEAD, HEAD_BIAS = range(4)
COLUMNS = 23
# The phases of a layer, and the head. Numbers of numpy: Python's would compile the kernel once for each.
MIXING, MIXED, WIDENING, NARROWING, LOGITS = map(np.int64, range(5))
OUTPUTS = 16  # channels of a task
HEAD_OUTPUTS = 64


class Shape(NamedTuple):
    """Sizes and options of the model, and the number of rows; it comes as two arrays, `sizes` and `numbers`."""

    rows: int  # N
    layers: int  # L
    width: int  # D
    heads: int  # H
    inner: int  # F, the feed-forward's width
    vocabulary: int  # V
    parts: int  # S: 2 with a mixture with the last z, else 1
    gates: int  # G: H, or D for a gate per channel
    input_scale: int  # 0 none, 1 variance, 2 mean
    output_gate: int  # 0 projected, 1 normed, 2 state
    gate_bound: float  # 0 for none
    head_eps: float
    norm_eps: float
    embedding_limit: float  # 0 for none


class Workspace(NamedTuple):
    """Parts of the memory that a step works in, all float32 and flat."""

    x: Array  # [N, D] the residual stream
    normed: Array  # [N, D]
    z: Array  # [N, D]
    z_gate: Array  # [N, D]
    y_gate: Array  # [N, D]
    dt: Array  # [N, G]
    mix: Array  # [N, H]
    mixed: Array  # [N, D] norm(c)
    up: Array  # [N, F]
    gate: Array  # [N, F]


@inner
def _shape_of(s: Array, f: Array) -> Shape:
    return Shape(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], f[0], f[1], f[2], f[3])


@inner
def _cut(memory: Array, shape: Shape) -> Workspace:
    """The workspace in `memory` [N (6 D + G + H + 2 F)]."""
    n = shape.rows
    d, g, h, f = n * shape.width, n * shape.gates, n * shape.heads, n * shape.inner
    e = 6 * d + g + h
    return Workspace(
        memory[:d], memory[d : 2 * d], memory[2 * d : 3 * d], memory[3 * d : 4 * d], memory[4 * d : 5 * d],
        memory[6 * d : 6 * d + g], memory[6 * d + g : e], memory[5 * d : 6 * d], memory[e : e + f],
        memory[e + f : e + 2 * f],
    )  # fmt: skip


@inner
def _at(address: int, size: int, like: Array) -> Array:
    return carray(address_to_pointer(address, like), (size,))


@inner
def _dots(matrix: Array, i: int, k: int, x: Array, row: int, edge: Any) -> Any:
    """Rows i to i + 3 of a matrix [M, K] times x[row] [K]: four sums, each over lanes of one vector."""
    base, start = i * k, row * k
    nothing = zeros(x, PIECES)
    a, b, c, d = nothing, nothing, nothing, nothing
    for at in range(0, k, LANES):
        mask = first_lanes(edge, k - at, nothing)
        value = load(x, start + at, mask, PIECES)
        a = fused(load(matrix, base + at, mask, PIECES), value, a)
        b = fused(load(matrix, base + k + at, mask, PIECES), value, b)
        c = fused(load(matrix, base + 2 * k + at, mask, PIECES), value, c)
        d = fused(load(matrix, base + 3 * k + at, mask, PIECES), value, d)
    return tree_sum(a), tree_sum(b), tree_sum(c), tree_sum(d)


@inner
def _dots_of_two(matrix: Array, i: int, k: int, x: Array, row: int, edge: Any) -> Any:
    """Rows i and i + 1 of a matrix [M, K] times x[row] and x[row + 1], in the order of `_dots`."""
    base, start = i * k, row * k
    nothing = zeros(x, PIECES)
    a, b, c, d = nothing, nothing, nothing, nothing
    for at in range(0, k, LANES):
        mask = first_lanes(edge, k - at, nothing)
        one, two = load(x, start + at, mask, PIECES), load(x, start + k + at, mask, PIECES)
        weight, other = load(matrix, base + at, mask, PIECES), load(matrix, base + k + at, mask, PIECES)
        a = fused(weight, one, a)
        b = fused(other, one, b)
        c = fused(weight, two, c)
        d = fused(other, two, d)
    return tree_sum(a), tree_sum(b), tree_sum(c), tree_sum(d)


@inner
def _dot(matrix: Array, i: int, k: int, x: Array, row: int, edge: Any) -> Any:
    base, start, a = i * k, row * k, zeros(x, PIECES)
    for at in range(0, k, LANES):
        mask = first_lanes(edge, k - at, a)
        a = fused(load(matrix, base + at, mask, PIECES), load(x, start + at, mask, PIECES), a)
    return tree_sum(a)


@outlined
def _project(
    matrix: Array, bias: int, first: int, last: int, k: int, x: Array, rows: int, y: Array, stride: int, edge: Any
) -> None:
    """y[r, i] = matrix[i] . x[r] + bias[i] for first <= i < last and all rows; bias is an address, 0 for none."""
    called()
    biases = _at(bias, last, x)
    i = first
    while i + 4 <= last:
        row = 0
        while row + 2 <= rows:
            for j in (0, 2):
                s = _dots_of_two(matrix, i + j, k, x, row, edge)
                y[row * stride + i + j], y[row * stride + i + j + 1] = s[0], s[1]
                y[(row + 1) * stride + i + j], y[(row + 1) * stride + i + j + 1] = s[2], s[3]
            row += 2
        if row < rows:
            s = _dots(matrix, i, k, x, row, edge)
            y[row * stride + i], y[row * stride + i + 1] = s[0], s[1]
            y[row * stride + i + 2], y[row * stride + i + 3] = s[2], s[3]
        i += 4
    while i < last:
        for row in range(rows):
            y[row * stride + i] = _dot(matrix, i, k, x, row, edge)
        i += 1
    if bias != 0:
        for row in range(rows):
            for j in range(first, last):
                y[row * stride + j] += biases[j]


@inner
def _normalise(x: Array, weight: Array, shape: Shape, normed: Array, edge: Any) -> None:
    """RMSNorm of every row: normed[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight."""
    width = shape.width
    for row in range(shape.rows):
        start, square = row * width, zeros(x, PIECES)
        for at in range(0, width, LANES):
            value = load(x, start + at, first_lanes(edge, width - at, square), PIECES)
            square = fused(value, value, square)
        scale = np.float32(1) / np.sqrt(tree_sum(square) / np.float32(width) + np.float32(shape.norm_eps))
        for at in range(0, width, LANES):
            mask = first_lanes(edge, width - at, square)
            value = load(x, start + at, mask, PIECES) * scale * load(weight, at, mask, PIECES)
            store(normed, start + at, mask, value)


@inner
def _silu_into(x: Array, gate: Array, first: int, last: int) -> None:
    """x <- x * SiLU(gate)."""
    for i in range(first, last):
        x[i] *= gate[i] * _sigmoid(gate[i])


@inner
def _sigmoid(x: Any) -> Any:
    small = np.exp(-abs(x))
    return (np.float32(1) if x >= 0 else small) / (np.float32(1) + small)


@inner
def _log_gate(dt: Any, rate: Any, bound: Any) -> Any:
    """log a of `SioConvLayer.gate_of`; rate is exp(A_log), or softplus(A_log) * bound of a bounded gate."""
    if bound == 0:
        return -rate * (max(dt, np.float32(0)) + np.log1p(np.exp(-abs(dt))))
    return -rate * _sigmoid(dt)


@inner
def _decay(log_a: float, input_scale: int) -> Any:
    """(kept, increment, scale): c <- kept c + (increment c + scale z), in the form of `sioconv.ops.gates.advance`."""
    scale = np.float32(1)
    if input_scale == 1:
        scale = np.sqrt(-np.expm1(np.float32(2) * log_a))
    elif input_scale == 2:
        scale = -np.expm1(log_a)
    if log_a > np.float32(-0.5):
        return np.float32(1), np.expm1(log_a), scale
    return np.float32(0), np.exp(log_a), scale


@outlined
def _head(row: int, head: int, line: Array, state: int, shape: Shape, work: Workspace) -> None:
    """Advances the state of one head of one row, normalises it and multiplies it by its gate where that belongs."""
    called()
    channels, one = shape.width // shape.heads, np.float32(1)
    first, bound = row * shape.width + head * channels, np.float32(shape.gate_bound)
    c, rates = _at(state, shape.width, work.x), _at(line[RATE], shape.gates, work.x)
    _silu_into(work.z, work.z_gate, first, first + channels)
    per_channel = shape.gates > shape.heads
    gate = head * channels if per_channel else head
    log_a = _log_gate(work.dt[row * shape.gates + gate], rates[gate], bound)
    kept, increment, scale = _decay(log_a, shape.input_scale)
    last_z = _at(state + 4 * shape.width, shape.width, work.x)
    share = _sigmoid(work.mix[row * shape.heads + head]) if shape.parts == 2 else one
    total = np.float32(0)
    for p in range(channels):
        channel = head * channels + p
        if per_channel:
            log_a = _log_gate(work.dt[row * shape.gates + channel], rates[channel], bound)
            kept, increment, scale = _decay(log_a, shape.input_scale)
        z = scale * work.z[first + p]
        if shape.parts == 2:
            now = z
            z = now * share + last_z[channel] * ((one - share) * np.exp(log_a))
            last_z[channel] = now
        c[channel] = (c[channel] if kept > 0 else np.float32(0)) + (increment * c[channel] + z)
        value = c[channel]
        if shape.output_gate != 0:
            work.mixed[first + p] = one
            _silu_into(work.mixed, work.y_gate, first + p, first + p + 1)
        if shape.output_gate == 2:
            value *= work.mixed[first + p]
        work.z[first + p] = value
        total += value
    mean, square = total / np.float32(channels), np.float32(0)
    for p in range(channels):
        square += (work.z[first + p] - mean) ** 2
    spread = one / np.sqrt(square / np.float32(channels) + np.float32(shape.head_eps))
    weight, bias = _at(line[HEAD_NORM], shape.heads, work.x)[head], _at(line[HEAD_NORM_BIAS], shape.heads, work.x)[head]
    for p in range(channels):
        value = (work.z[first + p] - mean) * spread * weight + bias
        work.mixed[first + p] = value * work.mixed[first + p] if shape.output_gate == 1 else value


@inner
def _mix_head(
    head: int, layer: int, line: Array, states: Array, shape: Shape, matrix: Array, work: Workspace, edge: Any
) -> None:
    """The task of one head: its channels of z, of its gate and of the output's, its forget gate, its state."""
    width, channels, rows = shape.width, shape.width // shape.heads, shape.rows
    first, last = head * channels, (head + 1) * channels
    for column, result in ((Z, work.z), (Z_GATE, work.z_gate), (Y_GATE, work.y_gate)):
        weights = _at(line[column], width * width, matrix)
        _project(weights, line[column + 1], first, last, width, work.normed, rows, result, width, edge)
    per_head = shape.gates // shape.heads
    weights = _at(line[DT], shape.gates * width, work.x)
    start, end = head * per_head, (head + 1) * per_head
    _project(weights, line[DT_BIAS], start, end, width, work.normed, rows, work.dt, shape.gates, edge)
    if shape.parts == 2:
        weights = _at(line[MIX], shape.heads * width, work.x)
        _project(weights, line[MIX_BIAS], head, head + 1, width, work.normed, rows, work.mix, shape.heads, edge)
    for row in range(rows):
        _head(row, head, line, states[row] + 4 * layer * shape.parts * width, shape, work)


@inner
def _write_mixed(task: int, line: Array, shape: Shape, matrix: Array, work: Workspace, edge: Any) -> None:
    """OUTPUTS channels of the mixer's output, added to the residual stream."""
    width, first = shape.width, task * OUTPUTS
    last = min(first + OUTPUTS, width)
    weights = _at(line[Y], width * width, matrix)
    _project(weights, line[Y_BIAS], first, last, width, work.mixed, shape.rows, work.z, width, edge)
    for row in range(shape.rows):
        if shape.output_gate == 0:
            _silu_into(work.z, work.y_gate, row * width + first, row * width + last)
        for i in range(row * width + first, row * width + last):
            work.x[i] += work.z[i]


@inner
def _widen(task: int, line: Array, shape: Shape, matrix: Array, work: Workspace, edge: Any) -> None:
    """OUTPUTS channels of the feed-forward's inside."""
    width, size, first = shape.width, shape.inner, task * OUTPUTS
    last = min(first + OUTPUTS, size)
    for column, result in ((UP, work.up), (GATE, work.gate)):
        weights = _at(line[column], size * width, matrix)
        _project(weights, line[column + 1], first, last, width, work.normed, shape.rows, result, size, edge)
    for row in range(shape.rows):
        _silu_into(work.up, work.gate, row * size + first, row * size + last)


@inner
def _narrow(task: int, line: Array, shape: Shape, matrix: Array, work: Workspace, edge: Any) -> None:
    """OUTPUTS channels of the feed-forward's output, added to the residual stream."""
    width, first = shape.width, task * OUTPUTS
    last = min(first + OUTPUTS, width)
    weights = _at(line[DOWN], width * shape.inner, matrix)
    _project(weights, line[DOWN_BIAS], first, last, shape.inner, work.up, shape.rows, work.z, width, edge)
    for row in range(shape.rows):
        for i in range(row * width + first, row * width + last):
            work.x[i] += work.z[i]


@inner
def _embed(ids: Array, line: Array, shape: Shape, matrix: Array, work: Workspace, edge: Any) -> None:
    """The rows of the embedding, scaled down to the limit where they are longer."""
    width = shape.width
    table = _at(line[EMBEDDING], shape.vocabulary * width, matrix)
    for row in range(shape.rows):
        square = zeros(work.x, PIECES)
        for at in range(0, width, LANES):
            mask = first_lanes(edge, width - at, square)
            value = load(table, ids[row] * width + at, mask, PIECES)
            square = fused(value, value, square)
            store(work.x, row * width + at, mask, value)
        if shape.embedding_limit > 0:
            scale = np.float32(shape.embedding_limit) / (np.sqrt(tree_sum(square)) + np.float32(1e-7))
            for i in range(row * width, (row + 1) * width):
                work.x[i] *= min(scale, np.float32(1))


@inner
def _write_logits(
    task: int, line: Array, shape: Shape, matrix: Array, work: Workspace, logits: Array, edge: Any
) -> None:
    """HEAD_OUTPUTS logits of every row that they are wanted of; those rows stand first in `work.normed`."""
    first, width, vocabulary = task * HEAD_OUTPUTS, shape.width, shape.vocabulary
    rows, last = logits.size // vocabulary, min(first + HEAD_OUTPUTS, vocabulary)
    weights = _at(line[HEAD], vocabulary * width, matrix)
    _project(weights, line[HEAD_BIAS], first, last, width, work.normed, rows, logits, vocabulary, edge)


@inner
def _gather(wanted: Array, width: int, x: Array) -> None:
    """Brings the rows `wanted`, which rise, to the front of x [N, D]."""
    for place in range(wanted.size):
        for i in range(width):
            x[place * width + i] = x[wanted[place] * width + i]


@outlined
def _task(
    phase: int, task: int, layer: int, weights: Array, states: Array, shape: Shape, work: Workspace, matrix: Array,
    logits: Array, edge: Any,
) -> None:  # fmt: skip
    line = weights[layer]
    if phase == MIXING:
        _mix_head(task, layer, line, states, shape, matrix, work, edge)
    elif phase == MIXED:
        _write_mixed(task, line, shape, matrix, work, edge)
    elif phase == WIDENING:
        _widen(task, line, shape, matrix, work, edge)
    elif phase == NARROWING:
        _narrow(task, line, shape, matrix, work, edge)
    else:
        _write_logits(task, line, shape, matrix, work, logits, edge)


def _entry(form: str) -> Any:
    """The kernel as Python calls it, in its form "parallel" or "serial".

    Fills logits [R, V] of the rows `wanted` [R], which rise, from ids [N], and advances the states.
    """

    @kernel(f"decode_kernels.run.{form}", parallel=form == "parallel")
    def run(phase, tasks, layer, weights, states, shape, work, matrix, logits, edge):
        for task in numba.prange(tasks):
            _task(phase, np.int64(task), layer, weights, states, shape, work, matrix, logits, edge)

    @kernel(f"decode_kernels.decode.{form}")
    def decode(ids, weights, states, wanted, sizes, numbers, memory, matrix, logits, edge):
        shape = _shape_of(sizes, numbers)
        work = _cut(memory, shape)
        last = weights[shape.layers]
        _embed(ids, last, shape, matrix, work, edge)
        narrow = (shape.width + OUTPUTS - 1) // OUTPUTS
        wide = (shape.inner + OUTPUTS - 1) // OUTPUTS
        for layer in range(shape.layers):
            line = weights[layer]
            _normalise(work.x, _at(line[MIXER_NORM], shape.width, work.x), shape, work.normed, edge)
            run(MIXING, shape.heads, layer, weights, states, shape, work, matrix, logits, edge)
            run(MIXED, narrow, layer, weights, states, shape, work, matrix, logits, edge)
            _normalise(work.x, _at(line[FFN_NORM], shape.width, work.x), shape, work.normed, edge)
            run(WIDENING, wide, layer, weights, states, shape, work, matrix, logits, edge)
            run(NARROWING, narrow, layer, weights, states, shape, work, matrix, logits, edge)
        _normalise(work.x, _at(last[NORM], shape.width, work.x), shape, work.normed, edge)
        _gather(wanted, shape.width, work.normed)
        tasks = (shape.vocabulary + HEAD_OUTPUTS - 1) // HEAD_OUTPUTS
        run(LOGITS, tasks, shape.layers, weights, states, shape, work, matrix, logits, edge)

    return decode


parallel, serial = _entry("parallel"), _entry("serial")
