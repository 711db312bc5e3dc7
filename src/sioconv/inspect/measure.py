"""Forget gates, surprise and the parts of the state, measured while a text is read.

What comes into the recurrence is taken where it comes in, so every option of the model is in it: z is what the state
gets (scaled, mixed with the last one, convolved), log a what it keeps. With c_t = a_t c_{t-1} + z_t the state after T
steps is the sum of its parts, exp(log a_{s+1} + … + log a_T) z_s of each step s, and of what was there before. A
step's weight is the norm of its part; a head's weights over their sum are the shares.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer.long_texts import encode_stream
from sioconv.errors import UserError
from sioconv.generate.vocabulary import Vocabulary
from sioconv.model import SioConvForCausalLM

PIECE = 256  # tokens that are read at once
WINDOW = 512  # tokens that are looked at one by one
MOST = 1e9  # steps; a gate that never closes has no half-life
REACH = 0.9  # share of the state that the steps within a head's reach make up

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """The heads of one layer, each an entry of arrays [H].

    Args:
        half: steps after which half of what was in the state is left, ln 2 / −mean(log a) over the text; where each
            channel has a gate, of the channel in the middle.
        gate: the forget gate's geometric mean over the text, 2^(−1 / half).
        least: its smallest value at any step.
        most: its largest.
        shares: [H, 1 + W] of each step of the window in the last state, behind that of all that came before.
        reach: the last so many steps make up 90 % of the last state; 1 + W where it takes what came before as well.
    """

    half: Numbers
    gate: Numbers
    least: Numbers
    most: Numbers
    shares: Numbers
    reach: NDArray[np.int64]


@dataclass(frozen=True)
class Inspection:
    """What was measured on a text.

    Args:
        tokens: of the whole text, the one that begins it not counted.
        text_bytes: of the text.
        bits: −log2 of the whole text's probability.
        first: tokens before the window, the one that begins a text counted; 0 where the window is the whole text.
        pieces: the bytes of the window's W tokens; none for the token that begins a text, which is the first step
            where the window is the whole text.
        surprise: −log2 of the probability of each, bits [W]; NaN for that token.
        layers: first to last.
    """

    tokens: int
    text_bytes: int
    bits: float
    first: int
    pieces: list[bytes]
    surprise: Numbers
    layers: list[Layer]

    @property
    def weights(self) -> Numbers:
        """[L, 1 + W], each layer's shares, averaged over its heads."""
        return np.stack([layer.shares.mean(axis=0) for layer in self.layers])


@torch.inference_mode()
def inspect_text(
    model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast, chunks: Iterable[str], window: int = WINDOW
) -> Inspection:
    """Reads a text of any length in constant memory and tells what became of it.

    Args:
        model: in eval mode.
        tokenizer: the model's.
        chunks: the text, in parts.
        window: most tokens at the end that are looked at one by one; means and sums are over the whole text.

    Raises:
        UserError: the text is empty, `window` isn't positive, or the model's weights are broken.
    """
    if window < 1:
        raise UserError(f"window out of range: {window}: give a positive number of tokens")
    vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
    reader, waiting, size = _Reader(model), deque([vocabulary.bos]), 0
    for ids in encode_stream(tokenizer, chunks):
        size += sum(len(vocabulary.bytes_of(i)) for i in ids)
        waiting.extend(ids)
        while len(waiting) >= window + PIECE:
            reader.read([waiting.popleft() for _ in range(PIECE)], keep=False)
    if not size:
        raise UserError("there is no text to inspect: give some")
    if len(waiting) > window:
        reader.read([waiting.popleft() for _ in range(len(waiting) - window)], keep=False)
    first, ids = reader.tokens, list(waiting)
    for start in range(0, len(ids), PIECE):
        reader.read(ids[start : start + PIECE], keep=True)
    if not math.isfinite(reader.bits):
        raise UserError("the model's output is not a number: its weights are broken: use another checkpoint")
    return Inspection(
        tokens=reader.tokens - 1,
        text_bytes=size,
        bits=reader.bits,
        first=first,
        pieces=[vocabulary.bytes_of(i) for i in ids],
        surprise=np.concatenate(reader.surprise),
        layers=[_layer(seen, reader.tokens) for seen in reader.layers],
    )


class _Seen:
    """What a layer's recurrence was given so far."""

    def __init__(self) -> None:
        self.keep = False
        self.before: Tensor | None = None  # the state where the window begins, [H, P]
        self.z: list[Tensor] = []  # of the window: [T, H, P] where each channel has a gate, else their norms [T, H, 1]
        self.log_a: list[Tensor] = []  # [T, H, P] or [T, H, 1]
        self.sum: Tensor | float = 0.0  # of log a over the text, [H, P] or [H, 1]
        self.least: Tensor | None = None
        self.most: Tensor | None = None

    def take(self, z: Tensor, log_a: Tensor, carried: Tensor) -> None:
        """z [1, T, H, P], log_a [1, T, H] or [1, T, H, P] and the state before them [1, H, P], all to float64."""
        gates = log_a[0].cpu().double()
        gates = gates if gates.dim() == 3 else gates.unsqueeze(-1)
        self.sum = gates.sum(0) + self.sum
        least, most = gates.amin((0, 2)), gates.amax((0, 2))  # [H]
        self.least = least if self.least is None else torch.minimum(self.least, least)
        self.most = most if self.most is None else torch.maximum(self.most, most)
        if not self.keep:
            return
        if self.before is None:
            self.before = carried[0].cpu().double()
        wide = z[0].cpu().double()
        self.z.append(wide if gates.shape[-1] > 1 else wide.norm(dim=-1, keepdim=True))
        self.log_a.append(gates)


def _layer(seen: _Seen, steps: int) -> Layer:
    """The heads of a layer after `steps` steps."""
    assert seen.before is not None and isinstance(seen.sum, Tensor)
    assert seen.least is not None and seen.most is not None
    log_a, z = torch.cat(seen.log_a), torch.cat(seen.z)  # [W, H, P or 1]
    kept = log_a.flip(0).cumsum(0).flip(0)  # log of what is left at the end of what was there before each step
    parts = torch.exp(torch.cat([kept[1:], torch.zeros_like(kept[:1])])) * z  # [W, H, P or 1]
    before = torch.exp(kept[0]) * seen.before  # [H, P]
    weights = torch.cat([before.norm(dim=-1)[None], parts.norm(dim=-1)]).T  # [H, 1 + W]
    shares = (weights / weights.sum(1, keepdim=True).clamp(min=1e-300)).numpy()
    half = (math.log(2) / (-seen.sum / steps).clamp(min=math.log(2) / MOST)).median(dim=-1).values.numpy()
    so_far = np.cumsum(shares[:, ::-1], axis=1)
    reach = 1 + (so_far < REACH).sum(axis=1)
    return Layer(
        half=half,
        gate=np.exp2(-1 / half),
        least=seen.least.exp().numpy(),
        most=seen.most.exp().numpy(),
        shares=shares,
        reach=np.minimum(reach, shares.shape[1]),
    )


class _Reader:
    """A model that reads one text, with what comes into its recurrences."""

    def __init__(self, model: SioConvForCausalLM) -> None:
        self.tokens, self.bits = 0, 0.0
        self.surprise: list[Numbers] = []  # of the window
        self.layers = [_Seen() for _ in model.model.layers]
        self._model, self._cache = model, model.new_cache()
        self._logits: Tensor | None = None  # after the last token, [V]

    def read(self, ids: list[int], keep: bool) -> None:
        """Reads on; with `keep` the tokens are a part of the window."""
        for seen in self.layers:
            seen.keep = keep
        tokens = torch.tensor([ids], device=self._model.device)  # [1, T]
        with self._watched():
            logits = self._model(tokens, cache=self._cache, use_cache=True).logits[0].float()  # [T, V]
        bits = np.full(len(ids), math.nan)
        start = int(self._logits is None)
        before = logits[:-1] if self._logits is None else torch.cat([self._logits[None], logits[:-1]])
        if len(before):
            nats = F.cross_entropy(before, tokens[0, start:], reduction="none")
            bits[start:] = nats.double().cpu().numpy() / math.log(2)
        self.bits += float(bits[start:].sum())
        if keep:
            self.surprise.append(bits)
        self._logits = logits[-1]
        self.tokens += len(ids)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Every recurrence tells what it is given."""

        def watcher(seen: _Seen) -> Any:
            return lambda _, given: seen.take(given[0], given[1], given[3])

        pairs = zip(self._model.model.layers, self.layers, strict=True)
        hooks = [block.mixer.state_norm.register_forward_pre_hook(watcher(seen)) for block, seen in pairs]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
