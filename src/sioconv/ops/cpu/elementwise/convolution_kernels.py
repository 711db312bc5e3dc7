"""The kernels of `causal_convolution` on CPUs: one pass over memory forward, one backward.

Arrays are flat (`scan.flat`). A task is `STEPS` steps of one sequence; `registers` and `edge` as in
`sioconv.ops.cpu.vectors`; `like` is an empty array of the dtype that is computed in.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from sioconv.ops.cpu.jit import inner, kernel
from sioconv.ops.cpu.scan_kernels import put, width_of
from sioconv.ops.cpu.structures import Array
from sioconv.ops.cpu.vectors import finish_streams, first_lanes, load, store, zeros

STEPS = 64


class Inputs(NamedTuple):
    """What a convolution reads; the taps are a step's own input and the W - 1 before it."""

    x: Array  # [B, T, D]
    tail: Array  # [B, W - 1, D], the oldest first
    weight: Array  # [W, D]
    reset: Array  # [B, T] bool, empty for none
    length: int  # T
    taps: int  # W


class Slopes(NamedTuple):
    """What the backward kernel writes."""

    x: Array  # [B, T, D]
    tail: Array  # [B, W - 1, D]
    weight: Array  # [tasks, W, D], each task its own sum


@inner
def _steps_of(task: int, length: int) -> tuple[int, int, int]:
    """The sequence of a task, its first step, and the one after its last."""
    pieces = (length + STEPS - 1) // STEPS
    first = task % pieces * STEPS
    return task // pieces, first, min(first + STEPS, length)


@inner
def _begins(row: int, step: int, inputs: Inputs) -> bool:
    """Whether a document begins at a step, which isn't negative."""
    return inputs.reset.size > 0 and inputs.reset[row * inputs.length + step]


@inner
def _taps_of(row: int, step: int, inputs: Inputs) -> int:
    """How many taps of a step are of its own document."""
    for k in range(1, inputs.taps):
        if step - k + 1 >= 0 and _begins(row, step - k + 1, inputs):
            return k
    return inputs.taps


@inner
def _read_until(row: int, step: int, inputs: Inputs) -> int:
    """The step after the last that reads the input of `step`, which is negative in the tail."""
    last = min(step + inputs.taps, inputs.length)
    for reader in range(max(step, -1) + 1, last):
        if _begins(row, reader, inputs):
            return reader
    return last


@inner
def _forward_task(task: int, registers: Any, edge: Any, like: Array, inputs: Inputs, y: Array, streams: bool) -> None:
    """Taps from x and from the tail in a loop each: one that asked each time would take four times as long."""
    width, channels = width_of(like, registers), inputs.weight.size // inputs.taps
    row, begin, end = _steps_of(task, inputs.length)
    for step in range(begin, end):
        count = _taps_of(row, step, inputs)
        for first in range(0, channels, width):
            value = zeros(like, registers)
            mask = first_lanes(edge, channels - first, value)
            place = (row * inputs.length + step) * channels + first
            for k in range(min(count, step + 1)):
                factor = load(inputs.weight, k * channels + first, mask, registers)
                value = value + factor * load(inputs.x, place - k * channels, mask, registers)
            for k in range(step + 1, count):
                factor = load(inputs.weight, k * channels + first, mask, registers)
                value = value + factor * load(inputs.tail, _tail_at(row, step - k, first, inputs), mask, registers)
            put(y, place, mask, value, streams)
    if streams:
        finish_streams()


@inner
def _tail_at(row: int, step: int, first: int, inputs: Inputs) -> int:
    """Where the channels from `first` on of a step before the sequence's first, which is 0, are in the tail."""
    return ((row + 1) * (inputs.taps - 1) + step) * (inputs.weight.size // inputs.taps) + first


@inner
def _slope_at(
    row: int, step: int, end: int, first: int, mask: Any, registers: Any, like: Array, grad_y: Array, inputs: Inputs
) -> Any:
    """The gradient of a step's input, which is read until the step `end`: sum_k w_k dy_{t+k}."""
    channels, value = inputs.weight.size // inputs.taps, zeros(like, registers)
    for reader in range(max(step, 0), end):
        up = load(grad_y, (row * inputs.length + reader) * channels + first, mask, registers)
        value = value + up * load(inputs.weight, (reader - step) * channels + first, mask, registers)
    return value


@inner
def _add(result: Array, at: int, mask: Any, value: Any, registers: Any) -> None:
    store(result, at, mask, load(result, at, mask, registers) + value)


@inner
def _backward_task(
    task: int, registers: Any, edge: Any, like: Array, grad_y: Array, inputs: Inputs, slopes: Slopes, streams: bool
) -> None:
    """With dw_k = sum_t dy_t x_{t-k}, over the task's own steps."""
    width, channels, past = width_of(like, registers), inputs.weight.size // inputs.taps, inputs.taps - 1
    row, begin, end = _steps_of(task, inputs.length)
    line = task * inputs.weight.size
    slopes.weight[line : line + inputs.weight.size] = 0
    for step in range(-past if begin == 0 else begin, end):
        until = _read_until(row, step, inputs)
        count = _taps_of(row, step, inputs) if step >= 0 else 0
        for first in range(0, channels, width):
            mask = first_lanes(edge, channels - first, zeros(like, registers))
            value = _slope_at(row, step, until, first, mask, registers, like, grad_y, inputs)
            if step < 0:
                store(slopes.tail, _tail_at(row, step, first, inputs), mask, value)
                continue
            place = (row * inputs.length + step) * channels + first
            put(slopes.x, place, mask, value, streams)
            up = load(grad_y, place, mask, registers)
            for k in range(min(count, step + 1)):
                product = up * load(inputs.x, place - k * channels, mask, registers)
                _add(slopes.weight, line + k * channels + first, mask, product, registers)
            for k in range(step + 1, count):
                product = up * load(inputs.tail, _tail_at(row, step - k, first, inputs), mask, registers)
                _add(slopes.weight, line + k * channels + first, mask, product, registers)
    if streams:
        finish_streams()


def _entries() -> tuple[Any, Any, Any, Any]:
    """The kernels as Python calls them."""

    @kernel()
    def forward_serial(tasks, registers, edge, like, inputs, y, streams):
        for task in range(tasks):
            _forward_task(task, registers, edge, like, inputs, y, streams)

    @kernel(parallel=True)
    def forward_parallel(tasks, registers, edge, like, inputs, y, streams):
        for task in numba.prange(tasks):
            _forward_task(np.int64(task), registers, edge, like, inputs, y, streams)

    @kernel()
    def backward_serial(tasks, registers, edge, like, grad_y, inputs, slopes, streams):
        for task in range(tasks):
            _backward_task(task, registers, edge, like, grad_y, inputs, slopes, streams)

    @kernel(parallel=True)
    def backward_parallel(tasks, registers, edge, like, grad_y, inputs, slopes, streams):
        for task in numba.prange(tasks):
            _backward_task(np.int64(task), registers, edge, like, grad_y, inputs, slopes, streams)

    return forward_parallel, forward_serial, backward_parallel, backward_serial


forward_parallel, forward_serial, backward_parallel, backward_serial = _entries()
