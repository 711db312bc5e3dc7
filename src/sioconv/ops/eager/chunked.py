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
ROUNDS = 24  # of exported programs: enough for 2^24 chunks, 537 million steps in one call


def scan_chunked(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `sioconv.ops.backends.ScanFunction` for shapes."""
    if torch.compiler.is_exporting() and cu_seqlens is None:
        return scan_any_length(z, log_a, initial_state, reset, reset_state)
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


def scan_any_length(
    z: Tensor, log_a: Tensor, initial_state: Tensor, reset: Tensor | None, reset_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same as one graph for every B and T, which an exported program is: no size decides what is computed.

    Shapes as for `scan_chunked`. Here every row has its own chunks, and its positions are counted from 1: at 0 stands
    nothing, for all that look back past the start. What stands there belongs to document -1, and the steps before the
    first reset to document 0, as the initial state does.
    """
    steps = z.shape[1]
    entered, document = z.to(log_a.dtype), z.new_zeros((*z.shape[:2], 1, 1), dtype=torch.int64)
    if reset is not None:
        resets = reset[:, :, None, None]
        document = resets.cumsum(1)
        if reset_state is not None:
            entered = entered + log_a.exp() * torch.where(resets, reset_state, 0)
    local, gate = (F.pad(x, (0, 0, 0, 0, 1, 0)) for x in (entered, log_a))  # [B, 1 + T, H, P], [B, 1 + T, H, 1 or P]
    document = F.pad(document, (0, 0, 0, 0, 1, 0), value=-1)  # [B, 1 + T, 1, 1]
    chunk = (torch.arange(1 + steps, device=z.device) + CHUNK - 1) // CHUNK  # [1 + T], of steps from 1 on
    local, gate = _look_back(local, gate, document + chunk[:, None, None], CHUNK.bit_length() - 1)
    # Before the first chunk stands the initial state, before the others what the chunk in front of it ends with.
    number = torch.arange(steps // CHUNK + 2, device=z.device)
    end, first = (number - 1).clamp(min=0) * CHUNK, (number == 1)[:, None, None]
    wide, owner = sum_dtype(z.device), document.index_select(1, end).masked_fill(first, 0)
    before = torch.where(first, initial_state.unsqueeze(1), local.index_select(1, end)).to(wide)
    before, _ = _look_back(before, gate.index_select(1, end).to(wide), owner, ROUNDS)
    closed = owner.index_select(1, chunk) != document
    states = local + _decayed(before.to(local.dtype).index_select(1, chunk), gate, closed)
    return states[:, 1:].to(z.dtype), states[:, -1]


def _look_back(z: Tensor, gate: Tensor, document: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Inclusive scan along dim 1 over the last 2^rounds positions of the same document: sums, and logs of decays.

    z [B, N, H, P], gate [B, N, H, 1 or P], document [B, N, 1, 1]; the first position is a document by itself.
    """
    position = torch.arange(z.shape[1], device=z.device)
    for reach in (2**k for k in range(rounds)):
        source = (position - reach).clamp(min=0)
        closed = document.index_select(1, source) != document
        z = z + _decayed(z.index_select(1, source), gate, closed)
        gate = gate + gate.index_select(1, source).masked_fill(closed, 0)
    return z, gate
