"""The kernels of the `cpu` backend: the recurrence in one pass over time, forward and backward, threads over tasks.

Arrays come flattened; the shapes below are those they had. All sequences lie one after the other in one line of
L positions, sequence n from `bounds[n]` to `bounds[n + 1]`, so that a batch and a packed row are the same thing.
bfloat16 arrives as its bits (`vectors`). A task is one sequence and one group of strips, a strip being as
many channels of one head as a vector has lanes. Tasks write disjoint memory and no sum crosses a strip, so results
don't depend on the number of threads or groups.

Time goes in blocks of BLOCK steps: within one, a strip's state stays in registers, while the block's rows, which are
read from memory once, stay in the first-level cache for the other strips.

What travels together is in `structures`.
"""

from typing import Any

import numba
import numpy as np

from sioconv.ops.cpu.jit import inner, kernel
from sioconv.ops.cpu.structures import Array, Block, Carried, Cut, Gradients, Line, Place, Rows, Share, Table
from sioconv.ops.cpu.vectors import (
    REGISTER,
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


@inner
def width_of(array: Array, registers: Any) -> int:
    """How many of the array's numbers a vector holds."""
    return len(registers) * REGISTER // array.itemsize


@inner
def put(result: Array, at: int, mask: Any, value: Any, streams: bool) -> None:
    """Stores a vector, past the caches where that is wanted and the vector whole."""
    if mask is None and streams:
        stream(result, at, value)
    else:
        store(result, at, mask, value)


@inner
def strips_of(cut: Cut, width: int) -> int:
    """Strips per head, of `width` channels at most."""
    return (cut.channels + width - 1) // width


@inner
def place_of(tile: int, cut: Cut, like: Any, width: int) -> Place:
    """Where strip number `tile` of a row is; `like` is a vector of `width` lanes."""
    strips = strips_of(cut, width)
    head, first = tile // strips, tile % strips * width
    mask = first_lanes(cut.edge, min(width, cut.channels - first), like)
    return Place(tile, head, head * cut.channels + first, mask)


@inner
def new_carried(count: int, like: Array, width: int) -> Carried:
    """Zeros for so many strips."""
    return Carried(np.zeros(count * width, like.dtype), np.zeros(count * width, like.dtype))


@inner
def new_table(like: Array, cut: Cut) -> Table:
    """Room for the gates of a block of steps, with space for a vector to write beyond the last."""
    size = (BLOCK + 1) * cut.heads + width_of(like, cut.registers)
    return Table(np.empty(size, like.dtype), np.empty(size, like.dtype))


@inner
def fill_table(table: Table, log_a: Array, cut: Cut, first: int, last: int, block: Block) -> None:
    """The decays of a block and the heads first … last - 1."""
    if cut.per_channel is None:
        like = zeros(log_a, cut.registers)
        width = width_of(log_a, cut.registers)
        whole = first == 0 and last == cut.heads
        steps = block.end - block.begin
        rows = 1 if whole else steps
        count = steps * cut.heads if whole else last - first
        for row in range(rows):
            for i in range(0, count, width):
                mask = first_lanes(True, count - i, like)
                at = (block.begin + row) * cut.heads + first + i
                decay, decrement = decays(load(log_a, at, mask, cut.registers))
                # What stands beyond the last is overwritten by the next row, or not read.
                store(table.decay, row * cut.heads + first + i, None, decay)
                store(table.decrement, row * cut.heads + first + i, None, decrement)


@inner
def gate(table: Table, log_a: Array, row: int, at: int, place: Place, cut: Cut) -> Any:
    """(a, a - 1) as vectors: of step `row` of the block for a head's gate, or of the channels `at`."""
    if cut.per_channel is None:
        like, index = zeros(log_a, cut.registers), np.uint64(row * cut.heads + place.head)
        return splat(table.decay[index], like), splat(table.decrement[index], like)
    return decays(load(log_a, at, place.mask, cut.registers))


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
    block: Block,
    place: Place,
    cut: Cut,
    z: Array,
    line: Line,
    table: Table,
    carried: Carried,
    here: int,
    out: Rows,
    streams: bool,
) -> None:
    """The steps of a block of a strip, whose state is `carried` at `here`; it is written to `out` after each step."""
    row, registers, mask = cut.heads * cut.channels, cut.registers, place.mask
    c, lost = load(carried.state, here, None, registers), load(carried.lost, here, None, registers)
    for t in range(block.begin, block.end):
        if line.reset.size != 0 and line.reset[np.uint64(t)]:
            c, lost = load(line.reset_state, place.column, mask, registers), zeros(carried.state, registers)
        at, step = t * row + place.column, t - block.begin
        decay, decrement = gate(table, line.log_a, step, at, place, cut)
        c, lost = advance(c, lost, decay, decrement, load(z, at, mask, registers))
        put(out.array, out.at + step * out.step, mask, c, streams)
    store(carried.state, here, None, c)
    store(carried.lost, here, None, lost)


@inner
def backward_strip(
    block: Block,
    share: Share,
    place: Place,
    cut: Cut,
    line: Line,
    table: Table,
    up: Rows,
    before: Rows,
    carried: Carried,
    here: int,
    gradients: Gradients,
    streams: bool,
) -> None:
    """A block of a strip from its last step on: dc_t = a_{t+1} * dc_{t+1} + up_t, dz = dc.

    `carried` at `here` is dc of the step after the block. A row of `up` is the gradient of c_t, one of `before` is
    c_{t-1}. A gate's gradient is a_t * dc_t * c_{t-1}, per head its sum over the strip.
    """
    row, registers, mask = cut.heads * cut.channels, cut.registers, place.mask
    tiles = cut.heads * strips_of(cut, width_of(carried.state, registers))
    dc, lost = load(carried.state, here, None, registers), load(carried.lost, here, None, registers)
    own = share.n * row + place.column
    keep, nothing = splat(1.0, dc), splat(0.0, dc)
    if block.end == share.stop or (line.reset.size != 0 and line.reset[np.uint64(block.end)]):
        decay, decrement = keep, nothing
    else:
        at = block.end * row + place.column
        decay, decrement = gate(table, line.log_a, block.end - block.begin, at, place, cut)
    for t in range(block.end - 1, block.begin - 1, -1):
        at, step = t * row + place.column, t - block.begin
        dc, lost = advance(dc, lost, decay, decrement, load(up.array, up.at + step * up.step, mask, registers))
        put(gradients.z, at, mask, dc, streams)
        decay, decrement = gate(table, line.log_a, step, at, place, cut)
        restart = line.reset.size != 0 and line.reset[np.uint64(t)]
        if restart:
            c = load(line.reset_state, place.column, mask, registers)
        elif t == share.start:
            c = load(line.initial_state, own, mask, registers)
        else:
            c = load(before.array, before.at + step * before.step, mask, registers)
        if cut.per_channel is None:
            index = np.uint64(step * cut.heads + place.head)
            gradients.log_a[np.uint64(t * tiles + place.tile)] = table.decay[index] * lane_sum(dc * c)
        else:
            store(gradients.log_a, at, mask, decay * dc * c)
        if restart:
            total = load(gradients.reset_state, own, mask, registers) + decay * dc
            store(gradients.reset_state, own, mask, total)
            dc, lost = zeros(carried.state, registers), zeros(carried.state, registers)
            decay, decrement = keep, nothing  # this document's gate, should it be NaN, makes NaN of a zero too
        elif t == share.start:
            store(gradients.initial_state, own, mask, decay * dc)
    store(carried.state, here, None, dc)
    store(carried.lost, here, None, lost)


@inner
def saved_row(start: int, n: int, block: int) -> int:
    """The row of `saved` [L // BLOCK + N, H, P] with the state before block number `block` of sequence n."""
    return start // BLOCK + n + block


@inner
def read_strips(share: Share, cut: Cut, rows: Array, states: Array) -> None:
    """states <- the share's strips of row n of `rows` [N, H, P], each filled up to a whole vector with zeros."""
    like, width, row = zeros(states, cut.registers), width_of(states, cut.registers), cut.heads * cut.channels
    for tile in range(share.first, share.last):
        place = place_of(tile, cut, like, width)
        strip = load(rows, share.n * row + place.column, place.mask, cut.registers)
        store(states, (tile - share.first) * width, None, strip)


@inner
def write_strips(share: Share, cut: Cut, states: Array, rows: Array) -> None:
    """The reverse of `read_strips`."""
    like, width, row = zeros(states, cut.registers), width_of(states, cut.registers), cut.heads * cut.channels
    for tile in range(share.first, share.last):
        place = place_of(tile, cut, like, width)
        strip = load(states, (tile - share.first) * width, None, cut.registers)
        store(rows, share.n * row + place.column, place.mask, strip)


@inner
def begin_gradients(share: Share, cut: Cut, grad_final: Array, carried: Carried, gradients: Gradients) -> None:
    """What the gradients of a sequence are before its last step; `carried` is zeros, and gets that of the state."""
    read_strips(share, cut, grad_final, carried.state)
    write_strips(share, cut, carried.lost, gradients.reset_state)
    empty = share.start == share.stop
    write_strips(share, cut, carried.state if empty else carried.lost, gradients.initial_state)


@inner
def heads_of(share: Share, cut: Cut, width: int) -> tuple[int, int]:
    """The first and the last + 1 head of a share's strips."""
    strips = strips_of(cut, width)
    return share.first // strips, (share.last - 1) // strips + 1


@inner
def share_of(task: int, line: Line, cut: Cut, width: int) -> Share:
    """The strips of a task, of which a sequence has `groups`; they may cut a head."""
    n, group = task // cut.groups, task % cut.groups
    tiles = cut.heads * strips_of(cut, width)
    first, last = tiles * group // cut.groups, tiles * (group + 1) // cut.groups
    return Share(n, line.bounds[n], line.bounds[n + 1], first, last)


@inner
def _forward_task(
    task: int, cut: Cut, z: Array, line: Line, c: Array, final_state: Array, saved: Any, streams: bool
) -> None:
    """`saved`, where it isn't None, gets the state before every block."""
    row, registers = cut.heads * cut.channels, cut.registers
    like, width = zeros(final_state, registers), width_of(final_state, registers)
    share = share_of(task, line, cut, width)
    first_head, last_head = heads_of(share, cut, width)
    carried = new_carried(share.last - share.first, final_state, width)
    table = new_table(final_state, cut)
    read_strips(share, cut, line.initial_state, carried.state)
    for begin in range(share.start, share.stop, BLOCK):
        block = Block(begin, min(begin + BLOCK, share.stop))
        fill_table(table, line.log_a, cut, first_head, last_head, block)
        for tile in range(share.first, share.last):
            place, here = place_of(tile, cut, like, width), (tile - share.first) * width
            if saved is not None:
                slot = saved_row(share.start, share.n, (begin - share.start) // BLOCK) * row + place.column
                store(saved, slot, place.mask, load(carried.state, here, None, registers))
            out = Rows(c, begin * row + place.column, row)
            forward_strip(block, place, cut, z, line, table, carried, here, out, streams)
    write_strips(share, cut, carried.state, final_state)
    if streams:
        finish_streams()


@inner
def _backward_task(
    task: int,
    cut: Cut,
    grad_c: Array,
    grad_final: Array,
    source: Array,
    saved: Any,
    line: Line,
    gradients: Gradients,
    streams: bool,
) -> None:
    """`source` is c where `saved` is None; else it is z, from which c is computed again, block by block."""
    row, registers, like_array = cut.heads * cut.channels, cut.registers, gradients.initial_state
    like, width = zeros(like_array, registers), width_of(like_array, registers)
    share = share_of(task, line, cut, width)
    first_head, last_head = heads_of(share, cut, width)
    carried = new_carried(share.last - share.first, like_array, width)
    begin_gradients(share, cut, grad_final, carried, gradients)
    table = new_table(like_array, cut)
    state, again = new_carried(1, like_array, width), np.zeros((BLOCK + 1) * width, like_array.dtype)
    for number in range((share.stop - share.start + BLOCK - 1) // BLOCK - 1, -1, -1):
        begin = share.start + number * BLOCK
        block = Block(begin, min(begin + BLOCK, share.stop))
        known = Block(begin, min(block.end + 1, share.stop))
        fill_table(table, line.log_a, cut, first_head, last_head, known)
        for tile in range(share.first, share.last):
            place, here = place_of(tile, cut, like, width), (tile - share.first) * width
            at = begin * row + place.column
            up = Rows(grad_c, at, row)
            if saved is None:
                before = Rows(source, at - row, row)
                backward_strip(block, share, place, cut, line, table, up, before, carried, here, gradients, streams)
            else:
                slot = saved_row(share.start, share.n, number) * row + place.column
                store(state.state, 0, None, load(saved, slot, place.mask, registers))
                store(state.lost, 0, None, like)
                store(again, 0, None, load(state.state, 0, None, registers))
                forward_strip(block, place, cut, source, line, table, state, 0, Rows(again, width, width), False)
                before = Rows(again, 0, width)
                backward_strip(block, share, place, cut, line, table, up, before, carried, here, gradients, streams)
    if streams:
        finish_streams()


def _entries() -> tuple[Any, Any, Any, Any]:
    """The kernels as Python calls them. A loop of `prange` takes no tuple in a tuple: each makes its `Cut` itself.

    prange counts in unsigned numbers, for which a task would be compiled a second time.
    """

    @kernel()
    def forward_serial(tasks, sizes, registers, edge, per_channel, streams, line, z, result):
        groups, heads, channels = sizes
        c, final_state, saved = result
        cut = Cut(groups, heads, channels, registers, edge, per_channel)
        for task in range(tasks):
            _forward_task(task, cut, z, line, c, final_state, saved, streams)

    @kernel(parallel=True)
    def forward_parallel(tasks, sizes, registers, edge, per_channel, streams, line, z, result):
        groups, heads, channels = sizes
        c, final_state, saved = result
        for task in numba.prange(tasks):
            cut = Cut(groups, heads, channels, registers, edge, per_channel)
            _forward_task(np.int64(task), cut, z, line, c, final_state, saved, streams)

    @kernel()
    def backward_serial(tasks, sizes, registers, edge, per_channel, streams, line, given, gradients):
        groups, heads, channels = sizes
        grad_c, grad_final, source, saved = given
        cut = Cut(groups, heads, channels, registers, edge, per_channel)
        for task in range(tasks):
            _backward_task(task, cut, grad_c, grad_final, source, saved, line, gradients, streams)

    @kernel(parallel=True)
    def backward_parallel(tasks, sizes, registers, edge, per_channel, streams, line, given, gradients):
        groups, heads, channels = sizes
        grad_c, grad_final, source, saved = given
        for task in numba.prange(tasks):
            cut = Cut(groups, heads, channels, registers, edge, per_channel)
            _backward_task(np.int64(task), cut, grad_c, grad_final, source, saved, line, gradients, streams)

    return forward_parallel, forward_serial, backward_parallel, backward_serial


forward_parallel, forward_serial, backward_parallel, backward_serial = _entries()
