"""The kernels of `silu_gate` on CPUs: one pass over memory forward, one backward.

Arrays are flat (`scan.flat`). A task is `CHUNK` numbers; `registers` and `edge` as in `sioconv.ops.cpu.vectors`.
"""

from typing import Any

import numba
import numpy as np

from sioconv.ops.cpu.jit import inner, kernel
from sioconv.ops.cpu.scan_kernels import put, width_of
from sioconv.ops.cpu.structures import Array
from sioconv.ops.cpu.vectors import decays, finish_streams, first_lanes, load, select, zeros

CHUNK = 16384


@inner
def sigmoids(x: Any) -> Any:
    """1 / (1 + exp(-x)) by the exponential of -|x|, which doesn't overflow."""
    small, _ = decays(select(x > 0.0, 0.0 - x, x))
    return select(x > 0.0, 1.0 / (1.0 + small), small / (1.0 + small))


@inner
def _forward_at(at: int, mask: Any, registers: Any, x: Array, gate: Array, y: Array, streams: bool) -> None:
    branch = load(gate, at, mask, registers)
    put(y, at, mask, load(x, at, mask, registers) * branch * sigmoids(branch), streams)


@inner
def _backward_at(
    at: int, mask: Any, registers: Any, grad_y: Array, x: Array, gate: Array, grad_x: Array, grad_gate: Array,
    streams: bool,
) -> None:  # fmt: skip
    """With s = sigmoid(g): dx = dy g s, dg = dy x (s + g s (1 - s))."""
    up, branch = load(grad_y, at, mask, registers), load(gate, at, mask, registers)
    sigmoid = sigmoids(branch)
    silu = branch * sigmoid
    put(grad_x, at, mask, up * silu, streams)
    put(grad_gate, at, mask, up * load(x, at, mask, registers) * (sigmoid + silu * (1.0 - sigmoid)), streams)


@inner
def _forward_task(
    task: int, registers: Any, edge: Any, like: Array, x: Array, gate: Array, y: Array, streams: bool
) -> None:
    width, end = width_of(like, registers), min((task + 1) * CHUNK, x.size)
    whole = task * CHUNK + (end - task * CHUNK) // width * width
    for at in range(task * CHUNK, whole, width):
        _forward_at(at, None, registers, x, gate, y, streams)
    if whole < end:
        _forward_at(whole, first_lanes(edge, end - whole, zeros(like, registers)), registers, x, gate, y, streams)
    if streams:
        finish_streams()


@inner
def _backward_task(
    task: int, registers: Any, edge: Any, like: Array, grad_y: Array, x: Array, gate: Array, grad_x: Array,
    grad_gate: Array, streams: bool,
) -> None:  # fmt: skip
    width, end = width_of(like, registers), min((task + 1) * CHUNK, x.size)
    whole = task * CHUNK + (end - task * CHUNK) // width * width
    for at in range(task * CHUNK, whole, width):
        _backward_at(at, None, registers, grad_y, x, gate, grad_x, grad_gate, streams)
    if whole < end:
        mask = first_lanes(edge, end - whole, zeros(like, registers))
        _backward_at(whole, mask, registers, grad_y, x, gate, grad_x, grad_gate, streams)
    if streams:
        finish_streams()


def _entries() -> tuple[Any, Any, Any, Any]:
    """The kernels as Python calls them."""

    @kernel()
    def forward_serial(tasks, registers, edge, like, x, gate, y, streams):
        for task in range(tasks):
            _forward_task(task, registers, edge, like, x, gate, y, streams)

    @kernel(parallel=True)
    def forward_parallel(tasks, registers, edge, like, x, gate, y, streams):
        for task in numba.prange(tasks):
            _forward_task(np.int64(task), registers, edge, like, x, gate, y, streams)

    @kernel()
    def backward_serial(tasks, registers, edge, like, grad_y, x, gate, grad_x, grad_gate, streams):
        for task in range(tasks):
            _backward_task(task, registers, edge, like, grad_y, x, gate, grad_x, grad_gate, streams)

    @kernel(parallel=True)
    def backward_parallel(tasks, registers, edge, like, grad_y, x, gate, grad_x, grad_gate, streams):
        for task in numba.prange(tasks):
            _backward_task(np.int64(task), registers, edge, like, grad_y, x, gate, grad_x, grad_gate, streams)

    return forward_parallel, forward_serial, backward_parallel, backward_serial


forward_parallel, forward_serial, backward_parallel, backward_serial = _entries()
