"""The recurrence as a plain loop over time: slow, on any device, differentiable any number of times.

What every other backend is tested against; with float64 inputs everything is float64.
"""

from itertools import pairwise

import torch
from torch import Tensor

from sioconv.ops.gates import advance


def scan_reference(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `sioconv.ops.backends.ScanFunction` for shapes. Packed sequences are run one after the other."""
    if cu_seqlens is None:
        return _loop(z, log_a, initial_state, reset, reset_state)
    ends = cu_seqlens.tolist()
    parts, finals = [], []
    for n, (start, stop) in enumerate(pairwise(ends)):
        span = slice(start, stop)
        own_reset = None if reset is None else reset[:, span]
        c, final = _loop(z[:, span], log_a[:, span], initial_state[n : n + 1], own_reset, reset_state)
        parts.append(c)
        finals.append(final)
    return torch.cat(parts, dim=1), torch.cat(finals)


def _loop(
    z: Tensor, log_a: Tensor, state: Tensor, reset: Tensor | None, reset_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    states = []
    # unbind, since the gradient of z[:, t] would be as large as z at every step.
    for t, (z_t, gate_t) in enumerate(zip(z.unbind(1), log_a.unbind(1), strict=True)):
        if reset is not None:
            restart = reset[:, t, None, None]  # [B, 1, 1]
            state = torch.where(restart, 0 if reset_state is None else reset_state, state)
        state = advance(z_t, gate_t, state)  # [B, H, P]
        states.append(state)
    c = torch.stack(states, dim=1) if states else z
    return c.to(z.dtype), state
