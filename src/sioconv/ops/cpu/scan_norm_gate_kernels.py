"""The kernels of `scan_norm_gate` on the `cpu` backend: the scan's, and every row normalised as soon as it is there.

See `scan_kernels` for how arrays lie, and for what a task, a strip and a block are. A task here has whole heads, as
a head is normalised over all its channels.
"""

from typing import Any

import numba
import numpy as np

from sioconv.ops.cpu.jit import inner, kernel
from sioconv.ops.cpu.scan_kernels import (
    BLOCK,
    backward_strip,
    begin_gradients,
    fill_table,
    forward_strip,
    new_carried,
    new_table,
    place_of,
    put,
    read_strips,
    saved_row,
    strips_of,
    width_of,
    write_strips,
)
from sioconv.ops.cpu.structures import (
    Array,
    Block,
    Cut,
    Gradients,
    Line,
    Norm,
    NormGradients,
    Rows,
    Share,
)
from sioconv.ops.cpu.vectors import finish_streams, first_lanes, lane_sum, load, select, splat, store, zeros


@inner
def _moments(c: Array, at: int, cut: Cut, eps: float) -> Any:
    """Mean of the row of channels at `at` and 1 / sqrt(variance + eps); c is 0 beyond the last channel."""
    number, width = c.dtype.type, width_of(c, cut.registers)
    total = zeros(c, cut.registers)
    for first in range(0, cut.channels, width):
        total = total + load(c, at + first, None, cut.registers)
    mean = lane_sum(total) / number(cut.channels)
    square = zeros(c, cut.registers)
    for first in range(0, cut.channels, width):
        mask = first_lanes(cut.edge, cut.channels - first, square)
        off = select(mask, load(c, at + first, None, cut.registers) - mean, splat(0.0, square))
        square = square + off * off
    return mean, number(1) / np.sqrt(lane_sum(square) / number(cut.channels) + number(eps))


@inner
def _normalise(c: Array, c_at: int, cut: Cut, norm: Norm, head: int, y: Array, at: int, streams: bool) -> None:
    """y <- ((c - mean) * scale * weight + bias) * gate over a head's row."""
    mean, scale = _moments(c, c_at, cut, norm.eps)
    scale *= norm.weight[head]
    for first in range(0, cut.channels, width_of(c, cut.registers)):
        mask = first_lanes(cut.edge, cut.channels - first, zeros(c, cut.registers))
        value = (load(c, c_at + first, None, cut.registers) - mean) * scale + norm.bias[head]
        if norm.gate.size != 0:
            value = value * load(norm.gate, at + first, mask, cut.registers)
        put(y, at + first, mask, value, streams)


@inner
def _normalise_back(
    c: Array,
    c_at: int,
    cut: Cut,
    norm: Norm,
    head: int,
    grad_y: Array,
    grad_gate: Array,
    at: int,
    normed: Array,
    grad_row: Array,
    row_at: int,
) -> Any:
    """grad_row <- the gradient of c, and the gate's to grad_gate; returns weight's and bias's. `normed` is scratch.

    With x = (c - mean) * scale and g the gradient of x: dc = scale * (g - mean(g) - x * mean(g * x)) (Ba, Kiros &
    Hinton 2016, arXiv:1607.06450).
    """
    number, registers, width = c.dtype.type, cut.registers, width_of(c, cut.registers)
    weight, bias = norm.weight[head], norm.bias[head]
    mean, scale = _moments(c, c_at, cut, norm.eps)
    along, total = zeros(c, registers), zeros(c, registers)
    for first in range(0, cut.channels, width):
        mask = first_lanes(cut.edge, cut.channels - first, along)
        x = select(mask, (load(c, c_at + first, None, registers) - mean) * scale, splat(0.0, along))
        up = load(grad_y, at + first, mask, registers)
        if norm.gate.size != 0:
            store(grad_gate, at + first, mask, up * (x * weight + bias))
            up = up * load(norm.gate, at + first, mask, registers)
        along, total = along + up * x, total + up
        store(normed, first, None, x)
        store(grad_row, row_at + first, None, up)
    along_sum, total_sum = lane_sum(along), lane_sum(total)
    mean_along, mean_total = along_sum / number(cut.channels), total_sum / number(cut.channels)
    scale *= weight
    for first in range(0, cut.channels, width):
        up, x = load(grad_row, row_at + first, None, registers), load(normed, first, None, registers)
        store(grad_row, row_at + first, None, (up - mean_total - x * mean_along) * scale)
    return along_sum, total_sum


@inner
def _heads_of(task: int, cut: Cut) -> tuple[int, int]:
    """The first and the last + 1 head of a task."""
    group = task % cut.groups
    return cut.heads * group // cut.groups, cut.heads * (group + 1) // cut.groups


@inner
def _share_of(task: int, line: Line, cut: Cut, strips: int) -> Share:
    """The strips of a task: all of its heads, `strips` each."""
    n = task // cut.groups
    first_head, last_head = _heads_of(task, cut)
    return Share(n, line.bounds[n], line.bounds[n + 1], first_head * strips, last_head * strips)


@inner
def _forward_task(
    task: int, cut: Cut, z: Array, line: Line, norm: Norm, y: Array, final_state: Array, saved: Array, streams: bool
) -> None:
    row, registers = cut.heads * cut.channels, cut.registers
    like, width = zeros(final_state, registers), width_of(final_state, registers)
    strips = strips_of(cut, width)
    share, padded = _share_of(task, line, cut, strips), strips * width
    first_head, last_head = _heads_of(task, cut)
    carried = new_carried(share.last - share.first, final_state, width)
    c, table = np.zeros(BLOCK * padded, final_state.dtype), new_table(final_state, cut)
    read_strips(share, cut, line.initial_state, carried.state)
    for begin in range(share.start, share.stop, BLOCK):
        block = Block(begin, min(begin + BLOCK, share.stop))
        fill_table(table, line.log_a, cut, first_head, last_head, block)
        for h in range(first_head, last_head):
            for strip in range(strips):
                place, here = place_of(h * strips + strip, cut, like, width), (h * strips + strip - share.first) * width
                slot = saved_row(share.start, share.n, (begin - share.start) // BLOCK) * row + place.column
                store(saved, slot, place.mask, load(carried.state, here, None, registers))
                out = Rows(c, strip * width, padded)
                forward_strip(block, place, cut, z, line, table, carried, here, out, False)
            for t in range(begin, block.end):
                _normalise(c, (t - begin) * padded, cut, norm, h, y, t * row + h * cut.channels, streams)
    write_strips(share, cut, carried.state, final_state)
    if streams:
        finish_streams()


@inner
def _backward_task(
    task: int,
    cut: Cut,
    grad_y: Array,
    grad_final: Array,
    saved: Array,
    z: Array,
    line: Line,
    norm: Norm,
    gradients: Gradients,
    norm_gradients: NormGradients,
    streams: bool,
) -> None:
    """From the end on, block by block: c again from the saved state, then the normalisation and the scan reversed.

    Row 0 of `states` is the state before the block, row i + 1 that after step i of it.
    """
    row, registers = cut.heads * cut.channels, cut.registers
    like, width = zeros(saved, registers), width_of(saved, registers)
    strips = strips_of(cut, width)
    share, padded = _share_of(task, line, cut, strips), strips * width
    first_head, last_head = _heads_of(task, cut)
    carried, state = new_carried(share.last - share.first, saved, width), new_carried(1, saved, width)
    states, up = np.zeros((BLOCK + 1) * padded, saved.dtype), np.zeros(BLOCK * padded, saved.dtype)
    normed, table = np.zeros(padded, saved.dtype), new_table(saved, cut)
    begin_gradients(share, cut, grad_final, carried, gradients)
    for h in range(first_head, last_head):
        own = share.n * cut.heads + h
        norm_gradients.weight[own] = norm_gradients.bias[own] = 0.0
    for number in range((share.stop - share.start + BLOCK - 1) // BLOCK - 1, -1, -1):
        begin = share.start + number * BLOCK
        block = Block(begin, min(begin + BLOCK, share.stop))
        known = Block(begin, min(block.end + 1, share.stop))
        fill_table(table, line.log_a, cut, first_head, last_head, known)
        for h in range(first_head, last_head):
            for strip in range(strips):
                place = place_of(h * strips + strip, cut, like, width)
                slot = saved_row(share.start, share.n, number) * row + place.column
                store(state.state, 0, None, load(saved, slot, place.mask, registers))
                store(state.lost, 0, None, like)
                store(states, strip * width, None, load(state.state, 0, None, registers))
                out = Rows(states, padded + strip * width, padded)
                forward_strip(block, place, cut, z, line, table, state, 0, out, False)
            own = share.n * cut.heads + h
            for t in range(begin, block.end):
                along, total = _normalise_back(
                    states, (t - begin + 1) * padded, cut, norm, h, grad_y, norm_gradients.gate,
                    t * row + h * cut.channels, normed, up, (t - begin) * padded,
                )  # fmt: skip
                norm_gradients.weight[own] += along
                norm_gradients.bias[own] += total
            for strip in range(strips):
                place, here = place_of(h * strips + strip, cut, like, width), (h * strips + strip - share.first) * width
                rows, before = Rows(up, strip * width, padded), Rows(states, strip * width, padded)
                backward_strip(block, share, place, cut, line, table, rows, before, carried, here, gradients, streams)
    if streams:
        finish_streams()


def _entries() -> tuple[Any, Any, Any, Any]:
    """The kernels as Python calls them, as in `scan_kernels`."""

    @kernel()
    def forward_serial(tasks, sizes, registers, edge, per_channel, streams, line, z, norm, result):
        groups, heads, channels = sizes
        y, final_state, saved = result
        cut = Cut(groups, heads, channels, registers, edge, per_channel)
        for task in range(tasks):
            _forward_task(task, cut, z, line, norm, y, final_state, saved, streams)

    @kernel(parallel=True)
    def forward_parallel(tasks, sizes, registers, edge, per_channel, streams, line, z, norm, result):
        groups, heads, channels = sizes
        y, final_state, saved = result
        for task in numba.prange(tasks):
            cut = Cut(groups, heads, channels, registers, edge, per_channel)
            _forward_task(np.int64(task), cut, z, line, norm, y, final_state, saved, streams)

    @kernel()
    def backward_serial(
        tasks, sizes, registers, edge, per_channel, streams, line, given, norm, gradients, norm_gradients
    ):
        groups, heads, channels = sizes
        grad_y, grad_final, saved, z = given
        cut = Cut(groups, heads, channels, registers, edge, per_channel)
        for task in range(tasks):
            _backward_task(task, cut, grad_y, grad_final, saved, z, line, norm, gradients, norm_gradients, streams)

    @kernel(parallel=True)
    def backward_parallel(
        tasks, sizes, registers, edge, per_channel, streams, line, given, norm, gradients, norm_gradients
    ):
        groups, heads, channels = sizes
        grad_y, grad_final, saved, z = given
        for task in numba.prange(tasks):
            cut = Cut(groups, heads, channels, registers, edge, per_channel)
            _backward_task(
                np.int64(task), cut, grad_y, grad_final, saved, z, line, norm, gradients, norm_gradients, streams
            )

    return forward_parallel, forward_serial, backward_parallel, backward_serial


forward_parallel, forward_serial, backward_parallel, backward_serial = _entries()
