"""Minimal pairs: does the model find the right sentence likelier than the one that differs in one point of grammar?"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sioconv.evaluate.bits import document_nats
from sioconv.evaluate.intervals import wilson
from sioconv.evaluate.minimal_pairs.generator import LANGUAGES, Pair, make_pairs
from sioconv.evaluate.subject import Subject
from sioconv.progress import say, track

CHANCE = 0.5


def check_pairs(count: int, seed: int) -> None:
    """Raises UserError where there aren't so many pairs: to be called before what takes minutes."""
    for language in LANGUAGES:
        make_pairs(language, count, seed)


def measure_pairs(subject: Subject, count: int, seed: int) -> dict[str, Any]:
    """Accuracy on `count` pairs of each phenomenon of each language, with Wilson intervals.

    A sentence's score is the log-probability of all its tokens (Warstadt et al. 2020, arXiv:1912.00582); two equal ones
    are half right.

    Returns:
        By language `{"accuracy", "interval", "pairs", "chance", "phenomena": {NAME: {"accuracy", "interval",
        "pairs"}}}`.
    """
    return {language: score(subject, make_pairs(language, count, seed), language) for language in LANGUAGES}


def score(subject: Subject, pairs: Sequence[Pair], language: str) -> dict[str, Any]:
    """`measure_pairs` of one language's pairs."""
    sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
    nats = np.zeros(len(sentences))
    tokens = subject.encode(sentences)
    if same := sum(good == bad for good, bad in zip(tokens[::2], tokens[1::2], strict=True)):
        say(
            f"warning: minimal pairs, {language}: {same:,} of {len(pairs):,} are one sentence to the tokenizer, which "
            "rewrites or drops characters: each of them is half right"
        )
    read = document_nats(subject.model, tokens)
    for i, each in track(read, f"minimal pairs, {language} (sentences)", len(sentences)):
        nats[i] = each
    subject.check(nats)
    good, bad = nats[::2], nats[1::2]
    right = (good < bad) + 0.5 * (good == bad)  # [pairs]
    names = np.array([pair.phenomenon for pair in pairs])
    phenomena = {name: _accuracy(right[names == name]) for name in dict.fromkeys(names.tolist())}
    return {**_accuracy(right), "chance": CHANCE, "phenomena": phenomena}


def _accuracy(right: Any) -> dict[str, Any]:
    total = float(right.sum())
    return {"accuracy": total / len(right), "interval": wilson(total, len(right)), "pairs": len(right)}
