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
Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])


# 'contract' allows fused multiply-adds and nothing that would undo the compensation in `_advance`.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}


def _inner(**options: Any) -> Callable[[F], F]:
    """numba.njit for what only other kernels call: nothing on disk, no entry for Python, so quicker to compile."""
    settings = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, **options}

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
    out: Array,
    at: int,
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
        new = part * old + (decay * _load(lost, here + i) + _load(add, at + i))
        total = kept + new
        back = total - kept
        _store(lost, here + i, (kept - (total - back)) + (new - back))
        _store(state, here + i, total)
        _store(out, at + i, total)


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
    per_head = a.size != z.size
    state = np.empty((last - first) * TILE, final_state.dtype)
    lost = np.empty((last - first) * TILE, final_state.dtype)
    zero = final_state.dtype.type(0)
    for tile in range(first, last):
        _h, column, width = _place(tile, channels)
        here = (tile - first) * TILE
        _copy(state, here, initial_state, n * row + column, width)
        _copy(lost, here, zero, 0, width)
    for t in range(bounds[n], bounds[n + 1]):
        restart = reset.size != 0 and reset[t]
        for tile in range(first, last):
            h, column, width = _place(tile, channels)
            here, at = (tile - first) * TILE, t * row + column
            if restart:
                _copy(state, here, reset_state, column, width)
                _copy(lost, here, zero, 0, width)
            if per_head:
                gate = t * heads + h
                _advance(state, lost, here, a[gate], a_minus_1[gate], 0, z, c, at, width)
            else:
                _advance(state, lost, here, a, a_minus_1, at, z, c, at, width)
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
    zero, one = states.dtype.type(0), states.dtype.type(1)
    for tile in range(first, last):
        _h, column, width = _place(tile, channels)
        here, own = (tile - first) * TILE, n * row + column
        _copy(slope, here, grad_final, own, width)
        _copy(lost, here, zero, 0, width)
        _copy(grad_reset, own, zero, 0, width)
        _copy(grad_initial, own, zero, 0, width)
        if start == stop:
            _copy(grad_initial, own, grad_final, own, width)
    for t in range(stop - 1, start - 1, -1):
        restart = reset.size != 0 and reset[t]
        for tile in range(first, last):
            h, column, width = _place(tile, channels)
            here, at, own = (tile - first) * TILE, t * row + column, n * row + column
            gate, out = (t * heads + h, t * tiles + tile) if per_head else (at, at)
            if t + 1 == stop:
                _advance(slope, lost, here, one, zero, 0, grad_c, grad_z, at, width)
            elif per_head:
                _advance(slope, lost, here, a[gate + heads], a_minus_1[gate + heads], 0, grad_c, grad_z, at, width)
            else:
                _advance(slope, lost, here, a, a_minus_1, gate + row, grad_c, grad_z, at, width)
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
