"""How the next token is chosen, and when a reply ends."""

import math
from collections.abc import Container
from dataclasses import dataclass, field, replace
from typing import Any

from sioconv.errors import UserError

LARGEST_SEED = 2**63 - 1
FOLDERS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")  # what a model folder may say


@dataclass
class SamplingConfig:
    """Settings of one generation; the filters work in the order in which they stand here.

    Args:
        temperature: logits are divided by it; below 1 makes likely tokens likelier, 0 always takes the likeliest.
        top_k: only the k likeliest tokens may be chosen; 0 for no such limit.
        top_p: only the smallest set of likeliest tokens whose probabilities sum to at least this (Holtzman et al. 2020,
            arXiv:1904.09751); 1 for no such limit.
        min_p: only tokens at least this share as probable as the likeliest one (arXiv:2407.01082); 0 for no such limit.
        repetition_penalty: before all else, logits of tokens that already stand in the current turn (what was read
            for it and the reply so far) are divided by it when positive, multiplied when negative (Keskar et al.
            2019, arXiv:1909.05858). Earlier turns don't count: the model's memory keeps no list of tokens. 1 for
            none.
        typical_p: only the tokens whose surprise is nearest to the expected one, up to this probability in all (Meister
            et al. 2022, arXiv:2202.00666); 1 for no such limit.
        presence_penalty: subtracted from the logit of each token that stands in the reply so far.
        frequency_penalty: the same, as often as the token stands there.
        logit_bias: numbers that are added to logits, by token id.
        min_new_tokens: so many tokens are written before the reply may end by itself.
        max_new_tokens: most tokens of one reply.
        seed: the same seed gives the same text; None for a random one.
        stop: a reply ends before any of these strings.

    Raises:
        UserError: a value is out of its range.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    min_new_tokens: int = 0
    max_new_tokens: int = 256
    seed: int | None = None
    stop: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # A temperature between 0 and 0.001 would overflow the logits of a confident model.
        fine = self.temperature == 0 or 0.001 <= self.temperature < math.inf
        _check(fine, "temperature", self.temperature, "0 for the likeliest token, or a number from 0.001 up")
        _check(self.top_k >= 0, "top_k", self.top_k, "0 for no limit, or a positive number of tokens")
        _check(0 < self.top_p <= 1, "top_p", self.top_p, "a number above 0 and up to 1")
        _check(0 <= self.min_p <= 1, "min_p", self.min_p, "a number from 0 to 1")
        fine = 0 < self.repetition_penalty < math.inf
        _check(fine, "repetition_penalty", self.repetition_penalty, "a positive number, 1 for no penalty")
        _check(0 < self.typical_p <= 1, "typical_p", self.typical_p, "a number above 0 and up to 1")
        for name in ("presence_penalty", "frequency_penalty"):
            _check(math.isfinite(getattr(self, name)), name, getattr(self, name), "a finite number, 0 for no penalty")
        fine = all(math.isfinite(value) for value in self.logit_bias.values())
        _check(fine, "logit_bias", self.logit_bias, "finite numbers by token id")
        _check(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "a positive number of tokens")
        fine = 0 <= self.min_new_tokens <= self.max_new_tokens
        _check(fine, "min_new_tokens", self.min_new_tokens, f"a number from 0 to max_new_tokens {self.max_new_tokens}")
        fine = self.seed is None or 0 <= self.seed <= LARGEST_SEED
        _check(fine, "seed", self.seed, f"a whole number from 0 to {LARGEST_SEED}, or none for a random one")
        _check(all(self.stop), "stop", self.stop, "strings that aren't empty")

    def with_defaults(self, folder: Any, given: Container[str]) -> "SamplingConfig":
        """The same with what a model's folder says of how tokens are chosen, where that isn't `given` by its name.

        Args:
            folder: the model's `GenerationConfig`; one that says nothing of sampling changes nothing.
            given: names of settings that stay.

        Raises:
            UserError: a value of the folder's is out of its range.
        """
        if not getattr(folder, "do_sample", None):
            return self
        said = {name: getattr(folder, name, None) for name in FOLDERS if name not in given}
        return replace(self, **{name: value for name, value in said.items() if value is not None})

    def for_transformers(self) -> dict[str, Any]:
        """What a model folder's generation_config.json says, so that transformers' `generate` chooses tokens like this.

        Without `do_sample` it would take the likeliest token whatever temperature, top_p or seed a client asks for.
        """
        if self.temperature == 0:
            return {"do_sample": False}
        values: dict[str, Any] = {"do_sample": True, "temperature": self.temperature}
        values |= {"top_k": self.top_k, "top_p": self.top_p}  # top_k is 50 where it isn't given
        if self.min_p:
            values["min_p"] = self.min_p
        if self.repetition_penalty != 1:
            values["repetition_penalty"] = self.repetition_penalty
        return values


def _check(fine: bool, name: str, value: object, expected: str) -> None:
    if not fine:
        raise UserError(f"{name} out of range: {value}: give {expected}")
