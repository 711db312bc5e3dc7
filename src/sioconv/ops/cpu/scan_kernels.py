"""The kernels of the `cpu` backend: the recurrence in one pass over time, forward and backward, threads over tasks.

Arrays come flattened; the shapes below are those they had. All sequences lie one after the other in one line of
L positions, sequence n from `bounds[n]` to `bounds[n + 1]`, so that a batch and a packed row are the same thing.
bfloat16 arrives as its bits (`vectors`). A task is one sequence and one group of strips, a strip being as
many channels of one head as a vector has lanes. Tasks write disjoint memory and no sum crosses a strip, so results
don't depend on the number of threads or groups.

Time goes in blocks of BLOCK steps: within one, a strip's state stays in registers, while the block's rows, which are
read from memory once, stay in the first-level cache for the other strips.

Three arguments are there for their type, which chooses what is compiled: `pieces`, a tuple as long as a vector is wide;
`edge`, None where strips divide a head evenly, so that no vector needs a mask; and `per_channel`, None for one gate
per head.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from sioconv.ops.cpu.jit import inner, kernel
from sioconv.ops.cpu.vectors import (
    PIECE,
    decays,
    finish_streams,
    first_lanes,
    lane_sum,
    load,
    select,
    splat,
    store,
    stream,
    zeros,
)

BLOCK = 64
Array = np.ndarray[Any, Any]


class Line(NamedTuple):
    """What the kernels know of the sequences."""

    log_a: Array  # [L, H] or [L, H, P]
    bounds: Array  # [N + 1] int64
    initial_state: Array  # [N, H, P]
    reset: Array  # [L] bool, empty for none
    reset_state: Array  # [H, P]


class Place(NamedTuple):
    """The part of a row [H, P] that a strip is."""

    tile: int  # its number
    head: int
    column: int  # of its first channel in the row
    width: int  # channels


class Table(NamedTuple):
    """The decays of a block of steps where there is one per head, [BLOCK + 1, H] each."""

    decay: Array
    decrement: Array


@inner
def width_of(array: Array, pieces: Any) -> int:
    """How many of the array's numbers a vector holds."""
    return len(pieces) * PIECE // array.itemsize


@inner
def put(result: Array, at: int, mask: Any, value: Any, streams: bool) -> None:
    """Stores a vector, past the caches where that is wanted and the vector whole."""
    if mask is None and streams:
        stream(result, at, value)
    else:
        store(result, at, mask, value)


@inner
def strips_of(channels: int, width: int) -> int:
    """Strips per head, of `width` channels at most."""
    return (channels + width - 1) // width


@inner
def place_of(tile: int, channels: int, width: int) -> Place:
    """Where strip number `tile` of a row is."""
    strips = strips_of(channels, width)
    head, first = tile // strips, tile % strips * width
    return Place(tile, head, head * channels + first, min(width, channels - first))


@inner
def mask_of(edge: Any, place: Place, like: Any) -> Any:
    """Which lanes of a strip's vectors hold channels; None for all."""
    return first_lanes(edge, place.width, like)


@inner
def new_table(like: Array, heads: int, pieces: Any) -> Table:
    """Room for the gates of a block of steps, with space for a vector to write beyond the last."""
    size = (BLOCK + 1) * heads + width_of(like, pieces)
    return Table(np.empty(size, like.dtype), np.empty(size, like.dtype))


@inner
def fill_table(
    table: Table,
    log_a: Array,
    heads: int,
    first: int,
    last: int,
    begin: int,
    end: int,
    pieces: Any,
    per_channel: Any,
) -> None:
    """The decays of the steps begin … end - 1 and the heads first … last - 1."""
    if per_channel is None:
        like = zeros(log_a, pieces)
        width = width_of(log_a, pieces)
        whole = first == 0 and last == heads
        rows = 1 if whole else end - begin
        count = (end - begin) * heads if whole else last - first
        for row in range(rows):
            for i in range(0, count, width):
                mask = first_lanes(True, count - i, like)
                decay, decrement = decays(load(log_a, (begin + row) * heads + first + i, mask, pieces))
                # What stands beyond the last is overwritten by the next row, or not read.
                store(table.decay, row * heads + first + i, None, decay)
                store(table.decrement, row * heads + first + i, None, decrement)


@inner
def gate(
    table: Table, log_a: Array, row: int, at: int, place: Place, heads: int, mask: Any, pieces: Any, per_channel: Any
) -> Any:
    """(a, a - 1) as vectors: of step `row` of the block for a head's gate, or of the channels `at`."""
    if per_channel is None:
        like, index = zeros(log_a, pieces), np.uint64(row * heads + place.head)
        return splat(table.decay[index], like), splat(table.decrement[index], like)
    return decays(load(log_a, at, mask, pieces))


@inner
def advance(state: Any, lost: Any, decay: Any, decrement: Any, add: Any) -> Any:
    """a*state + add, and what rounding took from it; `lost` is what it took from `state` so far.

    Slow gates keep the state and add (a - 1)*state, fast ones multiply by a: each where it is exact. What is
    kept and what is new are added by an exact two-sum (Knuth, The Art of Computer Programming 2, 4.2.2,
    theorem B).
    """
    slow = decay > 0.5
    kept = select(slow, state, splat(0.0, state))
    new = select(slow, decrement, decay) * state + (decay * lost + add)
    total = kept + new
    back = total - kept
    return total, (kept - (total - back)) + (new - back)


@inner
def forward_strip(
    begin: int,
    end: int,
    row: int,
    place: Place,
    mask: Any,
    pieces: Any,
    heads: int,
    z: Array,
    line: Line,
    table: Table,
    per_channel: Any,
    state: Array,
    lost: Array,
    here: int,
    out: Array,
    out_at: int,
    out_step: int,
    streams: bool,
) -> None:
    """The steps begin … end - 1 of a strip; its state, `state` and `lost` at `here`, is written to `out` after each."""
    c, less = load(state, here, None, pieces), load(lost, here, None, pieces)
    for t in range(begin, end):
        if line.reset.size != 0 and line.reset[np.uint64(t)]:
            c, less = load(line.reset_state, place.column, mask, pieces), zeros(state, pieces)
        at = t * row + place.column
        decay, decrement = gate(table, line.log_a, t - begin, at, place, heads, mask, pieces, per_channel)
        c, less = advance(c, less, decay, decrement, load(z, at, mask, pieces))
        put(out, out_at + (t - begin) * out_step, mask, c, streams)
    store(state, here, None, c)
    store(lost, here, None, less)


@inner
def backward_strip(
    begin: int,
    end: int,
    start: int,
    stop: int,
    row: int,
    n: int,
    place: Place,
    mask: Any,
    pieces: Any,
    heads: int,
    tiles: int,
    line: Line,
    table: Table,
    per_channel: Any,
    up: Array,
    up_at: int,
    up_step: int,
    before: Array,
    before_at: int,
    before_step: int,
    slope: Array,
    lost: Array,
    here: int,
    grad_z: Array,
    grad_log_a: Array,
    grad_initial: Array,
    grad_reset: Array,
    streams: bool,
) -> None:
    """The steps end - 1 … begin of a strip of sequence n: dc_t = a_{t+1} * dc_{t+1} + up_t, dz = dc.

    `slope` and `lost` at `here` are dc of the step after the block. Row t - begin of `up` is the gradient of c_t, that
    of `before` is c_{t-1}. A gate's gradient is a_t * dc_t * c_{t-1}, per head its sum over the strip: grad_log_a is
    [L, tiles] or [L, H, P]; grad_reset is [N, H, P].
    """
    dc, less = load(slope, here, None, pieces), load(lost, here, None, pieces)
    own = n * row + place.column
    keep, nothing = splat(1.0, dc), splat(0.0, dc)
    if end == stop or (line.reset.size != 0 and line.reset[np.uint64(end)]):
        decay, decrement = keep, nothing
    else:
        at = end * row + place.column
        decay, decrement = gate(table, line.log_a, end - begin, at, place, heads, mask, pieces, per_channel)
    for t in range(end - 1, begin - 1, -1):
        at, step = t * row + place.column, t - begin
        dc, less = advance(dc, less, decay, decrement, load(up, up_at + step * up_step, mask, pieces))
        put(grad_z, at, mask, dc, streams)
        decay, decrement = gate(table, line.log_a, step, at, place, heads, mask, pieces, per_channel)
        restart = line.reset.size != 0 and line.reset[np.uint64(t)]
        if restart:
            c = load(line.reset_state, place.column, mask, pieces)
        elif t == start:
            c = load(line.initial_state, own, mask, pieces)
        else:
            c = load(before, before_at + step * before_step, mask, pieces)
        if per_channel is None:
            index = np.uint64(step * heads + place.head)
            grad_log_a[np.uint64(t * tiles + place.tile)] = table.decay[index] * lane_sum(dc * c)
        else:
            store(grad_log_a, at, mask, decay * dc * c)
        if restart:
            store(grad_reset, own, mask, load(grad_reset, own, mask, pieces) + decay * dc)
            dc, less = zeros(slope, pieces), zeros(slope, pieces)
            decay, decrement = keep, nothing  # this document's gate, should it be NaN, makes NaN of a zero too
        elif t == start:
            store(grad_initial, own, mask, decay * dc)
    store(slope, here, None, dc)
    store(lost, here, None, less)


@inner
def saved_row(start: int, n: int, block: int) -> int:
    """The row of `saved` [L // BLOCK + N, H, P] with the state before block number `block` of sequence n."""
    return start // BLOCK + n + block


@inner
def read_strips(
    first: int, last: int, channels: int, pieces: Any, edge: Any, rows: Array, at: int, states: Array
) -> None:
    """states <- the strips first … last - 1 of the row [H, P] at `at`, each filled up to a whole vector with zeros."""
    like, width = zeros(states, pieces), width_of(states, pieces)
    for tile in range(first, last):
        place = place_of(tile, channels, width)
        strip = load(rows, at + place.column, mask_of(edge, place, like), pieces)
        store(states, (tile - first) * width, None, strip)


@inner
def write_strips(
    first: int, last: int, channels: int, pieces: Any, edge: Any, states: Array, rows: Array, at: int
) -> None:
    """The reverse of `read_strips`."""
    like, width = zeros(states, pieces), width_of(states, pieces)
    for tile in range(first, last):
        place = place_of(tile, channels, width)
        strip = load(states, (tile - first) * width, None, pieces)
        store(rows, at + place.column, mask_of(edge, place, like), strip)


@inner
def begin_gradients(
    first: int,
    last: int,
    channels: int,
    at: int,
    empty: bool,
    pieces: Any,
    edge: Any,
    grad_final: Array,
    slope: Array,
    nothing: Array,
    grad_initial: Array,
    grad_reset: Array,
) -> None:
    """What the gradients of the sequence whose row [H, P] is at `at` are before its last step; `nothing` is zeros."""
    read_strips(first, last, channels, pieces, edge, grad_final, at, slope)
    write_strips(first, last, channels, pieces, edge, nothing, grad_reset, at)
    write_strips(first, last, channels, pieces, edge, slope if empty else nothing, grad_initial, at)


@inner
def heads_of(first: int, last: int, channels: int, width: int) -> tuple[int, int]:
    """The first and the last + 1 head of the strips first … last - 1."""
    strips = strips_of(channels, width)
    return first // strips, (last - 1) // strips + 1


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
    c: Array,
    final_state: Array,
    saved: Any,
    streams: bool,
) -> None:
    """`saved`, where it isn't None, gets the state before every block."""
    n, row = task // groups, heads * channels
    like, width = zeros(final_state, pieces), width_of(final_state, pieces)
    tiles = heads * strips_of(channels, width)
    first, last = tiles * (task % groups) // groups, tiles * (task % groups + 1) // groups
    first_head, last_head = heads_of(first, last, channels, width)
    state = np.zeros((last - first) * width, final_state.dtype)
    lost = np.zeros((last - first) * width, final_state.dtype)
    table = new_table(final_state, heads, pieces)
    start, stop = line.bounds[n], line.bounds[n + 1]
    read_strips(first, last, channels, pieces, edge, line.initial_state, n * row, state)
    for begin in range(start, stop, BLOCK):
        end = min(begin + BLOCK, stop)
        fill_table(table, line.log_a, heads, first_head, last_head, begin, end, pieces, per_channel)
        for tile in range(first, last):
            place, here = place_of(tile, channels, width), (tile - first) * width
            mask, at = mask_of(edge, place, like), begin * row + place.column
            if saved is not None:
                slot = saved_row(start, n, (begin - start) // BLOCK) * row + place.column
                store(saved, slot, mask, load(state, here, None, pieces))
            forward_strip(
                begin, end, row, place, mask, pieces, heads, z, line, table, per_channel,
                state, lost, here, c, at, row, streams,
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
    grad_c: Array,
    grad_final: Array,
    source: Array,
    saved: Any,
    line: Line,
    grad_z: Array,
    grad_log_a: Array,
    grad_initial: Array,
    grad_reset: Array,
    streams: bool,
) -> None:
    """`source` is c where `saved` is None; else it is z, from which c is computed again, block by block."""
    n, row = task // groups, heads * channels
    like, width = zeros(grad_initial, pieces), width_of(grad_initial, pieces)
    tiles = heads * strips_of(channels, width)
    first, last = tiles * (task % groups) // groups, tiles * (task % groups + 1) // groups
    first_head, last_head = heads_of(first, last, channels, width)
    slope = np.zeros((last - first) * width, grad_initial.dtype)
    lost = np.zeros((last - first) * width, grad_initial.dtype)
    start, stop = line.bounds[n], line.bounds[n + 1]
    begin_gradients(
        first, last, channels, n * row, start == stop, pieces, edge, grad_final, slope, lost, grad_initial, grad_reset
    )
    table = new_table(grad_initial, heads, pieces)
    state, state_lost = np.zeros(width, grad_initial.dtype), np.zeros(width, grad_initial.dtype)
    again = np.zeros((BLOCK + 1) * width, grad_initial.dtype)
    for block in range((stop - start + BLOCK - 1) // BLOCK - 1, -1, -1):
        begin = start + block * BLOCK
        end = min(begin + BLOCK, stop)
        fill_table(table, line.log_a, heads, first_head, last_head, begin, min(end + 1, stop), pieces, per_channel)
        for tile in range(first, last):
            place, here = place_of(tile, channels, width), (tile - first) * width
            mask, at = mask_of(edge, place, like), begin * row + place.column
            if saved is None:
                backward_strip(
                    begin, end, start, stop, row, n, place, mask, pieces, heads, tiles, line, table, per_channel,
                    grad_c, at, row, source, at - row, row, slope, lost, here,
                    grad_z, grad_log_a, grad_initial, grad_reset, streams,
                )  # fmt: skip
            else:
                slot = saved_row(start, n, block) * row + place.column
                store(state, 0, None, load(saved, slot, mask, pieces))
                store(state_lost, 0, None, like)
                store(again, 0, None, load(state, 0, None, pieces))
                forward_strip(
                    begin, end, row, place, mask, pieces, heads, source, line, table, per_channel,
                    state, state_lost, 0, again, width, width, False,
                )  # fmt: skip
                backward_strip(
                    begin, end, start, stop, row, n, place, mask, pieces, heads, tiles, line, table, per_channel,
                    grad_c, at, row, again, 0, width, slope, lost, here,
                    grad_z, grad_log_a, grad_initial, grad_reset, streams,
                )  # fmt: skip
    if streams:
        finish_streams()


def _entries() -> tuple[Any, Any, Any, Any]:
    """The kernels as Python calls them."""

    @kernel()
    def forward_serial(
        tasks, groups, heads, channels, pieces, edge, per_channel,
        z, log_a, bounds, initial_state, reset, reset_state, c, final_state, saved, streams,
    ):  # fmt: skip
        line = Line(log_a, bounds, initial_state, reset, reset_state)
        for task in range(tasks):
            _forward_task(
                task, groups, heads, channels, pieces, edge, per_channel, z, line, c, final_state, saved, streams
            )

    @kernel(parallel=True)
    def forward_parallel(
        tasks, groups, heads, channels, pieces, edge, per_channel,
        z, log_a, bounds, initial_state, reset, reset_state, c, final_state, saved, streams,
    ):  # fmt: skip
        for task in numba.prange(tasks):
            # prange counts in unsigned numbers, for which the task would be compiled a second time.
            line = Line(log_a, bounds, initial_state, reset, reset_state)
            _forward_task(
                np.int64(task),
                groups,
                heads,
                channels,
                pieces,
                edge,
                per_channel,
                z,
                line,
                c,
                final_state,
                saved,
                streams,
            )

    @kernel()
    def backward_serial(
        tasks, groups, heads, channels, pieces, edge, per_channel,
        grad_c, grad_final, source, saved, log_a, bounds, initial_state, reset, reset_state,
        grad_z, grad_log_a, grad_initial, grad_reset, streams,
    ):  # fmt: skip
        line = Line(log_a, bounds, initial_state, reset, reset_state)
        for task in range(tasks):
            _backward_task(
                task, groups, heads, channels, pieces, edge, per_channel, grad_c, grad_final, source, saved, line,
                grad_z, grad_log_a, grad_initial, grad_reset, streams,
            )  # fmt: skip

    @kernel(parallel=True)
    def backward_parallel(
        tasks, groups, heads, channels, pieces, edge, per_channel,
        grad_c, grad_final, source, saved, log_a, bounds, initial_state, reset, reset_state,
        grad_z, grad_log_a, grad_initial, grad_reset, streams,
    ):  # fmt: skip
        for task in numba.prange(tasks):
            line = Line(log_a, bounds, initial_state, reset, reset_state)
            _backward_task(
                np.int64(task), groups, heads, channels, pieces, edge, per_channel,
                grad_c, grad_final, source, saved, line, grad_z, grad_log_a, grad_initial, grad_reset, streams,
            )  # fmt: skip

    return forward_parallel, forward_serial, backward_parallel, backward_serial


forward_parallel, forward_serial, backward_parallel, backward_serial = _entries()
