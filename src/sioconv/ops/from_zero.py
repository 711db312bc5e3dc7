"""Every scan as one that starts from zero: states that sequences and resets bring become inputs of their steps."""

from collections.abc import Callable

import torch
from torch import Tensor


def scan_from_zero(
    solve: Callable[[Tensor, Tensor, Tensor], Tensor],
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `sioconv.ops.backends.ScanFunction` for shapes.

    The sequences are laid end to end in one line of L = B * T positions. The state that a sequence starts from,
    or a reset brings, is added to z there, and the position is closed: nothing from before it may come in, not even
    a NaN times zero. `solve(z [L, H, P], log_a [L, H, 1 or P], closed [L]) -> c [L, H, P]` runs the recurrence on that
    line from a zero state, all in the dtype of `log_a`; `closed` is bool, and true at position 0.

    What a position doesn't take is masked before it is multiplied, not after: a masked product has the gradient
    0 * NaN.
    """
    batch, steps = z.shape[:2]
    bounds = cu_seqlens
    if bounds is None:
        bounds = torch.arange(batch + 1, device=z.device) * steps
    gate = log_a.flatten(0, 1)  # [L, H, 1 or P]
    entered = z.to(log_a.dtype).flatten(0, 1)  # [L, H, P]
    # An empty last sequence starts at L: one position more than there is takes it.
    closed = torch.zeros(len(entered) + 1, dtype=torch.bool, device=z.device)
    closed = closed.index_fill(0, bounds[:-1].long(), True)[:-1]
    occupied = (bounds[1:] > bounds[:-1])[:, None, None]  # [N, 1, 1]
    starts = bounds[:-1].clamp(max=len(entered) - 1)
    inherits = occupied
    if reset is not None:
        at_reset = reset.flatten()[:, None, None]  # [L, 1, 1]
        closed = closed | reset.flatten()
        inherits = occupied & ~at_reset[starts]
        if reset_state is not None:
            entered = entered + gate.exp() * torch.where(at_reset, reset_state, 0)
    inherited = gate[starts].exp() * torch.where(inherits, initial_state, 0)  # [N, H, P]
    entered = entered.index_add(0, starts, inherited)
    states = solve(entered, gate, closed)
    ends = (bounds[1:] - 1).clamp(min=0)
    final_state = torch.where(occupied, states[ends], initial_state)
    return states.to(z.dtype).view_as(z), final_state
