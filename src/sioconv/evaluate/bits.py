"""Bits per byte: the measure that doesn't depend on the tokenizer."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sioconv.data.amounts import at_most, text_size
from sioconv.data.tokenizer.tokenizer import encode_texts
from sioconv.errors import UserError
from sioconv.model.cache import new_cache
from sioconv.ops.linear import fast_products_on

LONGEST_WINDOW = 2048  # of a model that doesn't say how long its windows were in training
MOST_LOGITS = 1 << 27  # that are made at once


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


def document_nats(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    masks: Sequence[Sequence[int]] | None = None,
    chunk: int = 1024,
    batch_tokens: int = 8192,
) -> Iterator[tuple[int, float]]:
    """−ln p of each document: the sums of `token_nats`, which has the same arguments.

    Yields:
        (index of the document, nats), in order of length where the state is carried, every document once.
    """
    for i, nats in token_nats(model, documents, masks, chunk, batch_tokens):
        yield i, float(nats.sum(dtype=np.float64))


@torch.no_grad()
def token_nats(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    masks: Sequence[Sequence[int]] | None = None,
    chunk: int = 1024,
    batch_tokens: int = 8192,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """−ln p of each token of each document; 0 for its first, which is given, and for tokens that don't count.

    A model with `new_cache` carries its state from chunk to chunk. Another one reads a long document in windows of
    `window_of` tokens, half of which it has read before.

    Args:
        model: in eval mode.
        documents: token ids; the first of each is given, not predicted.
        masks: 0/1 per token, whether it counts; by default all do.
        chunk: longest piece that is read at once, where the state is carried or there is no training length.
        batch_tokens: most tokens in one forward pass, padding included.

    Yields:
        (index of the document, nats [its tokens]), in order of length where the state is carried, every document once.
    """
    counted = masks or [[1] * len(ids) for ids in documents]
    length = window_of(model, chunk)
    if length is None:
        yield from _piece_nats(model, documents, counted, chunk, batch_tokens)
        return
    windows = [window for i in range(len(documents)) for window in _windows(i, documents[i], counted[i], length)]
    found = [np.zeros(len(ids), np.float32) for ids in documents]
    pieces, new = [window.ids for window in windows], [window.counts for window in windows]
    for i, nats in _piece_nats(model, pieces, new, length, batch_tokens):
        window = windows[i]
        found[window.document][window.start : window.start + len(nats)] += nats
    yield from enumerate(found)


def window_of(model: PreTrainedModel, otherwise: int = 1024) -> int | None:
    """Most tokens that a model predicts from; None where it carries its state on, without an end.

    That is the length of its windows in training where its folder says so, else what its configuration allows, 2,048
    at most; `otherwise` where neither is known.
    """
    if new_cache(model) is not None:
        return None
    allowed = positions_of(model) or otherwise
    return int(getattr(model.config, "training_length", None) or min(allowed, LONGEST_WINDOW))


def positions_of(model: PreTrainedModel) -> int | None:
    """Most tokens that a text may have for a model, as its configuration says; None where it says nothing."""
    # A model that reads pictures too says it of its text alone.
    allowed: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, table in model.named_modules():
        padding = getattr(table, "padding_idx", None)
        if allowed and name.endswith("position_embeddings") and padding is not None:
            return allowed - int(padding) - 1  # as in RoBERTa, whose positions are counted from behind the padding's
    return allowed


class _Window(NamedTuple):
    """A piece of a document that is read by itself, and which of its tokens no window before has predicted."""

    document: int
    start: int
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
        yield _Window(document, start, ids[start:stop], [0] * (seen - start) + list(counts[seen:stop]))
        seen = stop


def _piece_nats(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    masks: Sequence[Sequence[int]],
    chunk: int,
    batch_tokens: int,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """`token_nats` of documents that are at most `chunk` + 1 tokens long, unless the model carries its state."""
    device, plain = model.device, _has_plain_head(model)
    if not plain:  # the logits of all tokens are made, of vocabularies of any size
        batch_tokens = min(batch_tokens, max(chunk, MOST_LOGITS // model.config.get_text_config().vocab_size))
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
        nats = torch.zeros(len(rows), length)
        cache = new_cache(model)
        for start in range(0, length - 1, chunk):
            stop = min(start + chunk, length - 1)
            piece = ids[:, start:stop].to(device)
            wanted = counts[:, start + 1 : stop + 1]
            with fast_products_on(device, model.dtype):
                logits = _logits(model, plain, piece, wanted.to(device), cache)
            loss = F.cross_entropy(logits, ids[:, start + 1 : stop + 1][wanted].to(device), reduction="none")
            nats[:, start + 1 : stop + 1][wanted] = loss.cpu()
        for row, i in enumerate(rows):
            yield i, nats[row, : len(documents[i])].numpy()


def _has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the logits are known to be the head's output: they are for what this project trains.

    Others may scale or bound them.
    """
    return new_cache(model) is not None or hasattr(model.config, "training_length")


def _logits(model: PreTrainedModel, plain: bool, piece: Tensor, wanted: Tensor, cache: Any) -> Tensor:
    """fp32 [N, V]: the logits after the tokens of `piece` [B, T] that are `wanted` [B, T]."""
    if not plain:
        every: Tensor = model(input_ids=piece, use_cache=False).logits
        return every[wanted].float()
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    hidden = model.base_model(piece, cache=cache, use_cache=cache is not None).last_hidden_state
    logits: Tensor = head(hidden[wanted]).float()
    return logits


def first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What a text is read after: bos, or eos where a tokenizer has no bos. Raises UserError where it has neither."""
    found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if found is None:
        raise UserError("the tokenizer has neither a bos nor an eos token: nothing predicts the first token of a text")
    return int(found)


def encode_documents(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text behind `first_token`; nothing in a text becomes a special token."""
    first = first_token(tokenizer)
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        return [[first, *ids] for ids in encode_texts(tokenizer, list(texts))]
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [[first, *ids] for ids in encoded]


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
    documents = encode_documents(tokenizer, chosen)
    total.documents = len(documents)
    total.tokens = sum(len(ids) - 1 for ids in documents)
    total.bits = sum(nats for _, nats in document_nats(model, documents, batch_tokens=batch_tokens)) / math.log(2)
    return total
