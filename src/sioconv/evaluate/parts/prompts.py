"""Beginnings that a model continues: those of the recipe, or those of the user's own held-out text."""

import re
from collections.abc import Sequence
from dataclasses import replace

from sioconv.data.config import DataConfig
from sioconv.evaluate.config import EvaluateConfig
from sioconv.evaluate.heldout import Texts, heldout_texts

MOST_READ = 20_000  # bytes of a source
LONGEST = 24  # characters of a beginning, where no clause ends before
CLAUSE = re.compile(r"\S.{3,22}?[、。，,.]")


def own_prompts(given: Sequence[str], data: DataConfig, texts: Texts) -> list[str]:
    """The beginnings to continue.

    Where the recipe leaves the default ones, which suit the package's text, and has none of that text, it is the first
    held-out document of each source, up to the end of its first clause.

    Args:
        given: the recipe's.
        data: its sources.
        texts: their held-out documents.
    """
    bundled = any(source.path.startswith("bundled:") for source in data.sources.values())
    if bundled or list(given) != EvaluateConfig().prompts:
        return list(given)
    firsts = [documents[0] for documents in texts.values() if documents]
    return list(dict.fromkeys(beginning(text) for text in firsts[: len(given)])) or list(given)


def prompts_of_a_run(given: Sequence[str], data: DataConfig, texts: Texts, chat: DataConfig | None) -> list[str]:
    """The beginnings to continue after a run; none where it only tuned a model on conversations of the user's own.

    Args:
        given: the recipe's.
        data: the sources that were pretrained on.
        texts: their held-out documents.
        chat: what was tuned on; None where nothing was.
    """
    if data.sources or chat is None or list(given) != EvaluateConfig().prompts:
        return own_prompts(given, data, texts)
    own = {name: each for name, each in chat.sources.items() if each.kind == "text" and each.origin == "files"}
    found = heldout_texts(replace(chat, sources=own), MOST_READ) if own else {}
    return own_prompts(given, DataConfig(own), found) if any(found.values()) else []


def beginning(text: str) -> str:
    """The first clause of a text, or its first characters, up to a space where they have one."""
    text = text.strip()
    if found := CLAUSE.match(text):
        return found[0]
    words, space, _ = text[: LONGEST + 1].rpartition(" ")
    return words if space and len(text) > LONGEST else text[:LONGEST]
