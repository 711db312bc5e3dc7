"""Every scan as one that starts from zero: states that sequences and resets bring become inputs of their steps."""

from collections.abc import Callable
from typing import NamedTuple

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
    lines = boundaries(z, reset, cu_seqlens)
    gate = log_a.flatten(0, 1)  # [L, H, 1 or P]
    entered = z.to(log_a.dtype).flatten(0, 1)  # [L, H, P]
    if lines.resets is not None and reset_state is not None:
        entered = entered + gate.exp() * torch.where(lines.resets, reset_state, 0)
    inherited = gate[lines.first].exp() * torch.where(lines.inherits, initial_state, 0)  # [N, H, P]
    states = solve(entered.index_add(0, lines.first, inherited), gate, lines.closed)
    final_state = torch.where(lines.occupied, states[lines.last], initial_state)
    return states.to(z.dtype).view_as(z), final_state


class Boundaries(NamedTuple):
    """Where the sequences lie in the line, and where nothing passes from one position to the next."""

    first: Tensor  # [N] int64, each sequence's first position (of an empty one, some other)
    last: Tensor  # [N] int64
    occupied: Tensor  # [N, 1, 1] bool, which sequences aren't empty
    inherits: Tensor  # [N, 1, 1] bool, whose first step takes the initial state: no reset stands there
    sequence: Tensor  # [L] int64, the number of each position's sequence
    begins: Tensor  # [L, 1, 1] bool, the first positions
    resets: Tensor | None  # [L, 1, 1] bool
    closed: Tensor  # [L] bool, first positions and resets


def boundaries(z: Tensor, reset: Tensor | None, cu_seqlens: Tensor | None) -> Boundaries:
    """Of the sequences in z [B, T, H, P], no size being 0."""
    batch, steps = z.shape[:2]
    length = batch * steps
    bounds = torch.arange(batch + 1, device=z.device) * steps if cu_seqlens is None else cu_seqlens.long()
    # An empty last sequence starts at L: one position more than there is takes it.
    begins = torch.zeros(length + 1, dtype=torch.bool, device=z.device).index_fill(0, bounds[:-1], True)[:-1]
    occupied = (bounds[1:] > bounds[:-1])[:, None, None]
    first, last = bounds[:-1].clamp(max=length - 1), (bounds[1:] - 1).clamp(min=0)
    sequence = torch.searchsorted(bounds[1:], torch.arange(length, device=z.device), right=True)
    resets, closed, inherits = None, begins, occupied
    if reset is not None:
        resets = reset.flatten()[:, None, None]
        closed = begins | reset.flatten()
        inherits = occupied & ~resets[first]
    return Boundaries(first, last, occupied, inherits, sequence, begins[:, None, None], resets, closed)
