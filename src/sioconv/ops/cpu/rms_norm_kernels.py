"""The kernels of `rms_norm` on CPUs: a row is read from memory once, forward and backward.

Arrays are flat (`scan.flat`). A task is `ROWS` rows; `pieces` and `edge` as in `sioconv.ops.cpu.vectors`.
"""

from typing import Any

import numba
import numpy as np

from sioconv.ops.cpu.jit import inner, kernel
from sioconv.ops.cpu.scan_kernels import Array, put, width_of
from sioconv.ops.cpu.vectors import finish_streams, first_lanes, lane_sum, load, store, zeros

ROWS = 64


@inner
def _forward_task(
    task: int, pieces: Any, edge: Any, x: Array, weight: Array, eps: float, y: Array, scales: Array, streams: bool
) -> None:
    number, width, channels = scales.dtype.type, width_of(scales, pieces), weight.size
    for row in range(task * ROWS, min((task + 1) * ROWS, scales.size)):
        start, square = row * channels, zeros(scales, pieces)
        for first in range(0, channels, width):
            value = load(x, start + first, first_lanes(edge, channels - first, square), pieces)
            square = square + value * value
        scale = number(1) / np.sqrt(lane_sum(square) / number(channels) + number(eps))
        scales[row] = scale
        for first in range(0, channels, width):
            mask = first_lanes(edge, channels - first, square)
            value = load(x, start + first, mask, pieces) * scale * load(weight, first, mask, pieces)
            put(y, start + first, mask, value, streams)
    if streams:
        finish_streams()


@inner
def _backward_task(
    task: int, pieces: Any, edge: Any, grad_y: Array, x: Array, weight: Array, scales: Array, grad_x: Array,
    slopes: Array, streams: bool,
) -> None:  # fmt: skip
    """With u = x s the normalised row and g = dy w: dx = s (g - u mean(g u)), and the weight's slope is dy u.

    Every task adds up the weight's slope over its own rows, in `slopes` [tasks, channels].
    """
    number, width, channels = scales.dtype.type, width_of(scales, pieces), weight.size
    for first in range(0, channels, width):
        like = zeros(scales, pieces)
        store(slopes, task * channels + first, first_lanes(edge, channels - first, like), like)
    for row in range(task * ROWS, min((task + 1) * ROWS, scales.size)):
        start, along, scale = row * channels, zeros(scales, pieces), scales[row]
        for first in range(0, channels, width):
            mask = first_lanes(edge, channels - first, along)
            up = load(grad_y, start + first, mask, pieces) * load(x, start + first, mask, pieces)
            along = along + up * load(weight, first, mask, pieces)
            slope = load(slopes, task * channels + first, mask, pieces) + up * scale
            store(slopes, task * channels + first, mask, slope)
        back = lane_sum(along) * scale * scale / number(channels)
        for first in range(0, channels, width):
            mask = first_lanes(edge, channels - first, along)
            up = load(grad_y, start + first, mask, pieces) * load(weight, first, mask, pieces)
            value = (up - load(x, start + first, mask, pieces) * back) * scale
            put(grad_x, start + first, mask, value, streams)
    if streams:
        finish_streams()


def _entries() -> tuple[Any, Any, Any, Any]:
    """The kernels as Python calls them."""

    @kernel()
    def forward_serial(tasks, pieces, edge, x, weight, eps, y, scales, streams):
        for task in range(tasks):
            _forward_task(task, pieces, edge, x, weight, eps, y, scales, streams)

    @kernel(parallel=True)
    def forward_parallel(tasks, pieces, edge, x, weight, eps, y, scales, streams):
        for task in numba.prange(tasks):
            _forward_task(np.int64(task), pieces, edge, x, weight, eps, y, scales, streams)

    @kernel()
    def backward_serial(tasks, pieces, edge, grad_y, x, weight, scales, grad_x, slopes, streams):
        for task in range(tasks):
            _backward_task(task, pieces, edge, grad_y, x, weight, scales, grad_x, slopes, streams)

    @kernel(parallel=True)
    def backward_parallel(tasks, pieces, edge, grad_y, x, weight, scales, grad_x, slopes, streams):
        for task in numba.prange(tasks):
            _backward_task(np.int64(task), pieces, edge, grad_y, x, weight, scales, grad_x, slopes, streams)

    return forward_parallel, forward_serial, backward_parallel, backward_serial


forward_parallel, forward_serial, backward_parallel, backward_serial = _entries()
