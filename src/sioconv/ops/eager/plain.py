"""The recurrence in nothing but torch, unchecked: what a model folder carries for machines without this package.

The same functions as in `sioconv.ops`, with the arguments that the model gives them, by the `chunked` backend.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from sioconv.ops.eager.chunked import scan_chunked
from sioconv.ops.eager.convolution import causal_convolution
from sioconv.ops.gates import advance
from sioconv.ops.heads import normalise_heads


def scan(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    *,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`sioconv.ops.scan`: z [B, T, H, P], log_a [B, T, H] or [B, T, H, P], states [B, H, P]; c and the last state."""
    if z.numel() == 0:
        c, final = z, initial_state.clone()
    else:
        gate = log_a.unsqueeze(-1) if log_a.dim() == 3 else log_a  # [B, T, H, 1 or P]
        c, final = scan_chunked(z, gate, initial_state, reset, reset_state, None)
    return c, final if output_final_state else None


def step(z: Tensor, log_a: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """`sioconv.ops.step`: z [B, H, P], log_a [B, H] or [B, H, P], state [B, H, P]; c and the new state."""
    state = advance(z, log_a.unsqueeze(-1) if log_a.dim() == 2 else log_a, state)
    return state.to(z.dtype), state


def scan_norm_gate(
    z: Tensor,
    log_a: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    gate: Tensor | None,
    initial_state: Tensor,
    *,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`sioconv.ops.scan_norm_gate`: arguments as for `scan`, norm_weight and norm_bias [H], gate [B, T, H, P]."""
    wide = z.to(log_a.dtype)
    c, final = scan(
        wide, log_a, initial_state, reset=reset, reset_state=reset_state, output_final_state=output_final_state
    )
    return normalise_heads(c, norm_weight, norm_bias, eps, gate).to(z.dtype), final


def silu_gate(x: Tensor, gate: Tensor) -> Tensor:
    """`sioconv.ops.silu_gate`: x * SiLU(gate), both of the same shape."""
    return x * F.silu(gate)


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`sioconv.ops.rms_norm`: x [..., D] over the root of its mean square, times weight [D], in `dtype`."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps).to(dtype)


def fast_products(x: Tensor) -> AbstractContextManager[None]:  # noqa: ARG001
    """`sioconv.ops.fast_products`: there are none here."""
    return nullcontext()


__all__ = [
    "causal_convolution",
    "fast_products",
    "normalise_heads",
    "rms_norm",
    "scan",
    "scan_norm_gate",
    "silu_gate",
    "step",
]
