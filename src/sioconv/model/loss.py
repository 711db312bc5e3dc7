"""The training loss, and bits per byte: the measure that doesn't depend on the tokenizer."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sioconv.model.cache import new_cache
from sioconv.ops import cross_entropy_, fast_products
from sioconv.ops.linear import ROWS_MULTIPLE, fast_products_on

IGNORED = -100


def token_loss_gradient(
    hidden: Tensor, head: nn.Linear, targets: Tensor, scale: float, rows: int = 1024
) -> tuple[float, Tensor]:
    """scale · the cross-entropy in nats, summed over the tokens whose target isn't -100, and its gradient.

    The gradient is with respect to the hidden states; the head's is added to the head's parameters.

    It goes `rows` tokens at a time: the logits [tokens, V] are never held at once, and only tokens with a target go
    through the head. Their number is rounded up to a multiple of 256: it is another one in every step, and oneDNN keeps
    code and buffers for every shape of a bf16 product that it has met (docs/decisions.md). The head is called as a
    module, so adapters on it work.

    Args:
        hidden: hidden states [B, T, D].
        head: the output head.
        targets: [B, T], already shifted, -100 where no loss is wanted.
        scale: what the sum is multiplied by.
        rows: tokens in one piece.

    Returns:
        The loss, computed in fp32, or in fp64 where the logits are, and the gradient [B, T, D] in the dtype of
        `hidden`, for `hidden.backward`.
    """
    wanted = (targets != IGNORED).flatten().nonzero().squeeze(1)  # [N]
    missing = -len(wanted) % ROWS_MULTIPLE
    # The last one again, not a token that has no target: what isn't finite in that one shall reach nothing.
    filled = torch.cat([wanted, wanted[-1:].expand(missing)])  # [N + missing]
    leaf = hidden.detach().flatten(0, -2).index_select(0, filled).requires_grad_()  # [N + missing, D]
    chosen = F.pad(targets.flatten()[wanted], (0, missing), value=IGNORED)
    losses = []
    for part, target in zip(torch.split(leaf, rows), torch.split(chosen, rows), strict=True):
        with fast_products(part):
            logits = head(part)
        slope = logits.detach()  # the same memory: a linear layer doesn't need its result again
        losses.append(cross_entropy_(slope, target, scale).sum())
        logits.backward(slope)
    gradient = torch.zeros_like(hidden, memory_format=torch.contiguous_format)
    if leaf.grad is not None:
        gradient.view(-1, hidden.shape[-1]).index_copy_(0, wanted, leaf.grad[: len(wanted)])
    # Read at the end: a GPU isn't waited for before. In Python's numbers, because not every device has fp64.
    total: float = sum(torch.stack(losses).tolist()) * scale
    return total, gradient


@dataclass
class BitsPerByte:
    """Compressed size of some text under a model, in bits, and the text's size in UTF-8 bytes."""

    bits: float = 0.0
    bytes: int = 0
    tokens: int = 0
    documents: int = 0

    @property
    def value(self) -> float:
        """Bits per byte; NaN where there is no text."""
        return self.bits / self.bytes if self.bytes else math.nan


@torch.no_grad()
def document_nats(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    masks: Sequence[Sequence[int]] | None = None,
    chunk: int = 1024,
    batch_tokens: int = 8192,
) -> Iterator[tuple[int, float]]:
    """−ln p of each document's tokens after its first.

    A model with `new_cache` carries its state from chunk to chunk. Another one reads a long document in windows of
    `config.training_length` tokens, half of which it has read before.

    Args:
        model: in eval mode.
        documents: token ids; the first of each is given, not predicted.
        masks: 0/1 per token, whether it counts; by default all do.
        chunk: longest piece that is read at once, where the state is carried or there is no training length.
        batch_tokens: most tokens in one forward pass, padding included.

    Yields:
        (index of the document, nats), in order of length where the state is carried, every document once.
    """
    counted = masks or [[1] * len(ids) for ids in documents]
    if new_cache(model) is not None:
        yield from _piece_nats(model, documents, counted, chunk, batch_tokens)
        return
    length = getattr(model.config, "training_length", chunk)
    windows = [window for i in range(len(documents)) for window in _windows(i, documents[i], counted[i], length)]
    totals = [0.0] * len(documents)
    pieces, new = [window.ids for window in windows], [window.counts for window in windows]
    for i, nats in _piece_nats(model, pieces, new, length, batch_tokens):
        totals[windows[i].document] += nats
    yield from enumerate(totals)


class _Window(NamedTuple):
    """A piece of a document that is read by itself, and which of its tokens no window before has predicted."""

    document: int
    ids: Sequence[int]
    counts: Sequence[int]


def _windows(document: int, ids: Sequence[int], counts: Sequence[int], length: int) -> Iterator[_Window]:
    """Windows that predict from `length` tokens each; all but the first have half of them, rounded down, in common with
    the one before. Every token that counts is predicted once.
    """
    seen = 1  # the first token is given
    while seen < len(ids):
        start = max(0, seen - 1 - length // 2)
        stop = start + length + 1
        yield _Window(document, ids[start:stop], [0] * (seen - start) + list(counts[seen:stop]))
        seen = stop


def _piece_nats(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    masks: Sequence[Sequence[int]],
    chunk: int,
    batch_tokens: int,
) -> Iterator[tuple[int, float]]:
    """`document_nats` of documents that are at most `chunk` + 1 tokens long, unless the model carries its state."""
    device, head = model.device, model.get_output_embeddings()  # type: ignore[no-untyped-call]
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
    while order:
        longest = min(chunk, len(documents[order[-1]]))
        rows = order[-max(1, batch_tokens // max(1, longest)) :]
        del order[-len(rows) :]
        length = max(len(documents[i]) for i in rows)
        # Padding lies behind the text, where a causal model doesn't see it.
        ids = torch.zeros(len(rows), length, dtype=torch.int64)
        counts = torch.zeros(len(rows), length, dtype=torch.bool)
        for row, i in enumerate(rows):
            ids[row, : len(documents[i])] = torch.tensor(documents[i])
            counts[row, 1 : len(documents[i])] = torch.tensor(masks[i][1:], dtype=torch.bool)
        nats = torch.zeros(len(rows), dtype=torch.float64)
        cache = new_cache(model)
        for start in range(0, length - 1, chunk):
            stop = min(start + chunk, length - 1)
            piece = ids[:, start:stop].to(device)
            wanted = counts[:, start + 1 : stop + 1]
            with fast_products_on(device, model.dtype):
                hidden = model.base_model(piece, cache=cache, use_cache=cache is not None).last_hidden_state
                logits = head(hidden[wanted.to(device)]).float()
            loss = F.cross_entropy(logits, ids[:, start + 1 : stop + 1][wanted].to(device), reduction="none")
            nats.index_add_(0, wanted.nonzero()[:, 0], loss.cpu().double())
        yield from zip(rows, nats.tolist(), strict=True)


def bits_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterable[str],
    max_bytes: int | None = None,
    batch_tokens: int = 8192,
) -> BitsPerByte:
    """−log2 p of the texts' tokens over their UTF-8 bytes; each text is a document of its own, bos given, eos excluded.

    Args:
        model: in eval mode.
        tokenizer: adds bos and nothing else.
        texts: whole documents.
        max_bytes: stop before the document that would go beyond this many bytes (at least one is read).
        batch_tokens: most tokens in one forward pass.
    """
    total = BitsPerByte()
    chosen: list[str] = []
    for text in texts:
        size = len(text.encode())
        if max_bytes is not None and chosen and total.bytes + size > max_bytes:
            break
        chosen.append(text)
        total.bytes += size
    if not chosen:
        return total
    documents = tokenizer(chosen, split_special_tokens=True)["input_ids"]
    total.documents = len(documents)
    total.tokens = sum(len(ids) - 1 for ids in documents)
    total.bits = sum(nats for _, nats in document_nats(model, documents, batch_tokens=batch_tokens)) / math.log(2)
    return total
