"""The Triton kernels of the `triton` backend: forward and backward in chunks, the state in registers.

A row is one sequence of a batch, or the one line that holds packed sequences. A program owns one row, one head, one
tile of WIDTH channels and one chunk of time, and goes through it STEPS positions at a time: all loads of a tile are
issued first, then the state is advanced through it. With more than one chunk, `chunk_ends` finds what every chunk
adds and the log of its decay, `chunk_starts` carries these from chunk to chunk, and `forward` or `backward` runs
every chunk from the state that it starts with. The backward recurrence is the same one from the end of time on
(REVERSE), with the gate of the next position.

Where states are replaced (a reset, the first position of a packed sequence), `source` [B, T] int32 names the row of
`table` that takes the state's place before the update; -1 where the state goes on. `ends` is its mirror image for
the backward recurrence: n at the last position of sequence n, `sequences` (the row after theirs) before a reset,
else -1. Both are None for a batch without resets. Sizes that vary with the data (steps, chunks) are arguments that
cause no new compilation; offsets from a row on are 64 bits wide. Channels and positions that aren't there read as
z = 0 and log_a = 0, which leaves a state as it is.
"""

import triton
import triton.language as tl

# Above this decay, 1 is taken out of it (see `_decays`); exp(-0.5) = 0.6065.
_SLOW = tl.constexpr(0.6)


@triton.jit
def _decays(gates, STEPS: tl.constexpr):
    """For each of STEPS log gates the decay a, and what `_advance` multiplies the state by.

    That is a - 1 for slow gates and a for fast ones, see `sioconv.ops.gates`: each form is used where it is exact,
    though the border lies a little lower here. a - 1 is expm1(log_a), log_a >= -0.52, by its Taylor series
    x + x * (x/2 * (1 + x/3 * (1 + x/4 * ...))), good to one rounding or so.
    """
    # What is left out is x**TERMS / (TERMS + 1)! relative to x.
    TERMS: tl.constexpr = 15 if gates[0].dtype == tl.float64 else 8
    decays = ()
    for k in tl.static_range(STEPS):
        x = gates[k]
        a = tl.exp(x)
        series = x * (1.0 / TERMS)
        for n in tl.static_range(TERMS - 2):
            series = (series + 1.0) * (x * (1.0 / (TERMS - 1 - n)))
        decays += ((a, tl.where(a > _SLOW, series * x + x, a)),)
    return decays


@triton.jit
def _advance(state, lost, decay, add):
    """state <- a*state + add; `lost` is what rounding took from `state` so far; `decay` comes from `_decays`.

    What is kept and what is new are added by an exact two-sum (Knuth, The Art of Computer Programming 2, 4.2.2,
    theorem B).
    """
    a, part = decay
    kept = tl.where(a > _SLOW, state, 0.0)
    new = part * state + (a * lost + add.to(state.dtype))
    total = kept + new
    back = total - kept
    return total, (kept - (total - back)) + (new - back)


@triton.jit
def _add_up(total, lost, gates, STEPS: tl.constexpr):
    """total <- total + STEPS log gates, each by a two-sum as in `_advance`."""
    for k in tl.static_range(STEPS):
        before = total
        total = before + gates[k]
        back = total - before
        lost += (before - (total - back)) + (gates[k] - back)
    return total, lost


@triton.jit
def _rows(pointer, STRIDE: tl.constexpr, there, mask, STEPS: tl.constexpr):
    """STEPS rows, `pointer` being a block of pointers to the first; zeros from row `there` on and outside `mask`."""
    rows = ()
    for k in tl.static_range(STEPS):
        rows += (tl.load(pointer + k * STRIDE, mask=mask & (k < there), other=0.0),)
    return rows


@triton.jit
def _marks(pointer, there, STEPS: tl.constexpr):
    """STEPS numbers of `source` or `ends`; -1 from number `there` on."""
    marks = ()
    for k in tl.static_range(STEPS):
        marks += (tl.load(pointer + k, mask=k < there, other=-1),)
    return marks


@triton.jit
def _program(chunks, HEADS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """Row, chunk, head and tile of this program. Programs that read the same memory lines are neighbours."""
    TILES: tl.constexpr = (CHANNELS + WIDTH - 1) // WIDTH
    index = tl.program_id(0)
    tile, index = index % TILES, index // TILES
    head, index = index % HEADS, index // HEADS
    return (index // chunks).to(tl.int64), (index % chunks).to(tl.int64), head, tile


@triton.jit
def _columns(head, tile, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """A tile's columns in a row of HEADS * SIZE numbers, and which of them are there; one column where SIZE is 1."""
    BLOCK: tl.constexpr = WIDTH if SIZE > 1 else 1
    channel = tl.arange(0, BLOCK) if SIZE == 1 else tile * WIDTH + tl.arange(0, BLOCK)
    return head * SIZE + channel, channel < SIZE


@triton.jit
def _replacement(table, row, SIZE: tl.constexpr, columns, mask):
    """One row of a table of rows of SIZE numbers."""
    return tl.load(table + row.to(tl.int64) * SIZE + columns, mask=mask, other=0.0)


@triton.jit(do_not_specialize=["steps", "chunks", "chunk_steps"])
def chunk_ends(
    z, log_a, source, table, local, totals, steps, chunks, chunk_steps,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, GATES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr,
    REVERSE: tl.constexpr,
):  # fmt: skip
    """The end of every chunk but the last to be run, from a zero state, and the log of the chunk's decay.

    z [B, T, H, P]; log_a [B, T, H, GATES], GATES being 1 or P; source [B, T] or None; table [rows, H, P] -> local
    [B, chunks - 1, H, P], totals [B, chunks - 1, H, GATES], in the order in which chunks are run. A total is -inf
    where a replaced state lets nothing through. With REVERSE, z is the gradient of c, and `source` is `ends`.
    """
    row, order, head, tile = _program(chunks - 1, HEADS, CHANNELS, WIDTH)
    columns, mask = _columns(head, tile, CHANNELS, WIDTH)
    gate_columns, gate_mask = _columns(head, tile, GATES, WIDTH)
    chunk = chunks - 1 - order if REVERSE else order
    begin = chunk * chunk_steps
    tiles = (tl.minimum(begin + chunk_steps, steps) - begin + STEPS - 1) // STEPS
    SHIFT: tl.constexpr = 1 if REVERSE else 0
    state = tl.zeros(columns.shape, dtype=local.dtype.element_ty)
    lost = state
    total = tl.zeros(gate_columns.shape, dtype=local.dtype.element_ty)
    total_lost = total
    replaced = begin < 0  # False, as a value of the device
    for j in range(tiles):
        first = begin + (tiles - 1 - j if REVERSE else j) * STEPS
        line = row * steps + first
        there = steps - first
        add = _rows(z + line * (HEADS * CHANNELS) + columns, HEADS * CHANNELS, there, mask, STEPS)
        gate = log_a + (line + SHIFT) * (HEADS * GATES) + gate_columns
        gates = _rows(gate, HEADS * GATES, there - SHIFT, gate_mask, STEPS)
        if source is not None:
            sources = _marks(source + line, there, STEPS)
        decays = _decays(gates, STEPS)
        total, total_lost = _add_up(total, total_lost, gates, STEPS)
        for k in tl.static_range(STEPS - 1 if REVERSE else 0, -1 if REVERSE else STEPS, -1 if REVERSE else 1):
            a, part = decays[k]
            if source is not None and sources[k] >= 0:
                replaced = True
                state = _replacement(table, sources[k], HEADS * CHANNELS, columns, mask)
                lost = tl.zeros_like(state)
                if REVERSE:  # what comes in place is the gradient at this position, undecayed
                    a, part = tl.full(a.shape, 1.0, a.dtype), tl.zeros_like(part)
            state, lost = _advance(state, lost, (a, part), add[k])
    at = row * (chunks - 1) + order
    tl.store(local + at * (HEADS * CHANNELS) + columns, state, mask=mask)
    # The sum may be -inf by itself: what is lost is then not a number.
    total = tl.where(replaced | (total == float("-inf")), float("-inf"), total + total_lost)
    tl.store(totals + at * (HEADS * GATES) + gate_columns, total, mask=gate_mask)


@triton.jit(do_not_specialize=["chunks"])
def chunk_starts(
    local, totals, initial, starts, chunks,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, GATES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """The state that every chunk starts with: starts [B, chunks, H, P] from initial [B, H, P] and `chunk_ends`."""
    row, _, head, tile = _program(1, HEADS, CHANNELS, WIDTH)
    columns, mask = _columns(head, tile, CHANNELS, WIDTH)
    gate_columns, gate_mask = _columns(head, tile, GATES, WIDTH)
    state = tl.load(initial + row * (HEADS * CHANNELS) + columns, mask=mask, other=0.0)
    lost = tl.zeros_like(state)
    for j in range((chunks + STEPS - 1) // STEPS):
        there = chunks - j * STEPS
        line = row * (chunks - 1) + j * STEPS
        add = _rows(local + line * (HEADS * CHANNELS) + columns, HEADS * CHANNELS, there - 1, mask, STEPS)
        gate = totals + line * (HEADS * GATES) + gate_columns
        gates = _rows(gate, HEADS * GATES, there - 1, gate_mask, STEPS)
        out = starts + (line + row) * (HEADS * CHANNELS) + columns
        decays = _decays(gates, STEPS)
        for k in tl.static_range(STEPS):
            tl.store(out + k * (HEADS * CHANNELS), state, mask=mask & (k < there))
            # Not even what isn't finite comes through a shut gate.
            shut = gates[k] == float("-inf")
            state = tl.where(shut, 0.0, state)
            lost = tl.where(shut, 0.0, lost)
            state, lost = _advance(state, lost, decays[k], add[k])


@triton.jit(do_not_specialize=["steps", "chunks", "chunk_steps", "sequences"])
def forward(
    z, log_a, starts, source, ends, table, c, final_state, tile_states, steps, chunks, chunk_steps, sequences,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, GATES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """c [B, T, H, P] and final_state [N, H, P]; every chunk from its `starts` [B, chunks, H, P].

    tile_states [B, ceil(T / STEPS), H, P] takes the state before every STEPS-th position for `backward`, unless it
    is None.
    """
    row, chunk, head, tile = _program(chunks, HEADS, CHANNELS, WIDTH)
    columns, mask = _columns(head, tile, CHANNELS, WIDTH)
    gate_columns, gate_mask = _columns(head, tile, GATES, WIDTH)
    begin = chunk * chunk_steps
    tiles = (tl.minimum(begin + chunk_steps, steps) - begin + STEPS - 1) // STEPS
    state = tl.load(starts + (row * chunks + chunk) * (HEADS * CHANNELS) + columns, mask=mask, other=0.0)
    lost = tl.zeros_like(state)
    for j in range(tiles):
        first = begin + j * STEPS
        line = row * steps + first
        there = steps - first
        at = line * (HEADS * CHANNELS) + columns
        add = _rows(z + at, HEADS * CHANNELS, there, mask, STEPS)
        gate = log_a + line * (HEADS * GATES) + gate_columns
        gates = _rows(gate, HEADS * GATES, there, gate_mask, STEPS)
        if source is not None:
            sources = _marks(source + line, there, STEPS)
            last = _marks(ends + line, there, STEPS)
        if tile_states is not None:
            own = row * ((steps + STEPS - 1) // STEPS) + first // STEPS
            tl.store(tile_states + own * (HEADS * CHANNELS) + columns, state, mask=mask)
        decays = _decays(gates, STEPS)
        for k in tl.static_range(STEPS):
            if source is not None and sources[k] >= 0:
                state = _replacement(table, sources[k], HEADS * CHANNELS, columns, mask)
                lost = tl.zeros_like(state)
            state, lost = _advance(state, lost, decays[k], add[k])
            tl.store(c + at + k * (HEADS * CHANNELS), state.to(c.dtype.element_ty), mask=mask & (k < there))
            if source is not None:
                is_last = (last[k] >= 0) & (last[k] < sequences)
                tl.store(final_state + last[k].to(tl.int64) * (HEADS * CHANNELS) + columns, state, mask=mask & is_last)
    if source is None and chunk == chunks - 1:
        tl.store(final_state + row * (HEADS * CHANNELS) + columns, state, mask=mask)


@triton.jit(do_not_specialize=["steps", "chunks", "chunk_steps", "sequences"])
def backward(
    grad_c, z, log_a, starts, tile_states, source, table, ends, grad_table,
    grad_z, grad_log_a, grad_initial, grad_reset, steps, chunks, chunk_steps, sequences,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, GATES: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """dc_t = a_{t+1} * dc_{t+1} + grad_c_t from the end on; then dz = dc, dlog_a = a_t * dc_t * c_{t-1}.

    starts [B, chunks, H, P] is the gradient that every chunk starts with, in the order in which they are run.
    c_{t-1} is computed again in full precision from z and `tile_states`. grad_log_a is [B, T, H, P], or per head
    [B, T, H, tiles], each tile of channels with a sum of its own. grad_initial [N, H, P]; grad_reset [B, chunks, H, P]
    (None without `source`) is every program's share. grad_table holds the final states' gradients and a row of zeros.
    """
    TILES: tl.constexpr = (CHANNELS + WIDTH - 1) // WIDTH
    row, order, head, tile = _program(chunks, HEADS, CHANNELS, WIDTH)
    columns, mask = _columns(head, tile, CHANNELS, WIDTH)
    gate_columns, gate_mask = _columns(head, tile, GATES, WIDTH)
    chunk = chunks - 1 - order
    begin = chunk * chunk_steps
    stop = tl.minimum(begin + chunk_steps, steps)
    tiles = (stop - begin + STEPS - 1) // STEPS
    dc = tl.load(starts + (row * chunks + order) * (HEADS * CHANNELS) + columns, mask=mask, other=0.0)
    lost = tl.zeros_like(dc)
    # The decay of the position after the one at hand, and none after the last.
    after = log_a + (row * steps + stop) * (HEADS * GATES) + gate_columns
    a, part = _decays((tl.load(after, mask=gate_mask & (stop < steps), other=0.0),), 1)[0]
    flow = tl.zeros_like(dc)  # a_t * dc_t, the gradient of the state that position t started from
    reset_flow = tl.zeros_like(dc)
    for j in range(tiles):
        first = begin + (tiles - 1 - j) * STEPS
        line = row * steps + first
        there = steps - first
        at = line * (HEADS * CHANNELS) + columns
        add = _rows(z + at, HEADS * CHANNELS, there, mask, STEPS)
        ups = _rows(grad_c + at, HEADS * CHANNELS, there, mask, STEPS)
        gate = log_a + line * (HEADS * GATES) + gate_columns
        gates = _rows(gate, HEADS * GATES, there, gate_mask, STEPS)
        if source is not None:
            sources = _marks(source + line, there, STEPS)
            last = _marks(ends + line, there, STEPS)
        own = row * ((steps + STEPS - 1) // STEPS) + first // STEPS
        state = tl.load(tile_states + own * (HEADS * CHANNELS) + columns, mask=mask, other=0.0)
        state_lost = tl.zeros_like(state)
        decays = _decays(gates, STEPS)
        before = ()
        for k in tl.static_range(STEPS):
            if source is not None and sources[k] >= 0:
                state = _replacement(table, sources[k], HEADS * CHANNELS, columns, mask)
                state_lost = tl.zeros_like(state)
            before += (state,)
            state, state_lost = _advance(state, state_lost, decays[k], add[k])
        for k in tl.static_range(STEPS - 1, -1, -1):
            if source is not None and last[k] >= 0:
                dc = _replacement(grad_table, last[k], HEADS * CHANNELS, columns, mask)
                lost = tl.zeros_like(dc)
                a, part = tl.full(a.shape, 1.0, a.dtype), tl.zeros_like(part)
            dc, lost = _advance(dc, lost, (a, part), ups[k])
            tl.store(grad_z + at + k * (HEADS * CHANNELS), dc.to(grad_z.dtype.element_ty), mask=mask & (k < there))
            a, part = decays[k]
            flow = a * dc
            if GATES == 1:
                gate_sum = tl.sum(flow * before[k], axis=0)
                tl.store(grad_log_a + ((line + k) * HEADS + head) * TILES + tile, gate_sum, mask=k < there)
            else:
                tl.store(grad_log_a + at + k * (HEADS * CHANNELS), flow * before[k], mask=mask & (k < there))
            if source is not None:
                is_first = (sources[k] >= 0) & (sources[k] < sequences)
                tl.store(
                    grad_initial + sources[k].to(tl.int64) * (HEADS * CHANNELS) + columns, flow, mask=mask & is_first
                )
                reset_flow += tl.where(sources[k] == sequences, flow, 0.0)
    if source is not None:
        tl.store(grad_reset + (row * chunks + order) * (HEADS * CHANNELS) + columns, reset_flow, mask=mask)
    elif chunk == 0:
        tl.store(grad_initial + row * (HEADS * CHANNELS) + columns, flow, mask=mask)
