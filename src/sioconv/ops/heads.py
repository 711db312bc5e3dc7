"""The normalisation of every head, in plain torch."""

import torch
from torch import Tensor
from torch.nn import functional as F


def normalise_heads(c: Tensor, weight: Tensor, bias: Tensor, eps: float, gate: Tensor | None = None) -> Tensor:
    """What `scan_norm_gate` does after the scan, in plain torch: c [..., H, P], which may be empty, to the same shape.

    weight and bias [H] in c's dtype; gate like c (default 1).
    """
    normed = F.layer_norm(c, c.shape[-1:], eps=eps) if c.numel() != 0 else c
    y = torch.addcmul(bias.unsqueeze(-1), normed, weight.unsqueeze(-1))
    return y if gate is None else y * gate
