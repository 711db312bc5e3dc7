"""An LSTM over rows that are cut where documents begin, for a processor.

torch's own backward of a packed sequence takes a gradient of the whole batch's size for every time step, on a processor
most of the time of a training step. Here the steps write into the parts of one tensor.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Pieces(NamedTuple):
    """Rows [B, T] that are cut where documents begin, N = B T tokens in P pieces, the longest piece first.

    Attributes:
        order: [N], tokens' numbers (row by row) by their place in a piece, then by their piece.
        sizes: how many pieces have a token at each place: the lengths of the runs of `order`.
        first: [B], the number of each row's first piece.
        last: [B], that of its last.
    """

    order: Tensor
    sizes: list[int]
    first: Tensor
    last: Tensor


def cut_rows(reset: Tensor) -> Pieces | None:
    """The pieces of rows with document starts `reset` [B, T]; None where no document begins inside a row."""
    if not bool(reset[:, 1:].any()):
        return None
    starts = reset.clone()
    starts[:, 0] = True
    number = (starts.flatten().cumsum(0) - 1).view_as(starts)  # of each token's piece, row by row
    lengths = number.flatten().bincount()
    longest_first = lengths.argsort(descending=True, stable=True)
    rank = torch.empty_like(longest_first)
    rank[longest_first] = torch.arange(len(lengths), device=reset.device)
    number = rank[number]
    token = torch.arange(reset.numel(), device=reset.device)
    place = token - token.where(starts.flatten(), 0).cummax(0).values
    order = (place * len(lengths) + number.flatten()).argsort()
    return Pieces(order, place.bincount().tolist(), number[:, 0], number[:, -1])


class PackedLstm(torch.autograd.Function):
    """h_t and c_t of an LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    i, f, o = σ(·), g = tanh(·) of u_t + W h_{t−1}; c_t = f ⊙ c_{t−1} + i ⊙ g; h_t = o ⊙ tanh(c_t).
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, h: Tensor, c: Tensor, sizes: list[int]
    ) -> tuple[Tensor, Tensor]:
        """All h_t and c_t, both [N, D].

        Args:
            ctx: what backward is told.
            inputs: u [N, 4 D] in the order of `Pieces.order`, of the gates i, f, g, o.
            weight: W [4 D, D].
            h: [P, D], before each piece.
            c: the same.
            sizes: `Pieces.sizes`.
        """
        count, width = len(inputs), weight.shape[1]
        gates, hs = torch.empty_like(inputs), inputs.new_empty(count, width)
        cells, tanhs = torch.empty_like(hs), torch.empty_like(hs)
        before_h, before_c, transposed, start = h, c, weight.t(), 0
        for size in sizes:
            now = slice(start, start + size)
            gate = torch.addmm(inputs[now], before_h[:size], transposed, out=gates[now])
            i, f, g, o = gate.chunk(4, dim=1)
            gate[:, : 2 * width].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            before_c = torch.mul(f, before_c[:size], out=cells[now]).addcmul_(i, g)
            before_h = torch.mul(o, torch.tanh(before_c, out=tanhs[now]), out=hs[now])
            start += size
        ctx.save_for_backward(weight, h, c, gates, cells, tanhs, hs)
        ctx.sizes = sizes
        return hs, cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor, grad_c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        """Gradients of inputs, weight, h and c."""
        weight, h, c, gates, cells, tanhs, hs = ctx.saved_tensors
        i, f, g, o = gates.chunk(4, dim=1)
        # What dc_t is multiplied with for the sums of i, f and g, dh_t for that of o; then dh_t for its part of dc_t.
        factors = torch.stack(
            [g * i * (1 - i), _before(cells, c, ctx.sizes) * f * (1 - f), i * (1 - g * g), tanhs * o * (1 - o)], dim=1
        )
        into_cell = o * (1 - tanhs * tanhs)
        grad_inputs = torch.empty_like(factors)  # [N, 4, D]
        grad_before_h, grad_before_c = torch.zeros_like(h), torch.zeros_like(c)
        stop = len(hs)
        for size in reversed(ctx.sizes):
            now = slice(stop - size, stop)
            dh = grad_h[now] + grad_before_h[:size]
            dc = (grad_before_c[:size] + grad_c[now]).addcmul_(dh, into_cell[now])
            torch.mul(factors[now, :3], dc.unsqueeze(1), out=grad_inputs[now, :3])
            torch.mul(factors[now, 3], dh, out=grad_inputs[now, 3])
            torch.mm(grad_inputs[now].flatten(1), weight, out=grad_before_h[:size])
            torch.mul(dc, f[now], out=grad_before_c[:size])
            stop -= size
        flat = grad_inputs.flatten(1)
        return flat, flat.t() @ _before(hs, h, ctx.sizes), grad_before_h, grad_before_c, None


def _before(values: Tensor, first: Tensor, sizes: list[int]) -> Tensor:
    """Values [N, D] of the tokens before: `first` [P, D], then each run but its pieces that have ended."""
    runs = torch.split(values, sizes)
    return torch.cat([first, *(run[:size] for run, size in zip(runs, sizes[1:], strict=False))])
