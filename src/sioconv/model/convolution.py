"""What a model reads of the steps before: the short convolution, the mixture with the last z, pairs of tokens.

Each carries a tail, the last inputs, from one call to the next; padding is no step, and a document reads nothing of the
one before. The weights of a layer stay parameters of `SioConvLayer`, so that checkpoints keep their names.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sioconv.model.architecture import Architecture
from sioconv.ops import causal_convolution, fast_products
from sioconv.ops.eager.convolution import line_up, taps_of, weighted_sum

# The table's start, as it was measured. Not `embedding_std`, which is 1 in some presets: the projection starts at 0, so
# the table's size is that of the projection's first gradients.
TABLE_STD = 0.02
NO_TOKEN = -1  # in the place of the token before, where a text begins


class Steps(NamedTuple):
    """Which steps of a call are text, and where documents begin.

    Attributes:
        mask: [B, T] bool, False at padding; None where nothing is padded.
        reset: [B, T] bool, True where a document begins; None where none does.
    """

    mask: Tensor | None
    reset: Tensor | None


def convolve(x: Tensor, weight: Tensor, tail: Tensor | None, steps: Steps) -> tuple[Tensor, Tensor]:
    """Causal depthwise convolution, sum_k weight[:, k] * x_{t-k}.

    Args:
        x: [B, T, D].
        weight: [D, W], of the step itself first.
        tail: the W - 1 inputs before x, [B, D, W - 1]; 0 if None.
        steps: padding and beginnings of documents.

    Returns:
        The result [B, T, D] in x's dtype, and the new tail [B, D, W - 1].
    """
    past = weight.shape[1] - 1
    # Exported programs may compare no length. A shorter piece leaves inputs of its tail in the new one.
    if steps.mask is not None or torch.compiler.is_exporting() or x.shape[1] <= past:
        taps, new_tail = past_inputs(x, tail, past, steps)
        return weighted_sum(x, taps, weight), new_tail
    y = causal_convolution(x, weight, tail, steps.reset)
    document = None if steps.reset is None else steps.reset[:, -past:].cumsum(dim=1)  # [B, W - 1]
    return y, _tail_of(x[:, -past:], document)


def mix_with_last(z: Tensor, log_a: Tensor, share: Tensor, last: Tensor | None, steps: Steps) -> tuple[Tensor, Tensor]:
    """l_t z_t + (1 - l_t) a_t z_{t-1}, the trapezoidal rule of Mamba-3 with learned weights.

    Args:
        z: [B, T, H, P].
        log_a: [B, T, H] or [B, T, H, P], fp32.
        share: l_t in fp32, [B, T, H].
        last: the z before, [B, H, P]; 0 if None.
        steps: padding and beginnings of documents.

    Returns:
        The mixture [B, T, H, P] in z's dtype, and the last z [B, H, P].
    """
    tail = None if last is None else last.flatten(1).unsqueeze(-1)  # [B, D, 1]
    (before,), new_tail = past_inputs(z.flatten(-2), tail, 1, steps)
    now = share.unsqueeze(-1)  # [B, T, H, 1]
    gate = log_a if log_a.dim() == z.dim() else log_a.unsqueeze(-1)
    mixed = z * now + before.view_as(z) * ((1 - now) * torch.exp(gate))
    return mixed.to(z.dtype), new_tail.view(z.shape[0], *z.shape[2:])


class Bigrams(nn.Module):
    """Linear_out(B[h(y_t, y_{t-1})]) with h = (36313 y_t + 27191 (y_{t-1} + 1)) mod rows.

    Where a document begins, 0 stands for y_{t-1} + 1. Pairs that share a row can't be told apart; the embedding, which
    this is added to, knows y_t. Linear_out starts at exactly 0, so that a new model is as one without the table.

    Args:
        config: `bigram_rows`, `bigram_width` and `hidden_size` are read.
        vocab_size: V; the table has `bigram_rows` V rows.
    """

    def __init__(self, config: Architecture, vocab_size: int) -> None:
        super().__init__()
        self.rows = config.bigram_rows * vocab_size
        self.table = nn.Embedding(self.rows, config.bigram_width)
        self.out = nn.Linear(config.bigram_width, config.hidden_size, bias=False)

    def forward(self, ids: Tensor, last: Tensor | None, steps: Steps) -> tuple[Tensor, Tensor]:
        """The summand of each token.

        Args:
            ids: [B, T], integers.
            last: the token before them, int64 [B], NO_TOKEN where there is none; None where no row has one.
            steps: padding, which is no token, and beginnings of documents.

        Returns:
            [B, T, D] in the dtype of the products, of no meaning at padding; and the last token, int64 [B].
        """
        ids = ids.long()  # their products with the hash's factors are beyond 32 bits
        tail = None if last is None else (last - NO_TOKEN).to(ids.device).view(-1, 1, 1)
        (before,), new_tail = past_inputs((ids + 1).unsqueeze(-1), tail, 1, steps)  # [B, T, 1], 0 for none
        rows = self.table((ids * 36313 + before.squeeze(-1) * 27191) % self.rows)  # [B, T, bigram_width]
        with fast_products(rows):
            summand: Tensor = self.out(rows)
        return summand, new_tail.flatten() + NO_TOKEN


def past_inputs(x: Tensor, tail: Tensor | None, past: int, steps: Steps) -> tuple[list[Tensor], Tensor]:
    """x [B, T, D] as it was 1 to `past` steps before, each [B, T, D], and the tail [B, D, past] for what comes next.

    x is preceded by `tail`, 0 if None. What is before the start of a step's document is 0. Padding is no step; what
    stands there in the results is of no meaning.
    """
    inputs, document = line_up(x, tail, past, steps.reset)  # [B, past + T, D], [B, past + T]
    back = None
    if steps.mask is not None:  # padding goes in front of everything: a tap reaches the real input before it
        place = _padding_first(F.pad(steps.mask, (past, 0), value=True))
        order = torch.zeros_like(place).scatter(
            1, place, torch.arange(place.shape[1], device=x.device).expand_as(place)
        )
        inputs = _take(inputs, order)
        document = None if document is None else document.gather(1, order)
        back = (place[:, past:] - past).clamp(min=0)  # where the inputs stood
    taps = taps_of(inputs, document, past)
    if back is not None:
        taps = [_take(tap, back) for tap in taps]
    length = x.shape[1]
    return taps, _tail_of(inputs[:, length:], None if document is None else document[:, length:])


def _tail_of(last: Tensor, document: Tensor | None) -> Tensor:
    """The tail [B, D, past] of the last inputs [B, past, D], 0 in another document than the last step's."""
    if document is not None:  # [B, past]
        last = last.masked_fill((document != document[:, -1:]).unsqueeze(-1), 0)
    # A copy: a view would keep the whole piece in memory.
    return last.transpose(1, 2).clone(memory_format=torch.contiguous_format)


def _padding_first(mask: Tensor) -> Tensor:
    """Where each step of `mask` [B, N] goes, [B, N], so that padding comes first and all else stays in order.

    By sums, not by sorting: ONNX has no stable sort.
    """
    padding = ~mask
    return torch.where(mask, padding.sum(dim=1, keepdim=True) + mask.cumsum(dim=1), padding.cumsum(dim=1)) - 1


def _take(x: Tensor, order: Tensor) -> Tensor:
    """The steps `order` [B, N] of x [B, T, D], [B, N, D]."""
    return x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[2]))
