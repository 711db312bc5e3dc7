"""The recurrence in chunks, in plain torch: any device, differentiable any number of times, O(T * H * P) memory.

A chunk is solved by doubling: after round k, position i holds the sum over its last 2^k inputs, decayed to i, and
the log of the decay over these positions (Hillis & Steele 1986, the scan of the pairs (log a, z) under
(g, z), (g', z') -> (g + g', exp(g') * z + z')). Decays are exp of sums of log_a over positions inside the chunk,
which are never above 0; nothing is divided by a decay. The chunks' ends go through the same rounds in float64
(float32 on devices that have no float64, such as mps).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sioconv.ops.eager.from_zero import scan_from_zero
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
    """See `sioconv.ops.backends.ScanFunction` for shapes."""
    return scan_from_zero(solve, z, log_a, initial_state, reset, reset_state, cu_seqlens)


def solve(z: Tensor, gate: Tensor, closed: Tensor) -> Tensor:
    """See `scan_from_zero`: z [L, H, P], gate [L, H, 1 or P], closed [L]."""
    length = len(z)
    missing = -length % CHUNK
    z = F.pad(z, (0, 0, 0, 0, 0, missing)).view(-1, CHUNK, *z.shape[1:])  # [chunks, CHUNK, H, P]
    gate = F.pad(gate, (0, 0, 0, 0, 0, missing)).view(-1, CHUNK, *gate.shape[1:])
    closed = F.pad(closed, (0, missing)).view(-1, CHUNK, 1, 1)
    local, gate, closed = _double(z, gate, closed, dim=1)
    wide = sum_dtype(z.device)
    carried, _, _ = _double(local[:, -1].to(wide), gate[:, -1].to(wide), closed[:, -1], dim=0)  # after each chunk
    before = torch.cat([torch.zeros_like(carried[:1]), carried[:-1]]).to(z.dtype)  # [chunks, H, P]
    return (local + _decayed(before.unsqueeze(1), gate, closed)).flatten(0, 1)[:length]


def _double(z: Tensor, gate: Tensor, closed: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inclusive scan along `dim`: the decayed sums, the logs of the decays from the start, and what they pass over.

    z [..., H, P], gate [..., H, 1 or P], closed [..., 1, 1]; the last result is true where a closed position lies
    between the start and here.
    """
    length, reach = z.shape[dim], 1
    while reach < length:
        left, right = length - reach, reach
        later, shut = gate.narrow(dim, right, left), closed.narrow(dim, right, left)
        far = _decayed(z.narrow(dim, 0, left), later, shut)
        z = torch.cat([z.narrow(dim, 0, right), z.narrow(dim, right, left) + far], dim)
        gate = torch.cat([gate.narrow(dim, 0, right), later + gate.narrow(dim, 0, left)], dim)
        closed = torch.cat([closed.narrow(dim, 0, right), shut | closed.narrow(dim, 0, left)], dim)
        reach *= 2
    return z, gate, closed


def _decayed(z: Tensor, gate: Tensor, closed: Tensor) -> Tensor:
    """exp(gate) * z, and zero where `closed`: there z and gate are masked, or their gradients would be 0 * NaN."""
    return gate.masked_fill(closed, 0).exp() * z.masked_fill(closed, 0)
