"""The recurrence in chunks, in plain torch: any device, differentiable any number of times, O(T * H * P) memory.

A chunk is solved by doubling: after round k, position i holds the sum over its last 2^k inputs, decayed to i, and
the log of the decay over these positions (Hillis & Steele 1986, the scan of the pairs (log a, z) under
(g, z), (g', z') -> (g + g', exp(g') * z + z')). Decays are exp of sums of log_a over positions inside the chunk,
which are never above 0; nothing is divided by a decay. The chunks' ends go through the same rounds in float64
(float32 on devices that have no float64, such as mps).
"""

import torch
from torch import Tensor

from sioconv.ops.gates import sum_dtype

CHUNK = 32


def scan_chunked(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `sioconv.ops.backends.ScanFunction` for shapes.

    The sequences are laid end to end in one line of L = B * T positions. The state that a sequence starts from,
    or a reset brings, is added to z there, and the gate is closed (log_a = -inf) so that nothing else comes in.
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
            entered = entered + torch.where(at_reset, gate.exp() * reset_state, 0)
    inherited = torch.where(inherits, gate[starts].exp() * initial_state, 0)  # [N, H, P]
    entered = entered.index_add(0, starts, inherited)
    states = _solve(entered, gate.masked_fill(closed[:, None, None], -torch.inf))
    ends = (bounds[1:] - 1).clamp(min=0)
    final_state = torch.where(occupied, states[ends], initial_state)
    return states.to(z.dtype).view_as(z), final_state


def _solve(z: Tensor, gate: Tensor) -> Tensor:
    """The recurrence from a zero state along dimension 0; z [L, H, P], gate [L, H, 1 or P]."""
    length = len(z)
    missing = -length % CHUNK
    z = torch.nn.functional.pad(z, (0, 0, 0, 0, 0, missing)).view(-1, CHUNK, *z.shape[1:])  # [chunks, CHUNK, H, P]
    gate = torch.nn.functional.pad(gate, (0, 0, 0, 0, 0, missing)).view(-1, CHUNK, *gate.shape[1:])
    local, gate = _double(z, gate, dim=1)
    wide = sum_dtype(z.device)
    carried, _ = _double(local[:, -1].to(wide), gate[:, -1].to(wide), dim=0)  # [chunks, H, P], after each chunk
    before = torch.cat([torch.zeros_like(carried[:1]), carried[:-1]]).to(z.dtype)
    return (local + gate.exp() * before.unsqueeze(1)).flatten(0, 1)[:length]


def _double(z: Tensor, gate: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Inclusive scan of (gate, z) along `dim`: the decayed sums, and the logs of the decays from the start."""
    length, reach = z.shape[dim], 1
    while reach < length:
        left, right = length - reach, reach
        far = gate.narrow(dim, right, left).exp() * z.narrow(dim, 0, left)
        z = torch.cat([z.narrow(dim, 0, right), z.narrow(dim, right, left) + far], dim)
        longer = gate.narrow(dim, right, left) + gate.narrow(dim, 0, left)
        gate = torch.cat([gate.narrow(dim, 0, right), longer], dim)
        reach *= 2
    return z, gate
