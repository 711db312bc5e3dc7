"""The kernels of `rms_norm` on CPUs: a row is read from memory once, forward and backward.

Arrays are flat (`scan.flat`). A task is `ROWS` rows; `registers` and `edge` as in `sioconv.ops.cpu.vectors`.
"""

from typing import Any

import numba
import numpy as np

from sioconv.ops.cpu.jit import inner, kernel
from sioconv.ops.cpu.scan_kernels import put, width_of
from sioconv.ops.cpu.structures import Array
from sioconv.ops.cpu.vectors import finish_streams, first_lanes, lane_sum, load, store, zeros

ROWS = 64


@inner
def _forward_task(
    task: int, registers: Any, edge: Any, x: Array, weight: Array, eps: float, y: Array, scales: Array, streams: bool
) -> None:
    number, width, channels = scales.dtype.type, width_of(scales, registers), weight.size
    for row in range(task * ROWS, min((task + 1) * ROWS, scales.size)):
        start, square = row * channels, zeros(scales, registers)
        for first in range(0, channels, width):
            value = load(x, start + first, first_lanes(edge, channels - first, square), registers)
            square = square + value * value
        scale = number(1) / np.sqrt(lane_sum(square) / number(channels) + number(eps))
        scales[row] = scale
        for first in range(0, channels, width):
            mask = first_lanes(edge, channels - first, square)
            value = load(x, start + first, mask, registers) * scale * load(weight, first, mask, registers)
            put(y, start + first, mask, value, streams)
    if streams:
        finish_streams()


@inner
def _backward_task(
    task: int, registers: Any, edge: Any, grad_y: Array, x: Array, weight: Array, scales: Array, grad_x: Array,
    grad_weights: Array, streams: bool,
) -> None:  # fmt: skip
    """With u = x s the normalised row and g = dy w: dx = s (g - u mean(g u)), and the weight's gradient is dy u.

    Every task adds up the weight's gradient over its own rows, in `grad_weights` [tasks, channels].
    """
    number, width, channels = scales.dtype.type, width_of(scales, registers), weight.size
    for first in range(0, channels, width):
        like = zeros(scales, registers)
        store(grad_weights, task * channels + first, first_lanes(edge, channels - first, like), like)
    for row in range(task * ROWS, min((task + 1) * ROWS, scales.size)):
        start, along, scale = row * channels, zeros(scales, registers), scales[row]
        for first in range(0, channels, width):
            mask = first_lanes(edge, channels - first, along)
            up = load(grad_y, start + first, mask, registers) * load(x, start + first, mask, registers)
            along = along + up * load(weight, first, mask, registers)
            grad_weight = load(grad_weights, task * channels + first, mask, registers) + up * scale
            store(grad_weights, task * channels + first, mask, grad_weight)
        back = lane_sum(along) * scale * scale / number(channels)
        for first in range(0, channels, width):
            mask = first_lanes(edge, channels - first, along)
            up = load(grad_y, start + first, mask, registers) * load(weight, first, mask, registers)
            value = (up - load(x, start + first, mask, registers) * back) * scale
            put(grad_x, start + first, mask, value, streams)
    if streams:
        finish_streams()


def _entries() -> tuple[Any, Any, Any, Any]:
    """The kernels as Python calls them."""

    @kernel()
    def forward_serial(tasks, registers, edge, x, weight, eps, y, scales, streams):
        for task in range(tasks):
            _forward_task(task, registers, edge, x, weight, eps, y, scales, streams)

    @kernel(parallel=True)
    def forward_parallel(tasks, registers, edge, x, weight, eps, y, scales, streams):
        for task in numba.prange(tasks):
            _forward_task(np.int64(task), registers, edge, x, weight, eps, y, scales, streams)

    @kernel()
    def backward_serial(tasks, registers, edge, grad_y, x, weight, scales, grad_x, grad_weights, streams):
        for task in range(tasks):
            _backward_task(task, registers, edge, grad_y, x, weight, scales, grad_x, grad_weights, streams)

    @kernel(parallel=True)
    def backward_parallel(tasks, registers, edge, grad_y, x, weight, scales, grad_x, grad_weights, streams):
        for task in numba.prange(tasks):
            _backward_task(np.int64(task), registers, edge, grad_y, x, weight, scales, grad_x, grad_weights, streams)

    return forward_parallel, forward_serial, backward_parallel, backward_serial


forward_parallel, forward_serial, backward_parallel, backward_serial = _entries()
