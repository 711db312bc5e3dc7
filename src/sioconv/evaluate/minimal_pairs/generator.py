"""Pairs of sentences that differ in one point of grammar, made of a language's templates and lists of words.

`japanese.yaml` and `english.yaml` hold both. A template's slots name a list: `{person}` is an entry of the list
`person`, `{act.past}` the form `past` of an entry of `act`; `{person2}` is another entry of `person`. Both sentences of
a pair take the same entries. The same seed gives the same pairs.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import yaml

from sioconv.errors import UserError

LANGUAGES = {"ja": "japanese.yaml", "en": "english.yaml"}
SLOT = re.compile(r"\{(\w+?)(\d?)[.}]")
IDLE = 5_000  # draws without a new pair: there are no more


@dataclass(frozen=True)
class Pair:
    """Two sentences of which only `good` is grammatical.

    Args:
        phenomenon: what they differ in.
        good: the grammatical one.
        bad: the other one.
    """

    phenomenon: str
    good: str
    bad: str


@lru_cache(maxsize=4)
def make_pairs(language: str, count: int = 100, seed: int = 0) -> tuple[Pair, ...]:
    """`count` pairs of each phenomenon of a language, all different, in the order of the file.

    Args:
        language: ja or en.
        count: pairs of a phenomenon.
        seed: of the choice of words.

    Raises:
        UserError: the words don't give so many different pairs.
    """
    lists, phenomena = _grammar(language)
    found: list[Pair] = []
    for name, templates in phenomena.items():
        draw = random.Random(f"{seed} {language} {name}")
        pairs: dict[Pair, None] = {}
        number = newest = 0
        while len(pairs) < count:
            if number - newest > IDLE:
                raise UserError(f"{language}, {name}: the words give {len(pairs)} different pairs: ask for fewer")
            good, bad = templates[number % len(templates)]
            entries = _entries(lists, good + bad, draw)
            pair = Pair(name, good.format_map(entries), bad.format_map(entries))
            number += 1
            if pair not in pairs:
                pairs[pair], newest = None, number
        found += pairs
    return tuple(found)


@cache
def _grammar(language: str) -> tuple[Mapping[str, Sequence[Any]], Mapping[str, Sequence[tuple[str, str]]]]:
    """The lists of words and the templates of each phenomenon."""
    text = (files("sioconv.evaluate.minimal_pairs") / LANGUAGES[language]).read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    lists = {
        name: [SimpleNamespace(**entry) if isinstance(entry, dict) else entry for entry in entries]
        for name, entries in values["lists"].items()
    }
    return lists, {name: [tuple(pair) for pair in pairs] for name, pairs in values["phenomena"].items()}


def _entries(lists: Mapping[str, Sequence[Any]], template: str, draw: random.Random) -> dict[str, Any]:
    """An entry for each slot; slots of the same list get different ones."""
    slots: dict[str, list[str]] = {}
    for name, number in dict.fromkeys(SLOT.findall(template)):
        slots.setdefault(name, []).append(name + number)
    return {
        slot: entry
        for name, wanted in slots.items()
        for slot, entry in zip(wanted, draw.sample(lists[name], len(wanted)), strict=True)
    }
