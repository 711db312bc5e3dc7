"""The choice of the next token from the model's logits."""

import math
import secrets
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sioconv.errors import UserError
from sioconv.generate.config import SamplingConfig


def random_seed() -> int:
    """A fresh seed, short enough to be typed again."""
    return secrets.randbelow(2**32)


def reply_seed(seed: int, tokens_seen: int) -> int:
    """The seed of the reply that begins after `tokens_seen` tokens of a text whose seed is `seed`.

    A pure function of the two, so that a session loaded from a file draws what the one that went on draws.
    """
    words = np.random.SeedSequence([seed, tokens_seen]).generate_state(1, np.uint64)
    return int(words[0] >> 1)


class Sampler:
    """Chooses the tokens of one reply.

    The filters are those of transformers, in its order: repetition penalty, temperature, top-k, top-p, min-p. The
    random numbers come from a generator of its own on the CPU, so that a seed gives the same text whatever else draws
    numbers.

    Args:
        config: the settings.
        seed: seed of the random numbers.
        banned: ids that are never chosen, int64 [n].
        history: distinct ids that the repetition penalty applies to, looked at anew for every token.
    """

    def __init__(
        self, config: SamplingConfig, seed: int, banned: Tensor | None = None, history: Collection[int] = ()
    ) -> None:
        self._greedy = config.temperature == 0
        self._banned = banned if banned is not None and len(banned) else None
        self._generator = torch.Generator().manual_seed(seed)
        self._penalty = config.repetition_penalty != 1
        self._history = history
        self._filters = _filters(config)

    def choose(self, logits: Tensor) -> int:
        """The next token's id, from logits [V] on the CPU in fp32.

        Raises:
            UserError: a logit is NaN or infinite: the weights are broken.
        """
        scores = logits.unsqueeze(0)  # [1, V]
        if self._banned is not None:
            scores = scores.index_fill(1, self._banned, -math.inf)
        seen = torch.LongTensor([list(self._history) if self._penalty else []])  # [1, n]
        for process in self._filters:
            scores = process(seen, scores)
        if not math.isfinite(float(scores.amax())):  # the largest of numbers with a NaN among them is NaN
            raise UserError("the model's output is not a number: its weights are broken: use another checkpoint")
        if self._greedy:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generator))


def _filters(config: SamplingConfig) -> list[LogitsProcessor]:
    filters: list[LogitsProcessor] = []
    if config.repetition_penalty != 1:
        filters.append(RepetitionPenaltyLogitsProcessor(float(config.repetition_penalty)))
    if config.temperature == 0:
        return filters  # the rest doesn't change which token is the likeliest
    if config.temperature != 1:
        filters.append(TemperatureLogitsWarper(float(config.temperature)))
    if config.top_k:
        filters.append(TopKLogitsWarper(config.top_k))
    if config.top_p < 1:
        filters.append(TopPLogitsWarper(config.top_p))
    if config.min_p:
        filters.append(MinPLogitsWarper(config.min_p))
    return filters
