"""The kernel of decoding on CPUs: the whole model reads N tokens in one call.

A row is one token of one sequence. Rows of the same sequence stand in the order of its text and share one state, so
reading a prompt and writing on with many sequences are the same call. Weights are read once for all rows, states are
advanced in place. One thread computes each number, in one fixed order: a token's logits depend neither on the rows
beside it, nor on how its text was cut into calls, nor on the number of threads.

Tensors arrive as addresses, because a compiled function takes no list of arrays of many sizes: `weights` [L + 1, W]
holds the columns below for each layer and, in the last line, for what stands outside the layers; `states` [N] the
memory [L, S, H, P] of each row's sequence: c; with a mixture with the last z that z; and with a convolution of z's gate
its last inputs, the oldest first. Matrices are kept in one of the ways of `decode_products`; those of the gates, and
everything else, are float32. `edge` as in `vectors`: None where the widths are multiples of two vectors.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from sioconv.ops.cpu.crew import finish_phase, take_task
from sioconv.ops.cpu.decode_products import COLUMNS_OF_PRODUCT, LANES, REGISTERS, project, read_row
from sioconv.ops.cpu.decode_products import array_at as _at
from sioconv.ops.cpu.elementwise.silu_gate_kernels import sigmoids
from sioconv.ops.cpu.integers.inputs import Inputs, floats_for, is_prepared, padded, prepare
from sioconv.ops.cpu.jit import inner, kernel, outlined
from sioconv.ops.cpu.structures import Array
from sioconv.ops.cpu.vectors import called, first_lanes, fused, load, store, tree_sum, zeros

# Columns of `weights`: those of a layer, vectors and the first columns of products, then those of the last line.
MIXER_NORM, RATE, HEAD_NORM, HEAD_NORM_BIAS, FFN_NORM, TAPS = range(6)
Z, Z_GATE, Y, Y_GATE, DT, MIX, UP, GATE, DOWN = range(6, 6 + 9 * COLUMNS_OF_PRODUCT, COLUMNS_OF_PRODUCT)
NORM, EMBEDDING_ROWS, HEAD, BIGRAMS, BIGRAMS_OUT = 0, *range(1, 1 + 4 * COLUMNS_OF_PRODUCT, COLUMNS_OF_PRODUCT)
COLUMNS = DOWN + COLUMNS_OF_PRODUCT
# What a phase does. Numbers of numpy: Python's would compile the kernel once for each.
EMBEDDING, PAIRING, TO_MIX, MIXING, TO_WRITE, WRITING, TO_WIDEN, WIDENING, TO_NARROW, NARROWING, TO_END, LOGITS = map(
    np.int64, range(12)
)
PHASES_OF_LAYER, OTHER_PHASES = 8, 4
OUTPUTS = 16  # channels of a task, at least
MOST_OUTPUTS = 128


class Shape(NamedTuple):
    """Sizes and options of the model, and the number of rows; it comes as two arrays, `sizes` and `numbers`."""

    rows: int  # N
    layers: int  # L
    width: int  # D
    heads: int  # H
    inner: int  # F, the feed-forward's width
    vocabulary: int  # V
    outputs: int  # channels of a task
    mixes: int  # 1 with a mixture with the last z, else 0
    past: int  # steps before a step that z's gate reads
    gates: int  # G: H, or D for a gate per channel
    bigram_width: int  # K, 0 without bigrams
    bigram_rows: int  # of their table
    input_scale: int  # 0 none, 1 variance, 2 mean
    output_gate: int  # 0 projected, 1 normed, 2 state
    gate_bound: float  # 0 for none
    head_eps: float
    norm_eps: float
    embedding_limit: float  # 0 for none


class Workspace(NamedTuple):
    """Parts of the memory that a step works in, flat, float32 but for two."""

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
    bigrams: Array  # [N, K] the rows of their table
    codes: Array  # int16, as the next two what `prepare` fills
    sums: Array  # int32
    scales: Array  # [N]


class Kinds(NamedTuple):
    """Arrays that say by their dtypes how matrices are kept; what they hold is of no meaning."""

    matrix: Array
    bits: Array  # scales: bfloat16 as its bits


class Job(NamedTuple):
    """What a call of the kernel is for; see `_entry`."""

    ids: Array
    before: Array
    weights: Array
    states: Array
    wanted: Array
    logits: Array


@inner
def _shape_of(s: Array, f: Array) -> Shape:
    return Shape(
        s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12], s[13], f[0], f[1], f[2], f[3]
    )


def floats_of_row(shape: Shape) -> int:
    """Numbers of the workspace for each row."""
    room = floats_for(max(shape.width, shape.inner, shape.bigram_width))
    return room + 6 * shape.width + shape.gates + shape.heads + 2 * shape.inner + shape.bigram_width


@inner
def _read_by(values: Array, work: Workspace) -> Inputs:
    """Rows of the workspace as products read them."""
    return Inputs(values, work.codes, work.sums, work.scales)


@inner
def _cut(memory: Array, shape: Shape) -> Workspace:
    """The workspace in `memory` [N `floats_of_row`]."""
    n, widest = shape.rows, max(shape.width, shape.inner, shape.bigram_width)
    room = n * padded(widest) // 8
    codes, sums = memory[: 4 * room].view(np.int16), memory[4 * room : 5 * room].view(np.int32)
    scales, memory = memory[5 * room : 5 * room + n], memory[5 * room + 16 * n :]
    d, g, h, f = n * shape.width, n * shape.gates, n * shape.heads, n * shape.inner
    e = 6 * d + g + h
    return Workspace(
        memory[:d], memory[d : 2 * d], memory[2 * d : 3 * d], memory[3 * d : 4 * d], memory[4 * d : 5 * d],
        memory[6 * d : 6 * d + g], memory[6 * d + g : e], memory[5 * d : 6 * d], memory[e : e + f],
        memory[e + f : e + 2 * f], memory[e + 2 * f : e + 2 * f + n * shape.bigram_width], codes, sums, scales,
    )  # fmt: skip


@inner
def _normalise(row: int, norm: int, shape: Shape, kinds: Any, work: Workspace, to: int, edge: Any) -> None:
    """RMSNorm of a row of x, x / sqrt(mean(x^2) + eps) * weight, to row `to` of `work.normed`, ready for products.

    `norm` is the address of the weight.
    """
    width, start, x = shape.width, to * shape.width, work.x
    weight, square = _at(norm, width, x), zeros(x, REGISTERS)
    for at in range(0, width, LANES):
        value = load(x, row * width + at, first_lanes(edge, width - at, square), REGISTERS)
        square = fused(value, value, square)
    scale = np.float32(1) / np.sqrt(tree_sum(square) / np.float32(width) + np.float32(shape.norm_eps))
    for at in range(0, width, LANES):
        mask = first_lanes(edge, width - at, square)
        value = load(x, row * width + at, mask, REGISTERS) * scale * load(weight, at, mask, REGISTERS)
        store(work.normed, start + at, mask, value)
    prepare(kinds.matrix, _read_by(work.normed, work), to, width)


@inner
def _silu_into(x: Array, gate: Array, first: int, last: int) -> None:
    """x <- x * SiLU(gate)."""
    nothing = zeros(x, REGISTERS)
    for at in range(first, last, LANES):
        mask = first_lanes(True, last - at, nothing)
        value, branch = load(x, at, mask, REGISTERS), load(gate, at, mask, REGISTERS)
        store(x, at, mask, value * (branch * sigmoids(branch)))


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


@inner
def _convolve_gate(row: int, head: int, line: Array, tail: int, shape: Shape, work: Workspace) -> None:
    """What z's gate of one head is made of, as `sioconv.model.convolution.convolve` does it; moves the tail on.

    `tail` is the address of the inputs before, [past, D], the oldest first.
    """
    width, past, channels = shape.width, shape.past, shape.width // shape.heads
    weights, before = _at(line[TAPS], width * (past + 1), work.x), _at(tail, width * past, work.x)
    for channel in range(head * channels, (head + 1) * channels):
        now = work.z_gate[row * width + channel]
        total = now * weights[channel * (past + 1)]
        for k in range(1, past + 1):
            total += before[(past - k) * width + channel] * weights[channel * (past + 1) + k]
        for k in range(past - 1):
            before[k * width + channel] = before[(k + 1) * width + channel]
        before[(past - 1) * width + channel] = now
        work.z_gate[row * width + channel] = total


@outlined
def _head(row: int, head: int, line: Array, state: int, shape: Shape, work: Workspace) -> None:
    """Advances the state of one head of one row, normalises it and multiplies it by its gate where that belongs."""
    called()
    channels, one = shape.width // shape.heads, np.float32(1)
    first, bound = row * shape.width + head * channels, np.float32(shape.gate_bound)
    c, rates = _at(state, shape.width, work.x), _at(line[RATE], shape.gates, work.x)
    if shape.past > 0:
        _convolve_gate(row, head, line, state + 4 * (1 + shape.mixes) * shape.width, shape, work)
    _silu_into(work.z, work.z_gate, first, first + channels)
    per_channel = shape.gates > shape.heads
    gate = head * channels if per_channel else head
    log_a = _log_gate(work.dt[row * shape.gates + gate], rates[gate], bound)
    kept, increment, scale = _decay(log_a, shape.input_scale)
    last_z = _at(state + 4 * shape.width, shape.width, work.x)
    share = _sigmoid(work.mix[row * shape.heads + head]) if shape.mixes == 1 else one
    if shape.output_gate != 0:
        for p in range(channels):
            work.mixed[first + p] = one
        _silu_into(work.mixed, work.y_gate, first, first + channels)
    total = np.float32(0)
    for p in range(channels):
        channel = head * channels + p
        if per_channel:
            log_a = _log_gate(work.dt[row * shape.gates + channel], rates[channel], bound)
            kept, increment, scale = _decay(log_a, shape.input_scale)
        z = scale * work.z[first + p]
        if shape.mixes == 1:
            now = z
            z = now * share + last_z[channel] * ((one - share) * np.exp(log_a))
            last_z[channel] = now
        c[channel] = (c[channel] if kept > 0 else np.float32(0)) + (increment * c[channel] + z)
        value = c[channel]
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
def _mix_head(head: int, layer: int, line: Array, states: Array, shape: Shape, kinds: Any, work: Workspace,
              edge: Any) -> None:  # fmt: skip
    """The task of one head: its channels of z, of its gate and of the output's, its forget gate, its state."""
    width, channels, rows, bits = shape.width, shape.width // shape.heads, shape.rows, kinds.bits
    first, last = head * channels, (head + 1) * channels
    x = _read_by(work.normed, work)
    for product, result in ((Z, work.z), (Z_GATE, work.z_gate), (Y_GATE, work.y_gate)):
        project(line, product, kinds.matrix, bits, first, last, width, width, x, rows, result, edge)
    gates = shape.gates // shape.heads
    start, end = head * gates, (head + 1) * gates
    project(line, DT, work.x, bits, start, end, width, shape.gates, x, rows, work.dt, edge)
    if shape.mixes == 1:
        project(line, MIX, work.x, bits, head, head + 1, width, shape.heads, x, rows, work.mix, edge)
    parts = 1 + shape.mixes + shape.past
    for row in range(rows):
        _head(row, head, line, states[row] + 4 * layer * parts * width, shape, work)


@inner
def _write_mixed(task: int, line: Array, shape: Shape, kinds: Any, work: Workspace, edge: Any) -> None:
    """Some channels of the mixer's output, added to the residual stream."""
    width, first = shape.width, task * shape.outputs
    last, x = min(first + shape.outputs, width), _read_by(work.mixed, work)
    project(line, Y, kinds.matrix, kinds.bits, first, last, width, width, x, shape.rows, work.z, edge)
    for row in range(shape.rows):
        if shape.output_gate == 0:
            _silu_into(work.z, work.y_gate, row * width + first, row * width + last)
        for i in range(row * width + first, row * width + last):
            work.x[i] += work.z[i]


@inner
def _widen(task: int, line: Array, shape: Shape, kinds: Any, work: Workspace, edge: Any) -> None:
    """Some channels of the feed-forward's inside."""
    width, size, first = shape.width, shape.inner, task * shape.outputs
    last, x = min(first + shape.outputs, size), _read_by(work.normed, work)
    for product, result in ((UP, work.up), (GATE, work.gate)):
        project(line, product, kinds.matrix, kinds.bits, first, last, width, size, x, shape.rows, result, edge)
    for row in range(shape.rows):
        _silu_into(work.up, work.gate, row * size + first, row * size + last)


@inner
def _add(
    task: int, line: Array, product: int, source: Array, inside: int, shape: Shape, kinds: Any, work: Workspace,
    edge: Any,
) -> None:  # fmt: skip
    """Some channels of a product of `source` [N, inside], added to the residual stream."""
    width, first = shape.width, task * shape.outputs
    last, x = min(first + shape.outputs, width), _read_by(source, work)
    project(line, product, kinds.matrix, kinds.bits, first, last, inside, width, x, shape.rows, work.z, edge)
    for row in range(shape.rows):
        for i in range(row * width + first, row * width + last):
            work.x[i] += work.z[i]


@inner
def _embed(row: int, job: Any, line: Array, shape: Shape, kinds: Any, work: Workspace, edge: Any) -> None:
    """A row of the embedding, scaled down to the limit where it is longer, and one of the bigrams."""
    width, size = shape.width, shape.vocabulary
    i, at = job.ids[row], row * width
    square = read_row(line, EMBEDDING_ROWS, kinds.matrix, kinds.bits, i, width, size, work.x, at, edge)
    if shape.embedding_limit > 0:
        scale = np.float32(shape.embedding_limit) / (np.sqrt(tree_sum(square)) + np.float32(1e-7))
        for channel in range(at, at + width):
            work.x[channel] *= min(scale, np.float32(1))
    if shape.bigram_width > 0:
        _read_bigram(row, job, line, shape, kinds, work, edge)


@inner
def _read_bigram(row: int, job: Any, line: Array, shape: Shape, kinds: Any, work: Workspace, edge: Any) -> None:
    """The row of the table that `sioconv.model.convolution.Bigrams` has for a token and the one before it."""
    width, rows = shape.bigram_width, shape.bigram_rows
    i = (job.ids[row] * 36313 + (job.before[row] + 1) * 27191) % rows  # a beginning's -1 gives 0
    read_row(line, BIGRAMS, kinds.matrix, kinds.bits, i, width, rows, work.bigrams, row * width, edge)
    prepare(kinds.matrix, _read_by(work.bigrams, work), row, width)


@inner
def _write_logits(task: int, line: Array, shape: Shape, kinds: Any, work: Workspace, logits: Array, edge: Any) -> None:
    """Some logits of every row that they are wanted of; those rows stand first in `work.normed`."""
    first, size, x = task * shape.outputs, shape.vocabulary, _read_by(work.normed, work)
    rows, last = logits.size // size, min(first + shape.outputs, size)
    project(line, HEAD, kinds.matrix, kinds.bits, first, last, shape.width, size, x, rows, logits, edge)


@outlined
def _task(phase: int, task: int, layer: int, job: Any, shape: Shape, kinds: Any, work: Workspace, edge: Any) -> None:
    """One task of a phase; of those that make rows ready for products each is a row."""
    called()
    line = job.weights[layer]
    if phase == EMBEDDING:
        _embed(task, job, line, shape, kinds, work, edge)
    elif phase == PAIRING:
        _add(task, line, BIGRAMS_OUT, work.bigrams, shape.bigram_width, shape, kinds, work, edge)
    elif phase == TO_MIX:
        _normalise(task, line[MIXER_NORM], shape, kinds, work, task, edge)
    elif phase == MIXING:
        _mix_head(task, layer, line, job.states, shape, kinds, work, edge)
    elif phase == TO_WRITE:
        prepare(kinds.matrix, _read_by(work.mixed, work), task, shape.width)
    elif phase == WRITING:
        _write_mixed(task, line, shape, kinds, work, edge)
    elif phase == TO_WIDEN:
        _normalise(task, line[FFN_NORM], shape, kinds, work, task, edge)
    elif phase == WIDENING:
        _widen(task, line, shape, kinds, work, edge)
    elif phase == TO_NARROW:
        prepare(kinds.matrix, _read_by(work.up, work), task, shape.inner)
    elif phase == NARROWING:
        _add(task, line, DOWN, work.up, shape.inner, shape, kinds, work, edge)
    elif phase == TO_END:
        _normalise(job.wanted[task], line[NORM], shape, kinds, work, task, edge)
    else:
        _write_logits(task, line, shape, kinds, work, job.logits, edge)


@outlined
def _share(
    at: int, member: int, board: Array, phase: int, tasks: int, layer: int, job: Any, shape: Shape, kinds: Any,
    work: Workspace, edge: Any,
) -> int:  # fmt: skip
    """A member's share of a phase, the `at`-th of all; what comes next, when the whole phase is done."""
    called()
    done, task = 0, take_task(board, at, member, tasks)
    while task >= 0:
        _task(phase, task, layer, job, shape, kinds, work, edge)
        done, task = done + 1, take_task(board, at, member, tasks)
    finish_phase(board, at, done, tasks)
    return at + 1


@outlined
def _walk(member: int, board: Array, job: Any, shape: Shape, kinds: Any, work: Workspace, edge: Any) -> None:
    """One member's way through all phases."""
    called()
    rows, last, at = shape.rows, shape.layers, np.int64(0)
    narrow = (shape.width + shape.outputs - 1) // shape.outputs
    wide = (shape.inner + shape.outputs - 1) // shape.outputs
    tasks = (shape.vocabulary + shape.outputs - 1) // shape.outputs
    prepared = rows if is_prepared(kinds.matrix) else 0
    at = _share(at, member, board, EMBEDDING, rows, last, job, shape, kinds, work, edge)
    if shape.bigram_width > 0:
        at = _share(at, member, board, PAIRING, narrow, last, job, shape, kinds, work, edge)
    for layer in range(shape.layers):
        at = _share(at, member, board, TO_MIX, rows, layer, job, shape, kinds, work, edge)
        at = _share(at, member, board, MIXING, shape.heads, layer, job, shape, kinds, work, edge)
        at = _share(at, member, board, TO_WRITE, prepared, layer, job, shape, kinds, work, edge)
        at = _share(at, member, board, WRITING, narrow, layer, job, shape, kinds, work, edge)
        at = _share(at, member, board, TO_WIDEN, rows, layer, job, shape, kinds, work, edge)
        at = _share(at, member, board, WIDENING, wide, layer, job, shape, kinds, work, edge)
        at = _share(at, member, board, TO_NARROW, prepared, layer, job, shape, kinds, work, edge)
        at = _share(at, member, board, NARROWING, narrow, layer, job, shape, kinds, work, edge)
    at = _share(at, member, board, TO_END, job.wanted.size, last, job, shape, kinds, work, edge)
    _share(at, member, board, LOGITS, tasks, last, job, shape, kinds, work, edge)


def _entry(form: str) -> Any:
    """The kernel as Python calls it, in its form "parallel" or "serial".

    Fills logits [R, V] of the rows `wanted` [R], which rise, from ids [N] and the ids `before` them [N], -1 where a
    text begins, and advances the states. `board` is as in `crew`, for as many phases as `phases_of` says. `matrix` has
    the dtype of the matrices.
    """

    @kernel(f"decode_kernels.decode.{form}", parallel=form == "parallel")
    def decode(ids, before, weights, states, wanted, sizes, numbers, memory, board, matrix, logits, edge):
        for member in numba.prange(board.shape[1] - 1):
            shape = _shape_of(sizes, numbers)
            job = Job(ids, before, weights, states, wanted, logits)
            kinds = Kinds(matrix, memory[:1].view(np.uint16))
            _walk(np.int64(member), board, job, shape, kinds, _cut(memory, shape), edge)

    return decode


def phases_of(layers: int) -> int:
    """Phases of a call for a model of so many layers."""
    return OTHER_PHASES + PHASES_OF_LAYER * layers


parallel, serial = _entry("parallel"), _entry("serial")
