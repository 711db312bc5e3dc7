"""The numba kernels of the `cpu` backend: one pass over time, forward and backward, threads over tasks.

Arrays come flattened; the shapes below are those they had. All sequences lie one after the other in one line of
L positions, sequence n from `bounds[n]` to `bounds[n + 1]`, so that a batch and a packed row are the same thing.
Gates come as a and a - 1, [L, H] or [L, H, P]; an empty `reset` means none. bfloat16 arrives as its bits in
uint16. A task is one sequence and one group of tiles, a tile being at most TILE channels of one head. Tasks write
disjoint memory and no sum crosses a tile, so results don't depend on the number of threads or groups.

Two habits serve the compiler. Helpers take whole arrays and an offset: a slice counts references, and threads
that count on one array wait for each other. Offsets become unsigned before they index: numba checks signed ones
for being negative, and then loops aren't vectorised. All kernels are in this one file because numba looks for
changes only in the file of the function that it has cached.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import overload

logger = logging.getLogger("sioconv")

TILE = 128
SAVE_EVERY = 64
Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])


# 'contract' allows fused multiply-adds and nothing that would undo the compensation in `_advance`.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}


def _inner(**options: Any) -> Callable[[F], F]:
    """numba.njit for what only other kernels call: nothing on disk, no entry for Python, so quicker to compile.

    Always inlined: a call passes seven numbers for every array, which takes as long as a short row.
    """
    settings = {**_OPTIONS, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, **options}

    def compile_function(function: F) -> F:
        return cast(F, numba.njit(**settings)(function))

    return compile_function


@functools.cache
def _say_uncached() -> None:
    logger.warning(
        "scan: neither the package folder nor the user's cache folder can be written, so every process compiles "
        "the kernels again: set NUMBA_CACHE_DIR to a folder that can"
    )


def _kernel(**options: Any) -> Callable[[F], F]:
    """numba.njit with the result kept on disk, in the package folder or else the user's cache folder."""

    def compile_function(function: F) -> F:
        settings = {**_OPTIONS, "no_cfunc_wrapper": True, **options}
        try:
            return cast(F, numba.njit(cache=True, **settings)(function))
        except RuntimeError:  # neither folder can be written
            _say_uncached()
            return cast(F, numba.njit(**settings)(function))

    return compile_function


def _load(array: Any, at: int) -> Any:
    """One element of an array of floats or of bfloat16 bits; a number stands for an array that is all the same."""


@overload(_load, inline="always", strict=False)
def _load_overload(array: Any, at: Any) -> Any:  # noqa: ARG001
    if not isinstance(array, numba.types.Array):
        return lambda array, at: array  # noqa: ARG005
    if array.dtype == numba.uint16:
        return lambda array, at: np.uint32(np.uint32(array[np.uint64(at)]) << np.uint32(16)).view(np.float32)
    return lambda array, at: array[np.uint64(at)]


def _store(array: Any, at: int, value: Any) -> None:
    """Write one element of an array of floats or of bfloat16 bits (rounded to nearest, ties to even)."""


@overload(_store, inline="always", strict=False)
def _store_overload(array: Any, at: Any, value: Any) -> Any:  # noqa: ARG001
    def store_bits(array: Any, at: Any, value: Any) -> None:
        bits = np.float32(value).view(np.uint32)
        half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        rounded = np.uint16((bits + half) >> np.uint32(16))
        array[np.uint64(at)] = rounded if value == value else np.uint16(0x7FC0)

    def store_float(array: Any, at: Any, value: Any) -> None:
        array[np.uint64(at)] = value

    return store_bits if array.dtype == numba.uint16 else store_float


@_inner()
def _copy(to: Array, to_at: int, source: Any, source_at: int, width: int) -> None:
    for i in range(width):
        _store(to, to_at + i, _load(source, source_at + i))


@_inner()
def _advance(
    state: Array,
    lost: Array,
    here: int,
    a: Any,
    a_minus_1: Any,
    gate_at: int,
    add: Array,
    add_at: int,
    out: Array,
    out_at: int,
    width: int,
) -> None:
    """state <- a*state + add over a row of channels; `lost` is what rounding took from `state` so far.

    Slow gates keep the state and add (a - 1)*state, fast ones multiply by a: each where it is exact. What is
    kept and what is new are added by an exact two-sum (Knuth, The Art of Computer Programming 2, 4.2.2,
    theorem B).
    """
    zero, half = state.dtype.type(0), state.dtype.type(0.5)
    for i in range(width):
        old, decay = _load(state, here + i), _load(a, gate_at + i)
        slow = decay > half
        kept = old if slow else zero
        part = _load(a_minus_1, gate_at + i) if slow else decay
        new = part * old + (decay * _load(lost, here + i) + _load(add, add_at + i))
        total = kept + new
        back = total - kept
        _store(lost, here + i, (kept - (total - back)) + (new - back))
        _store(state, here + i, total)
        _store(out, out_at + i, total)


@_inner()
def _step(
    t: int,
    restart: bool,
    h: int,
    heads: int,
    column: int,
    width: int,
    z: Array,
    at: int,
    a: Array,
    a_minus_1: Array,
    reset_state: Array,
    state: Array,
    lost: Array,
    here: int,
    out: Array,
    out_at: int,
) -> None:
    """One step of a tile: `state` and `lost` at `here` go from t - 1 to t, and the state to `out` as well."""
    if restart:
        _copy(state, here, reset_state, column, width)
        _copy(lost, here, state.dtype.type(0), 0, width)
    if a.size == z.size:
        _advance(state, lost, here, a, a_minus_1, at, z, at, out, out_at, width)
    else:
        gate = t * heads + h
        _advance(state, lost, here, a[gate], a_minus_1[gate], 0, z, at, out, out_at, width)


@_inner()
def _step_back(
    last: bool,
    per_head: bool,
    a: Array,
    a_minus_1: Array,
    next_gate: int,
    slope: Array,
    lost: Array,
    here: int,
    add: Array,
    add_at: int,
    out: Array,
    out_at: int,
    width: int,
) -> None:
    """`slope` and `lost` go from t + 1 to t: dc_t = a_{t+1} * dc_{t+1} + add, with a_{t+1} = 1 after the last step."""
    if last or per_head:
        decay = slope.dtype.type(1) if last else a[next_gate]
        less = slope.dtype.type(0) if last else a_minus_1[next_gate]
        _advance(slope, lost, here, decay, less, 0, add, add_at, out, out_at, width)
    else:
        _advance(slope, lost, here, a, a_minus_1, next_gate, add, add_at, out, out_at, width)


@_inner(fastmath={"contract", "reassoc"})
def _dot(x: Array, x_at: int, y: Array, y_at: int, width: int) -> Any:
    """Sum of x*y; 'reassoc' lets the compiler add in vector lanes, an order that depends on the length alone."""
    total = x.dtype.type(0)
    for i in range(width):
        total += _load(x, x_at + i) * _load(y, y_at + i)
    return total


@_inner()
def _gate_slope(
    out: Array, out_at: int, a: Array, gate: int, per_head: bool,
    slope: Array, here: int, before: Array, before_at: int, width: int,
) -> None:  # fmt: skip
    """The gate's gradient a_t * dc_t * c_{t-1} (`slope` is dc_t, `before` c_{t-1}); per head their sum."""
    if per_head:
        out[out_at] = a[gate] * _dot(slope, here, before, before_at, width)
        return
    for i in range(width):
        _store(out, out_at + i, _load(a, gate + i) * _load(slope, here + i) * _load(before, before_at + i))


@_inner()
def _add_decayed(
    into: Array, into_at: int, a: Array, gate: int, per_head: bool, slope: Array, here: int, width: int
) -> None:
    """into += a_t * dc_t, the gradient of the state that position t started from."""
    for i in range(width):
        decay = _load(a, gate if per_head else gate + i)
        _store(into, into_at + i, _load(into, into_at + i) + decay * _load(slope, here + i))


@_inner()
def _place(tile: int, channels: int) -> tuple[int, int, int]:
    """The head of a tile, its first channel in a row [H, P], and its width."""
    per_head = (channels + TILE - 1) // TILE
    h, p = tile // per_head, tile % per_head * TILE
    return h, h * channels + p, min(TILE, channels - p)


@_inner()
def _group(group: int, groups: int, heads: int, channels: int) -> tuple[int, int]:
    """First and last + 1 tile of a group."""
    tiles = heads * ((channels + TILE - 1) // TILE)
    return tiles * group // groups, tiles * (group + 1) // groups


@_inner()
def _slot(start: int, n: int) -> int:
    """Where the saved states of sequence n begin, so that those of all sequences fit into L // SAVE_EVERY + N."""
    return start // SAVE_EVERY + n


@_inner()
def _forward_task(
    task: Any,
    groups: int,
    heads: int,
    channels: int,
    z: Array,
    a: Array,
    a_minus_1: Array,
    bounds: Array,
    initial_state: Array,
    reset: Array,
    reset_state: Array,
    c: Array,
    final_state: Array,
) -> None:
    n, row = task // groups, heads * channels
    first, last = _group(task % groups, groups, heads, channels)
    state = np.empty((last - first) * TILE, final_state.dtype)
    lost = np.empty((last - first) * TILE, final_state.dtype)
    zero = final_state.dtype.type(0)
    for tile in range(first, last):
        _h, column, width = _place(tile, channels)
        here = (tile - first) * TILE
        _copy(state, here, initial_state, n * row + column, width)
        _copy(lost, here, zero, 0, width)
    first_head, column, _width = _place(first, channels)
    first_channel = column - first_head * channels
    for t in range(bounds[n], bounds[n + 1]):
        restart = reset.size != 0 and reset[t]
        h, p = first_head, first_channel
        for tile in range(first, last):
            width, column = min(TILE, channels - p), h * channels + p
            here, at = (tile - first) * TILE, t * row + column
            _step(t, restart, h, heads, column, width, z, at, a, a_minus_1, reset_state, state, lost, here, c, at)
            h, p = (h, p + TILE) if p + TILE < channels else (h + 1, 0)
    for tile in range(first, last):
        _h, column, width = _place(tile, channels)
        _copy(final_state, n * row + column, state, (tile - first) * TILE, width)


@_inner()
def _backward_task(
    task: Any,
    groups: int,
    heads: int,
    channels: int,
    grad_c: Array,
    grad_final: Array,
    states: Array,
    a: Array,
    a_minus_1: Array,
    bounds: Array,
    initial_state: Array,
    reset: Array,
    reset_state: Array,
    grad_z: Array,
    grad_log_a: Array,
    grad_initial: Array,
    grad_reset: Array,
) -> None:
    """dc_t = a_{t+1} * dc_{t+1} + grad_c_t from the end on; then dz = dc, dlog_a = a_t * dc_t * c_{t-1}.

    `states` is c before rounding. grad_log_a is [L, tiles of all heads] or [L, H, P]; grad_reset is [N, H, P], the
    share of every sequence.
    """
    n, row = task // groups, heads * channels
    first, last = _group(task % groups, groups, heads, channels)
    tiles = heads * ((channels + TILE - 1) // TILE)
    per_head = a.size != grad_c.size
    start, stop = bounds[n], bounds[n + 1]
    slope = np.empty((last - first) * TILE, states.dtype)
    lost = np.empty((last - first) * TILE, states.dtype)
    zero = states.dtype.type(0)
    for tile in range(first, last):
        _h, column, width = _place(tile, channels)
        here, own = (tile - first) * TILE, n * row + column
        _copy(slope, here, grad_final, own, width)
        _copy(lost, here, zero, 0, width)
        _copy(grad_reset, own, zero, 0, width)
        _copy(grad_initial, own, zero, 0, width)
        if start == stop:
            _copy(grad_initial, own, grad_final, own, width)
    first_head, column, _width = _place(first, channels)
    first_channel = column - first_head * channels
    for t in range(stop - 1, start - 1, -1):
        restart = reset.size != 0 and reset[t]
        h, p = first_head, first_channel
        for tile in range(first, last):
            width, column = min(TILE, channels - p), h * channels + p
            here, at, own = (tile - first) * TILE, t * row + column, n * row + column
            gate, out = (t * heads + h, t * tiles + tile) if per_head else (at, at)
            after = gate + heads if per_head else gate + row
            is_last = t + 1 == stop
            _step_back(is_last, per_head, a, a_minus_1, after, slope, lost, here, grad_c, at, grad_z, at, width)
            if restart:
                _gate_slope(grad_log_a, out, a, gate, per_head, slope, here, reset_state, column, width)
                _add_decayed(grad_reset, own, a, gate, per_head, slope, here, width)
                _copy(slope, here, zero, 0, width)
                _copy(lost, here, zero, 0, width)
            elif t == start:
                _gate_slope(grad_log_a, out, a, gate, per_head, slope, here, initial_state, own, width)
                _add_decayed(grad_initial, own, a, gate, per_head, slope, here, width)
            else:
                _gate_slope(grad_log_a, out, a, gate, per_head, slope, here, states, at - row, width)
            h, p = (h, p + TILE) if p + TILE < channels else (h + 1, 0)


@_inner(fastmath={"contract", "reassoc"})
def _moments(x: Array, at: int, width: int, eps: float) -> tuple[Any, Any]:
    """Mean of a row and 1 / sqrt(variance + eps)."""
    number = x.dtype.type
    total, square = number(0), number(0)
    for i in range(width):
        total += _load(x, at + i)
    mean = total / number(width)
    for i in range(width):
        off = _load(x, at + i) - mean
        square += off * off
    return mean, number(1) / np.sqrt(square / number(width) + number(eps))


@_inner()
def _normalise(
    c: Array, here: int, weight: Any, bias: Any, eps: float, branch: Array, y: Array, at: int, width: int
) -> None:
    """y <- ((c - mean) * scale * weight + bias) * branch over a row; an empty `branch` is 1. c is lost."""
    mean, scale = _moments(c, here, width, eps)
    scale *= weight
    for i in range(width):
        _store(c, here + i, (_load(c, here + i) - mean) * scale + bias)
    if branch.size != 0:
        for i in range(width):
            _store(c, here + i, _load(c, here + i) * _load(branch, at + i))
    _copy(y, at, c, here, width)


@_inner(fastmath={"contract", "reassoc"})
def _normalise_back(
    c: Array,
    c_at: int,
    weight: Any,
    bias: Any,
    eps: float,
    branch: Array,
    grad_y: Array,
    grad_branch: Array,
    at: int,
    normed: Array,
    slope: Array,
    width: int,
) -> tuple[Any, Any]:
    """slope <- the gradient of c, and branch's to grad_branch; returns those of weight and bias. `normed` is scratch.

    With x = (c - mean) * scale and g the gradient of x: dc = scale * (g - mean(g) - x * mean(g * x)) (Ba, Kiros &
    Hinton 2016, arXiv:1607.06450).
    """
    mean, scale = _moments(c, c_at, width, eps)
    for i in range(width):
        _store(normed, i, (_load(c, c_at + i) - mean) * scale)
    if branch.size == 0:
        for i in range(width):
            _store(slope, i, _load(grad_y, at + i))
    else:
        for i in range(width):
            above = _load(grad_y, at + i)
            _store(grad_branch, at + i, above * (_load(normed, i) * weight + bias))
            _store(slope, i, above * _load(branch, at + i))
    along = _dot(slope, 0, normed, 0, width)
    total = slope.dtype.type(0)
    for i in range(width):
        total += _load(slope, i)
    mean_slope, mean_along = total / slope.dtype.type(width), along / slope.dtype.type(width)
    scale *= weight
    for i in range(width):
        _store(slope, i, (_load(slope, i) - mean_slope - _load(normed, i) * mean_along) * scale)
    return along, total


@_inner()
def _mix_forward_task(
    task: Any,
    groups: int,
    heads: int,
    channels: int,
    z: Array,
    a: Array,
    a_minus_1: Array,
    bounds: Array,
    initial_state: Array,
    reset: Array,
    reset_state: Array,
    weight: Array,
    bias: Array,
    eps: float,
    branch: Array,
    y: Array,
    final_state: Array,
    saved: Array,
) -> None:
    """The scan, and every row normalised and multiplied as soon as it is there.

    Groups are of whole heads. `saved` gets the state before every SAVE_EVERY-th step of a sequence.
    """
    n, row = task // groups, heads * channels
    first, last = _group(task % groups, groups, heads, 1)
    start, side, size = bounds[n], first * channels, (last - first) * channels
    state, lost = np.empty(size, final_state.dtype), np.zeros(size, final_state.dtype)
    c = np.empty(size, final_state.dtype)
    _copy(state, 0, initial_state, n * row + side, size)
    for t in range(start, bounds[n + 1]):
        restart = reset.size != 0 and reset[t]
        if (t - start) % SAVE_EVERY == 0:
            _copy(saved, (_slot(start, n) + (t - start) // SAVE_EVERY) * row + side, state, 0, size)
        for h in range(first, last):
            here, column = (h - first) * channels, h * channels
            at = t * row + column
            _step(t, restart, h, heads, column, channels, z, at, a, a_minus_1, reset_state, state, lost, here, c, here)
            _normalise(c, here, weight[h], bias[h], eps, branch, y, at, channels)
    _copy(final_state, n * row + side, state, 0, size)


@_inner()
def _mix_backward_task(
    task: Any,
    groups: int,
    heads: int,
    channels: int,
    grad_y: Array,
    grad_final: Array,
    saved: Array,
    z: Array,
    a: Array,
    a_minus_1: Array,
    bounds: Array,
    initial_state: Array,  # noqa: ARG001
    reset: Array,
    reset_state: Array,
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
) -> None:
    """From the end on, SAVE_EVERY steps at a time: c again from the saved state, then the recurrence reversed.

    grad_log_a is like `a`; grad_weight and grad_bias are [N, H] and grad_reset [N, H, P], the shares of every
    sequence. Row 0 of `states` is the state before the steps, row i + 1 that after step i of them.
    """
    n, row = task // groups, heads * channels
    first, last = _group(task % groups, groups, heads, 1)
    start, stop, side, size = bounds[n], bounds[n + 1], first * channels, (last - first) * channels
    own, per_head, zero = n * row + side, a.size != z.size, saved.dtype.type(0)
    states = np.empty((SAVE_EVERY + 1) * size, saved.dtype)
    state, lost = np.empty(size, saved.dtype), np.empty(size, saved.dtype)
    slope, slope_lost = np.empty(size, saved.dtype), np.zeros(size, saved.dtype)
    normed, add = np.empty(channels, saved.dtype), np.empty(channels, saved.dtype)
    _copy(slope, 0, grad_final, own, size)
    _copy(grad_reset, own, zero, 0, size)
    if start == stop:
        _copy(grad_initial, own, grad_final, own, size)
    else:
        _copy(grad_initial, own, zero, 0, size)
    for h in range(first, last):
        grad_weight[n * heads + h] = grad_bias[n * heads + h] = 0.0
    for part in range((stop - start + SAVE_EVERY - 1) // SAVE_EVERY - 1, -1, -1):
        begin = start + part * SAVE_EVERY
        end = min(begin + SAVE_EVERY, stop)
        _copy(states, 0, saved, (_slot(start, n) + part) * row + side, size)
        _copy(state, 0, states, 0, size)
        _copy(lost, 0, zero, 0, size)
        for t in range(begin, end):
            restart = reset.size != 0 and reset[t]
            for h in range(first, last):
                here, column = (h - first) * channels, h * channels
                at, to = t * row + column, (t - begin + 1) * size + here
                _step(
                    t, restart, h, heads, column, channels, z, at, a, a_minus_1, reset_state,
                    state, lost, here, states, to,
                )  # fmt: skip
        for t in range(end - 1, begin - 1, -1):
            restart = reset.size != 0 and reset[t]
            for h in range(first, last):
                here, column = (h - first) * channels, h * channels
                at, before = t * row + column, (t - begin) * size + here
                gate = t * heads + h if per_head else at
                along, total = _normalise_back(
                    states,
                    before + size,
                    weight[h],
                    bias[h],
                    eps,
                    branch,
                    grad_y,
                    grad_branch,
                    at,
                    normed,
                    add,
                    channels,
                )
                grad_weight[n * heads + h] += along
                grad_bias[n * heads + h] += total
                after = gate + heads if per_head else gate + row
                is_last = t + 1 == stop
                _step_back(
                    is_last, per_head, a, a_minus_1, after, slope, slope_lost, here, add, 0, grad_z, at, channels
                )
                if restart:
                    _gate_slope(grad_log_a, gate, a, gate, per_head, slope, here, reset_state, column, channels)
                    _add_decayed(grad_reset, n * row + column, a, gate, per_head, slope, here, channels)
                    _copy(slope, here, zero, 0, channels)
                    _copy(slope_lost, here, zero, 0, channels)
                else:
                    _gate_slope(grad_log_a, gate, a, gate, per_head, slope, here, states, before, channels)
                    if t == start:
                        _add_decayed(grad_initial, n * row + column, a, gate, per_head, slope, here, channels)


@_kernel()
def forward_serial(tasks: int, *arguments: Any) -> None:
    for task in range(tasks):
        _forward_task(task, *arguments)


@_kernel(parallel=True)
def forward_parallel(tasks: int, *arguments: Any) -> None:
    for task in numba.prange(tasks):
        # prange counts in unsigned numbers, for which the task would be compiled a second time.
        _forward_task(np.int64(task), *arguments)


@_kernel()
def backward_serial(tasks: int, *arguments: Any) -> None:
    for task in range(tasks):
        _backward_task(task, *arguments)


@_kernel(parallel=True)
def backward_parallel(tasks: int, *arguments: Any) -> None:
    for task in numba.prange(tasks):
        _backward_task(np.int64(task), *arguments)


@_kernel()
def mix_forward_serial(tasks: int, *arguments: Any) -> None:
    for task in range(tasks):
        _mix_forward_task(task, *arguments)


@_kernel(parallel=True)
def mix_forward_parallel(tasks: int, *arguments: Any) -> None:
    for task in numba.prange(tasks):
        _mix_forward_task(np.int64(task), *arguments)


@_kernel()
def mix_backward_serial(tasks: int, *arguments: Any) -> None:
    for task in range(tasks):
        _mix_backward_task(task, *arguments)


@_kernel(parallel=True)
def mix_backward_parallel(tasks: int, *arguments: Any) -> None:
    for task in numba.prange(tasks):
        _mix_backward_task(np.int64(task), *arguments)
