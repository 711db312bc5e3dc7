"""The causal depthwise convolution in nothing but torch, and its parts, which padding needs one by one."""

import torch
from torch import Tensor
from torch.nn import functional as F


def causal_convolution(x: Tensor, weight: Tensor, tail: Tensor | None, reset: Tensor | None) -> Tensor:
    """`sioconv.ops.causal_convolution`: x [B, T, D], weight [D, W], tail [B, D, W - 1], reset [B, T]; [B, T, D]."""
    past = weight.shape[1] - 1
    inputs, document = line_up(x, tail, past, reset)
    return weighted_sum(x, taps_of(inputs, document, past), weight)


def line_up(x: Tensor, tail: Tensor | None, past: int, reset: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """x [B, T, D] behind `tail` [B, D, past], 0 if None: [B, past + T, D], and which document each is of, or None."""
    if tail is None:
        tail = x.new_zeros(x.shape[0], x.shape[2], past)
    inputs = torch.cat([tail.transpose(1, 2).to(x.dtype), x], dim=1)
    return inputs, None if reset is None else F.pad(reset.cumsum(dim=1), (past, 0))


def taps_of(inputs: Tensor, document: Tensor | None, past: int) -> list[Tensor]:
    """What is 1 to `past` places before the steps behind the tail, each [B, T, D]; 0 in another document.

    `inputs` [B, past + T, D] and `document` [B, past + T] as `line_up` gives them.
    """
    length, taps = inputs.shape[1] - past, []
    for k in range(1, past + 1):
        tap = inputs[:, past - k : past - k + length]
        if document is not None:
            here, there = document[:, past:], document[:, past - k : past - k + length]
            tap = tap.masked_fill((here != there).unsqueeze(-1), 0)
        taps.append(tap)
    return taps


def weighted_sum(x: Tensor, taps: list[Tensor], weight: Tensor) -> Tensor:
    """x [B, T, D] * weight[:, 0] and each of `taps` [B, T, D] * the next column of weight [D, W], in x's dtype."""
    out = x * weight[:, 0]
    for k, tap in enumerate(taps, start=1):
        out = out + tap * weight[:, k]
    return out.to(x.dtype)
