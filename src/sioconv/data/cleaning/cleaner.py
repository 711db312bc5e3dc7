"""Cleaning documents one by one: a function of each document, so the same for every reader and number of tasks."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sioconv.data.cleaning.config import Cleaning, Length, Normalise
from sioconv.data.cleaning.decontaminate import overlap_finder
from sioconv.data.cleaning.quality import quality, repetition
from sioconv.data.cleaning.unicode_forms import normal_form
from sioconv.data.documents import Row
from sioconv.data.tally import Tally

EXCERPT = 160  # characters of a dropped document that a report shows
# What parts lines: with it, vertical tabs, form feeds and the separators of files, groups and records.
LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# Other control characters may stand between words: they become a space where nothing else parts these.
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f]+")
# Characters without width that say nothing; joiners stay, emoji are made with them, and so does the space without
# width in scripts that part words by it (Thai, Lao, Burmese, Khmer).
PARTED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
INVISIBLE = re.compile(f"[\xad\u2060\ufeff\ufffe\uffff]|(?<![{PARTED}])\u200b+|\u200b+(?![{PARTED}\u200b])")
HYPHENATED = re.compile("\xad(?=[ \t]*\n)")  # at the end of a line a soft hyphen is seen
# Kanji that Unicode takes for others of the same meaning, though names are written with them: 神 U+FA19 isn't 神.
KANJI = re.compile("[\uf900-\ufaff\U0002f800-\U0002fa1f]+")

Judge = Callable[[str], str | None]


class Cleaner:
    """Takes documents through the steps that look at one document alone, and counts what each of them drops.

    Args:
        cleaning: the steps.
        language: of the documents.

    Attributes:
        tallies: one for each step that can drop something, in order.

    Raises:
        UserError: the text to decontaminate against can't be read.
    """

    def __init__(self, cleaning: Cleaning, language: str) -> None:
        self._form = cleaning.normalise
        self._steps: list[tuple[Tally, Judge]] = []
        if cleaning.length:
            self._steps.append((Tally("length"), partial(_length, limits=cleaning.length)))
        if cleaning.repetition:
            self._steps.append((Tally("repetition"), partial(repetition, limits=cleaning.repetition)))
        if cleaning.quality:
            self._steps.append((Tally("quality"), partial(quality, limits=cleaning.quality, language=language)))
        if cleaning.decontaminate:
            self._steps.append((Tally("decontaminate"), overlap_finder(cleaning.decontaminate)))
        self.tallies = [tally for tally, _ in self._steps]

    def clean(self, row: Row) -> Row | None:
        """The row as the steps leave it; None where one of them drops it. Conversations pass as they are."""
        if row.text is None or not (self._form or self._steps):
            return row
        text = normalise(row.text, self._form) if self._form else row.text
        for tally, judge in self._steps:
            tally.seen += 1
            if reason := judge(text):
                tally.drop(reason, row.id, excerpt(text))
                return None
        return row if text == row.text else replace(row, text=text)


def normalise(text: str, step: Normalise) -> str:
    """The text in the Unicode form, its line ends as line feeds, without invisible characters.

    No words are glued, and kanji stay as they are written.
    """
    text = HYPHENATED.sub("-", LINE_ENDS.sub("\n", text))
    text = CONTROLS.sub(_space, INVISIBLE.sub("", text))
    between = KANJI.split(text)
    written = [*KANJI.findall(text), ""]
    return "".join(normal_form(step.form, part) + kanji for part, kanji in zip(between, written, strict=True))


def _space(controls: re.Match[str]) -> str:
    before, behind = controls.string[: controls.start()][-1:], controls.string[controls.end() :][:1]
    return " " if before.strip() and behind.strip() else ""


def excerpt(text: str) -> str:
    """The beginning of a text on one line."""
    start = " ".join(text[: 4 * EXCERPT].split())
    return start if len(start) <= EXCERPT and len(text) <= 4 * EXCERPT else start[:EXCERPT] + "…"


def _length(text: str, limits: Length) -> str | None:
    length = len(text.strip())
    if length < limits.least:
        return "too short"
    return "too long" if limits.most is not None and length > limits.most else None
