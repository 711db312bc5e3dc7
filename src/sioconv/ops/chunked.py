"""The recurrence in chunks, in plain torch: any device, differentiable any number of times, O(T * H * P) memory.

A chunk is solved by doubling: after round k, position i holds the sum over its last 2^k inputs, decayed to i, and
the log of the decay over these positions (Hillis & Steele 1986, the scan of the pairs (log a, z) under
(g, z), (g', z') -> (g + g', exp(g') * z + z')). Decays are exp of sums of log_a over positions inside the chunk,
which are never above 0; nothing is divided by a decay. The chunks' ends go through the same rounds in float64
(float32 on devices that have no float64, such as mps).
"""

import torch
from torch import Tensor

from sioconv.ops.from_zero import scan_from_zero
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
    return scan_from_zero(_solve, z, log_a, initial_state, reset, reset_state, cu_seqlens)


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
