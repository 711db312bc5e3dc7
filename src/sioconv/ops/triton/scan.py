"""The `triton` backend: the GPU kernels as operators that autograd and torch.compile know.

z is read and c written in z's dtype, states are float32 (float64 with float64). Where batch, heads and tiles of
channels alone are too few for the device, time is cut into chunks and the scan takes three passes, see
`sioconv.ops.triton.kernels`. Triton is imported by the first call. With TRITON_INTERPRET=1 in the environment when
Python starts, Triton runs the kernels on the processor, slowly: that is how they are tested without a GPU.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sioconv.ops.eager.chunked import scan_chunked
from sioconv.ops.operators import operator
from sioconv.ops.scan_gradients import scan_gradients
from sioconv.ops.validate import check_cu_seqlens_values

# Positions that a program loads at once. The state is kept for the gradient before every STEPS-th position.
STEPS = 16
# A program is one warp with two channels a thread, so that the loads of a tile (twice as many in the backward pass)
# stay in registers.
_WIDTH = 64
# How many programs a multiprocessor needs for one pass to pay, and how many it gets otherwise. Reckoned from what a
# program has under way (2 to 8 KiB) and the latency of memory; not measured.
_ENOUGH, _WANTED = 6, 16
# Shorter chunks would spend their time on being started and chained.
_SHORTEST_CHUNK = 8 * STEPS


class Plan(NamedTuple):
    """How the work is cut: channels in a tile, positions in a chunk (a multiple of STEPS), chunks in a row."""

    width: int
    chunk_steps: int
    chunks: int


def plan(shape: tuple[int, int, int, int], dtype: torch.dtype, multiprocessors: int) -> Plan:
    """The cut for z of `shape` [B, T, H, P], no size being 0, on a device with so many multiprocessors.

    One chunk, which is one pass, wherever that gives the device enough programs: more chunks read z twice.
    """
    rows, steps, heads, channels = shape
    width = min(_WIDTH // 2 if dtype == torch.float64 else _WIDTH, 1 << (channels - 1).bit_length())
    programs = rows * heads * math.ceil(channels / width)
    chunks = 1 if programs >= _ENOUGH * multiprocessors else math.ceil(_WANTED * multiprocessors / programs)
    chunk_steps = max(_SHORTEST_CHUNK, math.ceil(steps / chunks / STEPS) * STEPS)
    return Plan(width, chunk_steps, math.ceil(steps / chunk_steps))


def scan_triton(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `sioconv.ops.backends.ScanFunction` for shapes."""
    leaves = (z, log_a, initial_state, reset_state)
    keep = torch.is_grad_enabled() and any(leaf is not None and leaf.requires_grad for leaf in leaves)
    c, final_state, _ = _forward(z, log_a, initial_state, reset, reset_state, cu_seqlens, keep)
    return c, final_state


def _plain(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
    keep: bool,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    return *scan_chunked(z, log_a, initial_state, reset, reset_state, cu_seqlens), initial_state.new_empty(0)


@operator("sioconv::scan_triton", _plain, device_types=("cuda", "cpu"))
def _forward(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """c, the final state, and with `keep` the states that the gradient needs, [B, ceil(T / STEPS), H, P]."""
    from sioconv.ops.triton import kernels as triton_kernels

    if cu_seqlens is not None:
        check_cu_seqlens_values(cu_seqlens, z.shape[1])
    z, log_a, initial_state = z.contiguous(), log_a.contiguous(), initial_state.contiguous()
    cut = _plan(z)
    source, ends = _marks(z, reset, cu_seqlens)
    table = None if source is None else _table(initial_state, reset_state)
    c = torch.empty_like(z)
    tile_states = initial_state.new_empty(_tile_states_shape(z) if keep else (0,))
    # A packed sequence may be empty: its state stays what it was.
    final_state = initial_state.clone() if cu_seqlens is not None else torch.empty_like(initial_state)
    starts = _starts(z, log_a, initial_state, source, table, cut, reverse=False)
    _launch(
        triton_kernels.forward, z, log_a, cut, cut.chunks,
        z, log_a, starts, source, ends, table, c, final_state, tile_states if keep else None,
        z.shape[1], cut.chunks, cut.chunk_steps, len(initial_state),
    )  # fmt: skip
    return c, final_state, tile_states


@_forward.register_fake
def _(
    z: Tensor,
    log_a: Tensor,  # noqa: ARG001
    initial_state: Tensor,
    reset: Tensor | None,  # noqa: ARG001
    reset_state: Tensor | None,  # noqa: ARG001
    cu_seqlens: Tensor | None,  # noqa: ARG001
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        z.new_empty(z.shape),
        initial_state.new_empty(initial_state.shape),
        initial_state.new_empty(_tile_states_shape(z) if keep else (0,)),
    )


def _plain_backward(
    grad_c: Tensor,
    grad_final: Tensor,
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
    tile_states: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    line = log_a, initial_state, reset, reset_state, cu_seqlens
    c, _ = scan_chunked(z.to(log_a.dtype), *line)
    grad_z, grad_log_a, grad_initial, grad_reset = scan_gradients(grad_c, grad_final, c, *line)
    return grad_z.to(z.dtype), grad_log_a, grad_initial, grad_reset


@operator("sioconv::scan_triton_backward", _plain_backward, device_types=("cuda", "cpu"))
def _backward(
    grad_c: Tensor,
    grad_final: Tensor,
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
    tile_states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, log_a, initial_state and reset_state."""
    from sioconv.ops.triton import kernels as triton_kernels

    if tile_states.shape != _tile_states_shape(z):
        raise RuntimeError("scan_triton was called with keep=False, which leaves nothing for the gradient")
    z, log_a, initial_state = z.contiguous(), log_a.contiguous(), initial_state.contiguous()
    grad_c, grad_final = grad_c.contiguous(), grad_final.contiguous()
    batch, steps, heads, channels = z.shape
    cut = _plan(z)
    source, ends = _marks(z, reset, cu_seqlens)
    grad_z = torch.empty_like(z)
    per_head = log_a.shape[3] == 1
    tiles = math.ceil(channels / cut.width)
    grad_log_a = log_a.new_empty((batch, steps, heads, tiles if per_head else channels))
    table = grad_table = grad_reset = None
    if source is None:
        grad_initial = torch.empty_like(initial_state)
    else:
        table, grad_table = _table(initial_state, reset_state), _table(grad_final, None)
        # The kernel writes where a sequence begins; an empty one hands on the gradient of its end.
        grad_initial = torch.zeros_like(initial_state)
        if cu_seqlens is not None:
            empty = (cu_seqlens[1:] == cu_seqlens[:-1])[:, None, None]  # [N, 1, 1]
            grad_initial = torch.where(empty, grad_final, grad_initial)
        grad_reset = initial_state.new_empty((batch, cut.chunks, heads, channels))
    starts = _starts(grad_c, log_a, grad_final, ends, grad_table, cut, reverse=True)
    _launch(
        triton_kernels.backward, z, log_a, cut, cut.chunks,
        grad_c, z, log_a, starts, tile_states, source, table, ends, grad_table,
        grad_z, grad_log_a, grad_initial, grad_reset, steps, cut.chunks, cut.chunk_steps, len(initial_state),
    )  # fmt: skip
    if per_head and tiles > 1:
        grad_log_a = grad_log_a.sum(dim=3, keepdim=True)
    no_reset = initial_state.new_zeros(initial_state.shape[1:])
    return grad_z, grad_log_a, grad_initial, no_reset if grad_reset is None else grad_reset.sum(dim=(0, 1))


@_backward.register_fake
def _(
    grad_c: Tensor,  # noqa: ARG001
    grad_final: Tensor,  # noqa: ARG001
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,  # noqa: ARG001
    reset_state: Tensor | None,  # noqa: ARG001
    cu_seqlens: Tensor | None,  # noqa: ARG001
    tile_states: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        z.new_empty(z.shape),
        log_a.new_empty(log_a.shape),
        initial_state.new_empty(initial_state.shape),
        initial_state.new_empty(initial_state.shape[1:]),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keep z and a state of every tile; from them the gates' gradient a_t * dc_t * c_{t-1} gets c unrounded."""
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:-1], output[2])


def _differentiate(
    ctx: Any,
    grad_c: Tensor | None,
    grad_final: Tensor | None,
    grad_tile_states: None,  # noqa: ARG001
) -> tuple[Tensor | None, ...]:
    z, log_a, initial_state, reset, reset_state, cu_seqlens, tile_states = ctx.saved_tensors
    grad_c = torch.zeros_like(z) if grad_c is None else grad_c
    grad_final = torch.zeros_like(initial_state) if grad_final is None else grad_final
    grad_z, grad_log_a, grad_initial, grad_reset = _backward(
        grad_c, grad_final, z, log_a, initial_state, reset, reset_state, cu_seqlens, tile_states
    )
    return grad_z, grad_log_a, grad_initial, None, None if reset_state is None else grad_reset, None, None


_forward.register_autograd(_differentiate, _save_for_backward)
_backward.differentiate_plain()


def _starts(
    z: Tensor, log_a: Tensor, initial: Tensor, source: Tensor | None, table: Tensor | None, cut: Plan, reverse: bool
) -> Tensor:
    """The state that every chunk starts with, [B, chunks, H, P] in the order of the run, from [N, H, P]."""
    from sioconv.ops.triton import kernels as triton_kernels

    if cut.chunks == 1:
        return initial
    batch, steps, heads, channels = z.shape
    local = initial.new_empty((batch, cut.chunks - 1, heads, channels))
    totals = initial.new_empty((batch, cut.chunks - 1, heads, log_a.shape[3]))
    starts = initial.new_empty((batch, cut.chunks, heads, channels))
    arguments = (z, log_a, source, table, local, totals, steps, cut.chunks, cut.chunk_steps)
    _launch(triton_kernels.chunk_ends, z, log_a, cut, cut.chunks - 1, *arguments, REVERSE=reverse)
    _launch(triton_kernels.chunk_starts, z, log_a, cut, 1, local, totals, initial, starts, cut.chunks)
    return starts


def _launch(kernel: Any, z: Tensor, log_a: Tensor, cut: Plan, chunks: int, *arguments: Any, **constants: Any) -> None:
    """Start a kernel with a program for each of so many chunks of every row, head and tile of channels of z."""
    batch, _, heads, channels = z.shape
    programs = batch * chunks * heads * math.ceil(channels / cut.width)
    sizes = {"HEADS": heads, "CHANNELS": channels, "GATES": log_a.shape[3], "WIDTH": cut.width, "STEPS": STEPS}
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        kernel[(programs,)](*arguments, **sizes, **constants, num_warps=1)


def _plan(z: Tensor) -> Plan:
    on_gpu = z.device.type == "cuda"
    multiprocessors = torch.cuda.get_device_properties(z.device).multi_processor_count if on_gpu else 1
    batch, steps, heads, channels = z.shape
    return plan((batch, steps, heads, channels), z.dtype, multiprocessors)


def _tile_states_shape(z: Tensor) -> tuple[int, int, int, int]:
    batch, steps, heads, channels = z.shape
    return batch, (steps + STEPS - 1) // STEPS, heads, channels


def _table(states: Tensor, reset_state: Tensor | None) -> Tensor:
    """What a state may be replaced by, [N + 1, H, P]: every sequence's own state, then the reset state or zero."""
    last = torch.zeros_like(states[:1]) if reset_state is None else reset_state.unsqueeze(0)
    return torch.cat([states, last])


def _marks(z: Tensor, reset: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Where states are replaced: `source` and `ends` of `sioconv.ops.triton.kernels`, None where nowhere."""
    if reset is None and cu_seqlens is None:
        return None, None
    batch, steps = z.shape[:2]
    time = torch.arange(steps, device=z.device)
    if cu_seqlens is None:
        sequences = batch
        sequence = torch.arange(batch, device=z.device)[:, None]
        first, last = time == 0, time == steps - 1
    else:
        sequences = cu_seqlens.shape[0] - 1
        bounds = cu_seqlens.long()
        sequence = torch.searchsorted(bounds[1:].contiguous(), time, right=True)[None]  # [1, T]
        first, last = time == bounds[sequence], time + 1 == bounds[sequence + 1]
    source, ends = torch.where(first, sequence, -1), torch.where(last, sequence, -1)  # [B, T]
    if reset is not None:
        before_reset = torch.nn.functional.pad(reset[:, 1:], (0, 1))
        source = source.masked_fill(reset, sequences)
        ends = ends.masked_fill(before_reset & (ends < 0), sequences)
    return source.int().contiguous(), ends.int().contiguous()
