"""Bits per byte: the measure that doesn't depend on the tokenizer."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sioconv.data.amounts import at_most, text_size
from sioconv.model.cache import new_cache
from sioconv.ops.linear import fast_products_on


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
    chosen = at_most(texts, max_bytes)
    total = BitsPerByte(bytes=sum(map(text_size, chosen)))
    if not chosen:
        return total
    documents = tokenizer(chosen, split_special_tokens=True)["input_ids"]
    total.documents = len(documents)
    total.tokens = sum(len(ids) - 1 for ids in documents)
    total.bits = sum(nats for _, nats in document_nats(model, documents, batch_tokens=batch_tokens)) / math.log(2)
    return total
