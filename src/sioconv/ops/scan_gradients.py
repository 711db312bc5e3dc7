"""The gradients of a scan in plain torch, from its result: what the kernels of the backward pass compute."""

import torch
from torch import Tensor

from sioconv.ops.eager.chunked import solve
from sioconv.ops.eager.from_zero import boundaries


def scan_gradients(
    grad_c: Tensor,
    grad_final: Tensor,
    c: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, log_a, initial_state and reset_state, which can be differentiated any number of times.

    dc_t = g_t + a_{t+1} * dc_{t+1}, the recurrence reversed; then dz = dc and dlog_a = a_t * dc_t * c_{t-1}, where
    c_{t-1} is the state that step t started from.

    Args:
        grad_c: [B, T, H, P].
        grad_final: [N, H, P].
        c: [B, T, H, P], the scan's result, in the dtype of `log_a` where `log_a` has a gradient.
        log_a, initial_state, reset, reset_state, cu_seqlens: as in `sioconv.ops.backends.ScanFunction`.
    """
    lines = boundaries(c, reset, cu_seqlens)
    gate = log_a.flatten(0, 1)  # [L, H, 1 or P]
    up = grad_c.to(log_a.dtype).flatten(0, 1)  # [L, H, P]
    up = up.index_add(0, lines.last, torch.where(lines.occupied, grad_final, 0))
    # Seen from behind, a position takes what the one after it passes on, by that one's gate.
    ends = torch.cat([lines.closed[1:], lines.closed[:1]]).flip(0)
    dc = solve(up.flip(0), gate.roll(-1, 0).flip(0), ends).flip(0)
    before = torch.cat([torch.zeros_like(initial_state[:1]), c.to(log_a.dtype).flatten(0, 1)[:-1]])
    before = torch.where(lines.begins, initial_state[lines.sequence], before)
    flow = gate.exp() * dc  # the gradient of the state that a step starts from
    grad_initial = torch.where(lines.inherits, flow[lines.first], 0)
    grad_initial = torch.where(lines.occupied, grad_initial, grad_final)
    grad_reset = torch.zeros_like(initial_state[0])
    if lines.resets is not None:
        before = torch.where(lines.resets, 0 if reset_state is None else reset_state, before)
        grad_reset = torch.where(lines.resets, flow, 0).sum(0)
    grad_log_a = flow * before
    if log_a.shape[3] == 1:
        grad_log_a = grad_log_a.sum(-1, keepdim=True)
    return dc.to(c.dtype).view_as(c), grad_log_a.view_as(log_a), grad_initial, grad_reset
