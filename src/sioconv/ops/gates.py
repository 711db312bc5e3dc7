"""The decay a = exp(log_a), split so that neither slow nor fast gates lose digits."""

import torch
from torch import Tensor

# Above this log gate, 1 is taken out of the decay. At -0.5 both forms are exact to one rounding.
SLOW_GATE = -0.5


def decay_increment(log_a: Tensor) -> Tensor:
    """What is left of the decay when the state itself is kept: `a - 1` for slow gates, `a` for fast ones.

    a*c is `c + increment*c` where `log_a > SLOW_GATE`, and `increment*c` elsewhere. Written as one product,
    fp32 rounds 1 - a away when a is close to 1 (a memory of a million steps is a = 1 - 1e-6); written as
    `c + (a - 1)*c`, it rounds a away when a is close to 0. Shape and dtype are those of `log_a`.
    """
    return torch.where(log_a > SLOW_GATE, torch.expm1(log_a), torch.exp(log_a))


def sum_dtype(device: torch.device) -> torch.dtype:
    """What states are summed in where few of them are: float64, or float32 on devices that have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def advance(z: Tensor, log_a: Tensor, state: Tensor) -> Tensor:
    """One step of the recurrence, `exp(log_a)*state + z`, in the dtype of `state` ([..., H, P], all broadcast)."""
    kept = torch.where(log_a > SLOW_GATE, state, 0)
    return kept + (decay_increment(log_a) * state + z)
