"""The choice of the next token from the model's logits."""

import math
import secrets
from collections import Counter
from collections.abc import Collection
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sioconv.errors import UserError
from sioconv.generate.config import SamplingConfig

Logits = NDArray[np.float32]  # [V]


def random_seed() -> int:
    """A fresh seed, short enough to be typed again."""
    return secrets.randbelow(2**32)


def uniform(seed: int, position: int, branch: int = 0) -> float:
    """A random number in [0, 1) that is a pure function of its arguments (Philox 4x64, Salmon et al. 2011).

    Args:
        seed: below 2^63.
        position: how many tokens of the text stand before the one that is drawn.
        branch: which of the continuations of one text.
    """
    bits = np.random.Philox(key=np.array([seed, branch], np.uint64), counter=position).random_raw()
    return float(bits >> 11) * 2.0**-53


class Constraint(Protocol):
    """Which tokens may come next in one text; follows the tokens that are chosen."""

    @property
    def complete(self) -> bool:
        """Whether the text is whole and nothing may follow it."""

    def mask(self) -> NDArray[np.bool_]:
        """[V], True at the tokens that may come next, those that end a text where it may end."""

    def accept(self, token: int) -> None:
        """The token comes next."""

    def copy(self) -> Self:
        """Another one, as far as this one is."""


class Sampler:
    """Chooses the tokens of one reply.

    What a constraint or `banned` forbids is out before all else, so that every filter works on what may be written.
    The filters stand in transformers' order: logit bias, repetition, presence and frequency penalty, temperature,
    top-k, top-p, min-p, typical. A token's random number depends on the seed and its place in the text alone, so a
    reply that is interrupted and continued draws what it would have drawn.

    Args:
        config: the settings.
        seed: decides every random choice, together with the position.
        banned: ids that are never chosen, int64 [n].
        history: distinct ids that the repetition penalty applies to, looked at anew for every token.
        position: tokens of the text before the first one that is chosen.
        branch: which of the continuations of one text.
        ending: ids that end a reply: not chosen among its first `min_new_tokens`.
        constraint: which tokens may be chosen; this sampler alone tells it of those that are. None for any.
    """

    def __init__(
        self,
        config: SamplingConfig,
        seed: int,
        banned: Tensor | None = None,
        history: Collection[int] = (),
        position: int = 0,
        branch: int = 0,
        ending: Collection[int] = (),
        constraint: Constraint | None = None,
    ) -> None:
        self._config = config
        self._seed, self._position, self._branch = seed, position, branch
        self._banned = np.empty(0, np.int64) if banned is None else banned.numpy()
        self._history = history
        self._ending = np.fromiter(ending, np.int64)
        self._bias = (np.fromiter(config.logit_bias, np.int64), np.fromiter(config.logit_bias.values(), np.float32))
        self._written: Counter[int] = Counter()
        self._constraint = constraint

    @property
    def complete(self) -> bool:
        """Whether a constraint lets nothing follow what was chosen."""
        return self._constraint is not None and self._constraint.complete

    def choose(self, logits: Logits | Tensor) -> int:
        """The next token's id, from logits [V] in fp32, which stay as they are.

        Raises:
            UserError: a logit is NaN or infinite: the weights are broken; or every token is forbidden; or the
                constraint can't be followed.
        """
        scores = np.array(logits.numpy() if isinstance(logits, Tensor) else logits, np.float32)
        _check_numbers(scores)
        scores[self._banned] = -math.inf
        if self._constraint is not None:
            scores[~self._constraint.mask()] = -math.inf
        ids, bias = self._bias
        scores[ids] += bias
        if self._written.total() < self._config.min_new_tokens:
            scores[self._ending] = -math.inf
        self._penalise(scores)
        if scores.max() == -math.inf:
            raise UserError("no token is left that may be written: loosen logit_bias or min_new_tokens")
        if self._config.temperature == 0:
            token = int(scores.argmax())
        else:
            token = _draw(scores, self._config, uniform(self._seed, self._position, self._branch))
        self._position += 1
        self._written[token] += 1
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

    def _penalise(self, scores: Logits) -> None:
        config = self._config
        if config.repetition_penalty != 1 and self._history:
            seen = np.fromiter(self._history, np.int64)
            penalty = np.float32(config.repetition_penalty)
            scores[seen] = np.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
        if (config.presence_penalty or config.frequency_penalty) and self._written:
            written = np.fromiter(self._written, np.int64)
            counts = np.fromiter(self._written.values(), np.float32)
            scores[written] -= np.float32(config.presence_penalty) + np.float32(config.frequency_penalty) * counts


def _check_numbers(scores: Logits) -> None:
    # The largest of numbers with a NaN among them is NaN. A logit of -inf is fine: its token is never chosen.
    if not math.isfinite(scores.max()):
        raise UserError("the model's output is not a number: its weights are broken: use another checkpoint")


def _draw(logits: Logits, config: SamplingConfig, chance: float) -> int:
    """The token at `chance` of the cumulative probability of what the filters leave."""
    scores = logits.astype(np.float64) / config.temperature
    if config.top_k and config.top_k < len(scores):
        lowest = np.partition(scores, -config.top_k)[-config.top_k]
        scores[scores < lowest] = -math.inf
    if config.top_p < 1:
        kept = _likeliest(scores, config.top_p)
        filtered = np.full_like(scores, -math.inf)
        filtered[kept] = scores[kept]
        scores = filtered
    if config.min_p:
        scores[scores < scores.max() + math.log(config.min_p)] = -math.inf
    if config.typical_p < 1:
        _keep_typical(scores, config.typical_p)
    mass = np.cumsum(_softmax(scores))
    # Rounding may leave the last sum below the chance that was drawn.
    at = int(np.searchsorted(mass, chance * mass[-1], side="right"))
    return min(at, int(np.flatnonzero(scores > -math.inf)[-1]))


def _likeliest(scores: NDArray[np.float64], mass: float) -> NDArray[np.int64]:
    """The smallest set of tokens whose probabilities sum to at least `mass`, likeliest first."""
    probabilities = _softmax(scores)
    # Sorting is what costs: all tokens below this probability together are less than what may be left out.
    likely = np.flatnonzero(probabilities >= (1 - mass) / len(scores))
    for some in (likely, np.arange(len(scores))):  # all of them where rounding has left out too much
        order = some[np.argsort(-scores[some], kind="stable")]
        cut = int(np.searchsorted(np.cumsum(probabilities[order]), mass)) + 1
        if cut <= len(order):
            break
    return order[:cut]


def _keep_typical(scores: NDArray[np.float64], mass: float) -> None:
    """Leaves the tokens whose surprise is nearest to the entropy, up to `mass` (see `SamplingConfig.typical_p`)."""
    probabilities = _softmax(scores)
    possible = np.flatnonzero(probabilities > 0)
    surprise = -np.log(probabilities[possible])
    entropy = float((probabilities[possible] * surprise).sum())
    order = possible[np.argsort(np.abs(surprise - entropy), kind="stable")]
    cut = int(np.searchsorted(np.cumsum(probabilities[order]), mass)) + 1
    scores[np.setdiff1d(possible, order[:cut])] = -math.inf


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(scores - scores.max())
    share: NDArray[np.float64] = weights / weights.sum()
    return share


def log_probabilities(logits: Logits) -> NDArray[np.float64]:
    """ln softmax(logits) [V], before any penalty or filter."""
    shifted = logits.astype(np.float64) - float(logits.max())
    result: Any = shifted - math.log(np.exp(shifted).sum())
    return np.asarray(result)
