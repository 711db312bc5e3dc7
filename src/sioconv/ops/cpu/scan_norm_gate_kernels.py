"""The kernels of `scan_norm_gate` on the `cpu` backend: the scan's, and every row normalised as soon as it is there.

See `scan_kernels` for how arrays lie, for what a task, a strip and a block are, and for the arguments that
are there for their type. A task here has whole heads, because a head is normalised over all its channels. `branch` and
its gradient are None where nothing is multiplied.
"""

from typing import Any

import numba
import numpy as np

from sioconv.ops.cpu.jit import inner, kernel
from sioconv.ops.cpu.scan_kernels import (
    BLOCK,
    Array,
    Line,
    backward_strip,
    begin_gradients,
    fill_table,
    forward_strip,
    mask_of,
    new_table,
    place_of,
    put,
    read_strips,
    saved_row,
    strips_of,
    width_of,
    write_strips,
)
from sioconv.ops.cpu.vectors import finish_streams, first_lanes, lane_sum, load, select, splat, store, zeros


@inner
def _moments(c: Array, at: int, channels: int, pieces: Any, edge: Any, eps: float) -> Any:
    """Mean of the row of channels at `at` and 1 / sqrt(variance + eps); c is 0 beyond the last channel."""
    number, width = c.dtype.type, width_of(c, pieces)
    total = zeros(c, pieces)
    for first in range(0, channels, width):
        total = total + load(c, at + first, None, pieces)
    mean = lane_sum(total) / number(channels)
    square = zeros(c, pieces)
    for first in range(0, channels, width):
        mask = first_lanes(edge, channels - first, square)
        off = select(mask, load(c, at + first, None, pieces) - mean, splat(0.0, square))
        square = square + off * off
    return mean, number(1) / np.sqrt(lane_sum(square) / number(channels) + number(eps))


@inner
def _normalise(
    c: Array, c_at: int, channels: int, pieces: Any, edge: Any, weight: Any, bias: Any, eps: float,
    branch: Array, y: Array, at: int, streams: bool,
) -> None:  # fmt: skip
    """y <- ((c - mean) * scale * weight + bias) * branch over a row."""
    mean, scale = _moments(c, c_at, channels, pieces, edge, eps)
    scale *= weight
    for first in range(0, channels, width_of(c, pieces)):
        mask = first_lanes(edge, channels - first, zeros(c, pieces))
        value = (load(c, c_at + first, None, pieces) - mean) * scale + bias
        if branch.size != 0:
            value = value * load(branch, at + first, mask, pieces)
        put(y, at + first, mask, value, streams)


@inner
def _normalise_back(
    c: Array, c_at: int, channels: int, pieces: Any, edge: Any, weight: Any, bias: Any, eps: float,
    branch: Array, grad_y: Array, grad_branch: Array, at: int, normed: Array, slope: Array, slope_at: int,
) -> Any:  # fmt: skip
    """slope <- the gradient of c, and branch's to grad_branch; returns those of weight and bias. `normed` is scratch.

    With x = (c - mean) * scale and g the gradient of x: dc = scale * (g - mean(g) - x * mean(g * x)) (Ba, Kiros &
    Hinton 2016, arXiv:1607.06450).
    """
    number, width = c.dtype.type, width_of(c, pieces)
    mean, scale = _moments(c, c_at, channels, pieces, edge, eps)
    along, total = zeros(c, pieces), zeros(c, pieces)
    for first in range(0, channels, width):
        mask = first_lanes(edge, channels - first, along)
        x = select(mask, (load(c, c_at + first, None, pieces) - mean) * scale, splat(0.0, along))
        up = load(grad_y, at + first, mask, pieces)
        if branch.size != 0:
            store(grad_branch, at + first, mask, up * (x * weight + bias))
            up = up * load(branch, at + first, mask, pieces)
        along, total = along + up * x, total + up
        store(normed, first, None, x)
        store(slope, slope_at + first, None, up)
    along_sum, total_sum = lane_sum(along), lane_sum(total)
    mean_along, mean_total = along_sum / number(channels), total_sum / number(channels)
    scale *= weight
    for first in range(0, channels, width):
        up, x = load(slope, slope_at + first, None, pieces), load(normed, first, None, pieces)
        store(slope, slope_at + first, None, (up - mean_total - x * mean_along) * scale)
    return along_sum, total_sum


@inner
def _forward_task(
    task: int,
    groups: int,
    heads: int,
    channels: int,
    pieces: Any,
    edge: Any,
    per_channel: Any,
    z: Array,
    line: Line,
    weight: Array,
    bias: Array,
    eps: float,
    branch: Array,
    y: Array,
    final_state: Array,
    saved: Array,
    streams: bool,
) -> None:
    n, row = task // groups, heads * channels
    first_head, last_head = heads * (task % groups) // groups, heads * (task % groups + 1) // groups
    like, width = zeros(final_state, pieces), width_of(final_state, pieces)
    strips = strips_of(channels, width)
    first, last, padded = first_head * strips, last_head * strips, strips * width
    state = np.zeros((last - first) * width, final_state.dtype)
    lost = np.zeros((last - first) * width, final_state.dtype)
    c, table = np.zeros(BLOCK * padded, final_state.dtype), new_table(final_state, heads, pieces)
    start, stop = line.bounds[n], line.bounds[n + 1]
    read_strips(first, last, channels, pieces, edge, line.initial_state, n * row, state)
    for begin in range(start, stop, BLOCK):
        end = min(begin + BLOCK, stop)
        fill_table(table, line.log_a, heads, first_head, last_head, begin, end, pieces, per_channel)
        for h in range(first_head, last_head):
            for strip in range(strips):
                tile = h * strips + strip
                place, here = place_of(tile, channels, width), (tile - first) * width
                mask = mask_of(edge, place, like)
                slot = saved_row(start, n, (begin - start) // BLOCK) * row + place.column
                store(saved, slot, mask, load(state, here, None, pieces))
                forward_strip(
                    begin, end, row, place, mask, pieces, heads, z, line, table, per_channel,
                    state, lost, here, c, strip * width, padded, False,
                )  # fmt: skip
            for t in range(begin, end):
                _normalise(
                    c, (t - begin) * padded, channels, pieces, edge, weight[h], bias[h], eps,
                    branch, y, t * row + h * channels, streams,
                )  # fmt: skip
    write_strips(first, last, channels, pieces, edge, state, final_state, n * row)
    if streams:
        finish_streams()


@inner
def _backward_task(
    task: int,
    groups: int,
    heads: int,
    channels: int,
    pieces: Any,
    edge: Any,
    per_channel: Any,
    grad_y: Array,
    grad_final: Array,
    saved: Array,
    z: Array,
    line: Line,
    weight: Array,
    bias: Array,
    eps: float,
    branch: Array,
    grad_z: Array,
    grad_log_a: Array,
    grad_initial: Array,
    grad_reset: Array,
    grad_weight: Array,
    grad_bias: Array,
    grad_branch: Array,
    streams: bool,
) -> None:
    """From the end on, block by block: c again from the saved state, then the normalisation and the scan reversed.

    grad_weight and grad_bias are [N, H], the shares of every sequence. Row 0 of `states` is the state before the block,
    row i + 1 that after step i of it.
    """
    n, row = task // groups, heads * channels
    first_head, last_head = heads * (task % groups) // groups, heads * (task % groups + 1) // groups
    like, width = zeros(saved, pieces), width_of(saved, pieces)
    strips = strips_of(channels, width)
    tiles, first, last, padded = heads * strips, first_head * strips, last_head * strips, strips * width
    slope, lost = np.zeros((last - first) * width, saved.dtype), np.zeros((last - first) * width, saved.dtype)
    state, state_lost = np.zeros(width, saved.dtype), np.zeros(width, saved.dtype)
    states, up = np.zeros((BLOCK + 1) * padded, saved.dtype), np.zeros(BLOCK * padded, saved.dtype)
    normed, table = np.zeros(padded, saved.dtype), new_table(saved, heads, pieces)
    start, stop = line.bounds[n], line.bounds[n + 1]
    begin_gradients(
        first, last, channels, n * row, start == stop, pieces, edge, grad_final, slope, lost, grad_initial, grad_reset
    )
    for h in range(first_head, last_head):
        grad_weight[n * heads + h] = grad_bias[n * heads + h] = 0.0
    for block in range((stop - start + BLOCK - 1) // BLOCK - 1, -1, -1):
        begin = start + block * BLOCK
        end = min(begin + BLOCK, stop)
        fill_table(table, line.log_a, heads, first_head, last_head, begin, min(end + 1, stop), pieces, per_channel)
        for h in range(first_head, last_head):
            for strip in range(strips):
                place = place_of(h * strips + strip, channels, width)
                mask = mask_of(edge, place, like)
                slot = saved_row(start, n, block) * row + place.column
                store(state, 0, None, load(saved, slot, mask, pieces))
                store(state_lost, 0, None, like)
                store(states, strip * width, None, load(state, 0, None, pieces))
                forward_strip(
                    begin, end, row, place, mask, pieces, heads, z, line, table, per_channel,
                    state, state_lost, 0, states, padded + strip * width, padded, False,
                )  # fmt: skip
            for t in range(begin, end):
                along, total = _normalise_back(
                    states, (t - begin + 1) * padded, channels, pieces, edge, weight[h], bias[h], eps,
                    branch, grad_y, grad_branch, t * row + h * channels, normed, up, (t - begin) * padded,
                )  # fmt: skip
                grad_weight[n * heads + h] += along
                grad_bias[n * heads + h] += total
            for strip in range(strips):
                tile = h * strips + strip
                place = place_of(tile, channels, width)
                mask = mask_of(edge, place, like)
                backward_strip(
                    begin, end, start, stop, row, n, place, mask, pieces, heads, tiles, line, table, per_channel,
                    up, strip * width, padded, states, strip * width, padded, slope, lost, (tile - first) * width,
                    grad_z, grad_log_a, grad_initial, grad_reset, streams,
                )  # fmt: skip
    if streams:
        finish_streams()


def _entries() -> tuple[Any, Any, Any, Any]:
    """The kernels as Python calls them."""

    @kernel()
    def forward_serial(
        tasks, groups, heads, channels, pieces, edge, per_channel, z, log_a, bounds, initial_state, reset, reset_state,
        weight, bias, eps, branch, y, final_state, saved, streams,
    ):  # fmt: skip
        line = Line(log_a, bounds, initial_state, reset, reset_state)
        for task in range(tasks):
            _forward_task(
                task, groups, heads, channels, pieces, edge, per_channel, z, line,
                weight, bias, eps, branch, y, final_state, saved, streams,
            )  # fmt: skip

    @kernel(parallel=True)
    def forward_parallel(
        tasks, groups, heads, channels, pieces, edge, per_channel, z, log_a, bounds, initial_state, reset, reset_state,
        weight, bias, eps, branch, y, final_state, saved, streams,
    ):  # fmt: skip
        for task in numba.prange(tasks):
            line = Line(log_a, bounds, initial_state, reset, reset_state)
            _forward_task(
                np.int64(task), groups, heads, channels, pieces, edge, per_channel, z, line,
                weight, bias, eps, branch, y, final_state, saved, streams,
            )  # fmt: skip

    @kernel()
    def backward_serial(
        tasks, groups, heads, channels, pieces, edge, per_channel, grad_y, grad_final, saved, z, log_a, bounds,
        initial_state, reset, reset_state, weight, bias, eps, branch, grad_z, grad_log_a, grad_initial, grad_reset,
        grad_weight, grad_bias, grad_branch, streams,
    ):  # fmt: skip
        line = Line(log_a, bounds, initial_state, reset, reset_state)
        for task in range(tasks):
            _backward_task(
                task, groups, heads, channels, pieces, edge, per_channel, grad_y, grad_final, saved, z, line,
                weight, bias, eps, branch, grad_z, grad_log_a, grad_initial, grad_reset, grad_weight, grad_bias,
                grad_branch, streams,
            )  # fmt: skip

    @kernel(parallel=True)
    def backward_parallel(
        tasks, groups, heads, channels, pieces, edge, per_channel, grad_y, grad_final, saved, z, log_a, bounds,
        initial_state, reset, reset_state, weight, bias, eps, branch, grad_z, grad_log_a, grad_initial, grad_reset,
        grad_weight, grad_bias, grad_branch, streams,
    ):  # fmt: skip
        for task in numba.prange(tasks):
            line = Line(log_a, bounds, initial_state, reset, reset_state)
            _backward_task(
                np.int64(task), groups, heads, channels, pieces, edge, per_channel,
                grad_y, grad_final, saved, z, line, weight, bias, eps, branch,
                grad_z, grad_log_a, grad_initial, grad_reset, grad_weight, grad_bias,
                grad_branch, streams,
            )  # fmt: skip

    return forward_parallel, forward_serial, backward_parallel, backward_serial


forward_parallel, forward_serial, backward_parallel, backward_serial = _entries()
