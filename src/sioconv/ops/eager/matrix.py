"""The recurrence as one matrix product per gate: c = M @ z, with the whole T * T matrix of decays in memory.

M[t, s] = a_{s+1} * ... * a_t for s <= t, and 0 above the diagonal: what is left at step t of what entered at step s.
This is how the model was first written, in 2024. It needs T * T numbers for every gate, and a gate per channel is P
times as many gates as one per head: that is why the model has heads. It stays to explain that, and for tests; every
other backend takes memory linear in T.

Each log M[t, s] is a sum over its own steps s+1 ... t, as in `segsum` of Mamba-2 (Dao & Gu 2024, arXiv:2405.21060,
section 6): the difference of two sums from step 0 on would lose the digits of short spans late in a long sequence.
Every document has a matrix of its own, so a NaN stays in its document; within it, a product with 0 doesn't hide one
of a later step.
"""

from itertools import pairwise

import torch
from torch import Tensor

from sioconv.ops.eager.from_zero import scan_from_zero


def scan_matrix(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `sioconv.ops.backends.ScanFunction` for shapes."""
    return scan_from_zero(_solve, z, log_a, initial_state, reset, reset_state, cu_seqlens)


def decay_matrix(log_a: Tensor) -> Tensor:
    """M [..., T, T] of gates log_a [..., T]: M[t, s] = exp(log_a[s+1] + ... + log_a[t]), 0 where s > t.

    The first gate of a row isn't used: it decays what was there before the row. Gates are <= 0, -inf allowed; same
    dtype and device. Differentiable any number of times.
    """
    step = torch.arange(log_a.shape[-1], device=log_a.device)
    t, s = step[:, None], step
    log_decay = torch.where(s < t, log_a.unsqueeze(-1), 0).cumsum(-2)  # [..., T, T], each column its own sum
    return log_decay.masked_fill(s > t, -torch.inf).exp()


def _solve(z: Tensor, log_a: Tensor, closed: Tensor) -> Tensor:
    """See `scan_from_zero`: z [L, H, P], log_a [L, H, 1 or P], closed [L]."""
    lengths = [stop - start for start, stop in pairwise([*closed.nonzero().flatten().tolist(), len(z)])]
    documents = zip(torch.split(z, lengths), torch.split(log_a, lengths), strict=True)
    return torch.cat([_multiply(one, gate) for one, gate in documents])


def _multiply(z: Tensor, log_a: Tensor) -> Tensor:
    """c [T, H, P] = M @ z of one document, one matrix for each gate; z [T, H, P], log_a [T, H, 1 or P]."""
    matrix = decay_matrix(log_a.permute(1, 2, 0))  # [H, G, T, T] with G = 1 gate a head, or P
    of_gate = z.view(*z.shape[:-1], log_a.shape[-1], -1).permute(1, 2, 0, 3)  # [H, G, T, P / G]
    return (matrix @ of_gate).permute(2, 0, 1, 3).flatten(-2)
