"""One sequence on several processes: the recurrence over a process group that splits T.

With D_r the decay over the whole of rank r's piece (0 if a reset lies in it) and e_r the state that the piece ends
with when it starts from zero, the state that rank r starts from is s_r = e_{r-1} + D_{r-1} * s_{r-1}: the recurrence
again, one step per rank, and the only thing that has to be exchanged. The gradients go the other way. With p_r what
the gradients of c on rank r give to s_r, the state's gradient is l_r = p_r + D_r * l_{r+1}.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sioconv.ops.gates import sum_dtype
from sioconv.ops.operators import refuse_transformed
from sioconv.ops.scan import scan
from sioconv.ops.validate import check_scan, state_dtype

# Time steps weighted at once by `_reaching_start`: its only temporaries are of this length.
BLOCK = 1024
_NAME, _INSTEAD = "scan_sequence_parallel", "call scan on the whole sequence"


def scan_sequence_parallel(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor | None = None,
    *,
    group: "dist.ProcessGroup | None",
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    output_final_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Run `scan` over a sequence whose pieces lie, in order, on the ranks of a process group.

    Every rank of the group makes the same call, with its own piece. Ranks agree in B, H, P, dtypes, the form of
    the gates, which optional arguments are given, and which arguments need gradients; T is each rank's own and may
    be 0. If one rank runs the backward pass, all must: where a rank has no loss of its own, `c.sum() * 0` is one.

    A piece is scanned twice: from zero, for the state that it ends with, then from the state that arrives.
    Adding exp(log_a_1 + ... + log_a_t) * s to the first result would move as many bytes (read and write c, instead
    of read z and write c). The second scan rounds c once instead of twice, needs no sums of log_a over time, and
    is a usual `scan` whose backward pass gives all gradients of the piece.
    Forward, every rank sends a state and a decay, B * H * (P + 1) numbers (2 * P with gates per channel);
    backward, the gradient of a state. Both are combined in float64 where the device has it.

    Args:
        z: [B, T of this rank, H, P]; float32, bfloat16, float16 or float64.
        log_a: [B, T, H] or [B, T, H, P], <= 0 (not checked); float32, or float64 with z in float64.
        initial_state: [B, H, P] the state before the first rank's piece (default 0); dtype of `log_a`. The first
            rank's values are used.
        group: the process group; None for the default one. Its backend must work on z's device.
        reset: [B, T] bool, as for `scan`, at the steps of this rank.
        reset_state: [H, P] (default 0), the same on every rank; dtype of `log_a`.
        output_final_state: also return the state after the last rank's piece.
        backend: as for `scan`, for the pieces.

    Returns:
        c [B, T, H, P] of this rank's piece in z's dtype, and the final state [B, H, P] of the whole sequence (the
        same bits on every rank) in the dtype of `log_a`, or None.

    Gradients are those of the sum of all ranks' losses; a loss on the final state counts once for each rank that
    has it. z and log_a get theirs where they are. That of `initial_state` lands on the first rank, and is zero on
    the others; that of `reset_state` is on each rank the share of its own resets. For a parameter that all ranks
    hold, sum these over the group (sum, not mean). The result can't be differentiated twice: a backward pass with
    `create_graph=True` raises RuntimeError.

    Raises:
        TypeError: an argument isn't a tensor or has the wrong dtype.
        ValueError: a shape or device doesn't fit, or this process isn't in the group.
        RuntimeError: torch.distributed isn't initialised, or `torch.func` or forward-mode differentiation is at work.
    """
    refuse_transformed(_NAME, _INSTEAD, z, log_a, initial_state, reset_state)
    check_scan(z, log_a, initial_state, reset, reset_state, None)
    rank = _rank(group)
    if initial_state is None:
        initial_state = z.new_zeros((z.shape[0], *z.shape[2:]), dtype=state_dtype(z))
    gate = log_a if log_a.dim() == 4 else log_a.unsqueeze(-1)  # [B, T, H, 1 or P]
    with torch.no_grad():
        start = initial_state if rank == 0 else torch.zeros_like(initial_state)
        _, end = scan(z, log_a, start, reset=reset, reset_state=reset_state, output_final_state=True, backend=backend)
        assert end is not None
        decay = _decay(gate, reset)
        ends, decays = _gather(torch.cat([end.to(decay.dtype), decay], dim=-1), group).tensor_split([z.shape[3]], -1)
        before, after = _carry(ends, decays, rank)
        decays = decays.clone()  # a view would keep the states in memory until the backward pass
    # Zero gradients, not None, for the initial state of the ranks that don't use it.
    start = torch.where(torch.tensor(rank == 0, device=z.device), initial_state, before.to(end.dtype))
    c, end = scan(z, log_a, start, reset=reset, reset_state=reset_state, output_final_state=True, backend=backend)
    assert end is not None
    after = after.to(end.dtype)
    c, final_state = _Join.apply(  # type: ignore[no-untyped-call]
        c, end, after if output_final_state else None, gate, reset, decays, group
    )
    return c, final_state


class _Join(torch.autograd.Function):
    """Hands c on. On the way back it fetches the gradient of the piece's last state from the ranks behind.

    The scan of the piece is differentiated after that, with the whole gradient of its last state. What it finds for
    the state that it started from has already been sent to the rank before, inside p_r and D_r * l_{r+1}.
    """

    @staticmethod
    def forward(
        ctx: Any,
        c: Tensor,
        end: Tensor,  # noqa: ARG004
        final_state: Tensor | None,
        gate: Tensor,
        reset: Tensor | None,
        decays: Tensor,
        group: "dist.ProcessGroup | None",
    ) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(gate, reset, decays)
        ctx.group = group
        return c, final_state

    @staticmethod
    def backward(ctx: Any, grad_c: Tensor, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_transformed(_NAME, _INSTEAD, grad_c, grad_final)
        if torch.is_grad_enabled():  # the exchanged gradients would be constants of the next derivative
            raise RuntimeError("scan_sequence_parallel can't be differentiated twice: expected create_graph=False")
        gate, reset, decays = ctx.saved_tensors
        group = ctx.group
        own = [_reaching_start(grad_c, gate, reset)]
        if grad_final is not None:
            own.append(grad_final.to(own[0].dtype))
        grads = _gather(torch.stack(own), group)  # [ranks, 1 or 2, B, H, P]
        # The gradient of the state after the last piece, and then the pieces in reverse order.
        last = grads[:, 1].sum(0) if grad_final is not None else torch.zeros_like(own[0])
        behind = torch.cat([last.unsqueeze(0), grads[:, 0].flip(0)])
        decays = torch.cat([torch.zeros_like(decays[:1]), decays.flip(0)])
        grad_end, _ = _carry(behind, decays, len(grads) - _rank(group))
        return grad_c, grad_end.to(gate.dtype), None, None, None, None, None


def _rank(group: "dist.ProcessGroup | None") -> int:
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "group: torch.distributed isn't initialised: call torch.distributed.init_process_group first"
        )
    rank = dist.get_rank(group)
    if rank < 0:
        raise ValueError("group doesn't contain this process: expected a group that this rank is in")
    return rank


def _gather(own: Tensor, group: "dist.ProcessGroup | None") -> Tensor:
    """Every rank's tensor, [ranks, ...]."""
    gathered = own.new_empty((dist.get_world_size(group), *own.shape))
    if own.numel() != 0:
        dist.all_gather(list(gathered.unbind(0)), own.contiguous(), group=group)
    return gathered


def _carry(ends: Tensor, decays: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The states before piece number `rank` and after the last one; ends [n, B, H, P], decays [n, B, H, 1 or P]."""
    before = state = torch.zeros_like(ends[0])
    for r, (end, decay) in enumerate(zip(ends, decays, strict=True)):
        if r == rank:
            before = state
        # Where nothing passes, neither does what isn't finite.
        state = end + torch.where(decay > 0, decay * state, 0)
    return before, state


def _decay(gate: Tensor, reset: Tensor | None) -> Tensor:
    """exp of the sum of log_a over the piece, 0 where a reset closes it; gate [B, T, H, G], result [B, H, G]."""
    decay = gate.sum(dim=1, dtype=sum_dtype(gate.device)).exp()
    return decay if reset is None else decay.masked_fill(reset.any(dim=1)[:, None, None], 0)


def _reaching_start(grad_c: Tensor, gate: Tensor, reset: Tensor | None) -> Tensor:
    """sum_t exp(log_a_0 + ... + log_a_t) * grad_c_t up to the first reset, [B, H, P].

    What the gradients of c, grad_c [B, T, H, P], give to the state before the piece; gate is [B, T, H, 1 or P]. The
    sums of log_a start at the piece's first step and are never above 0.
    """
    wide = sum_dtype(grad_c.device)
    total = grad_c.new_zeros((grad_c.shape[0], *grad_c.shape[2:]), dtype=wide)
    passed = torch.zeros_like(gate[:, :1].sum(dim=1, keepdim=True), dtype=wide)  # [B, 1, H, G]
    cut = None if reset is None else (reset.cumsum(dim=1) > 0)[..., None, None]  # [B, T, 1, 1]
    for t in range(0, grad_c.shape[1], BLOCK):
        span = slice(t, t + BLOCK)
        logs = passed + gate[:, span].cumsum(dim=1, dtype=wide)  # [B, BLOCK, H, G]
        share = logs.exp() * grad_c[:, span]
        total += (share if cut is None else share.masked_fill(cut[:, span], 0)).sum(dim=1)
        passed = logs[:, -1:]
    return total


__all__ = ["scan_sequence_parallel"]
