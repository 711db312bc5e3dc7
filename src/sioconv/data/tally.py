"""Counting what is read, left out and dropped, with examples: nothing is lost without being said."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sioconv.data.documents import BadInput
from sioconv.errors import UserError

EXAMPLES = 5  # of each reason
REASONS = 40  # counted apart; what else there is goes together
REASONS_SAID = 3  # in one line
OTHER = "other reasons"
HOPELESS = 1000  # so many bad rows and not a good one: the source isn't what the recipe says


@dataclass
class Counted:
    """How often something happened, and where first.

    Args:
        count: how often.
        examples: the first of them, each where it was and what was there.
    """

    count: int = 0
    examples: list[list[str]] = field(default_factory=list)

    def add(self, where: str, what: str, times: int = 1) -> None:
        """Counts one place at which it happened, `times` times."""
        self.count += times
        if len(self.examples) < EXAMPLES:
            self.examples.append([where, what])


@dataclass
class Tally:
    """What became of the rows of a source, or of the documents that came to a step.

    Args:
        name: the step.
        seen: rows or documents that came in, those that were left out included.
        bad: rows and files among them that can't be used.
        left_out: by reason.
        parts: by name, what was left out of rows that are kept.
        beside: by key, text that stands beside the turns of conversations and isn't learned.
        strict: whether the first bad one is an error.
    """

    name: str
    seen: int = 0
    bad: int = 0
    left_out: dict[str, Counted] = field(default_factory=dict)
    parts: dict[str, Counted] = field(default_factory=dict)
    beside: dict[str, Counted] = field(default_factory=dict)
    strict: bool = False

    @property
    def left_out_total(self) -> int:
        """How many were left out."""
        return sum(counted.count for counted in self.left_out.values())

    def drop(self, reason: str, where: str, what: str) -> None:
        """Counts one that is left out; it must have been counted as seen."""
        self.left_out.setdefault(known_or_other(self.left_out, reason), Counted()).add(where, what)

    def refuse(self, error: BadInput) -> None:
        """Counts a row or file that can't be used. Raises the error where that is asked for, or nothing else comes."""
        if self.strict:
            raise error
        self.seen += 1
        self.bad += 1
        # A reason is what is the same in many messages: without numbers, and without what a parser adds.
        reason = re.sub(r"\d+", "N", re.sub(r" \(.*\)$", "", error.problem))
        self.drop(reason, error.where, error.problem)
        if self.seen == self.bad == HOPELESS:
            raise UserError(f"none of the first {HOPELESS:,} rows can be used; the last of them: {error}")


def known_or_other(counted: Mapping[str, Counted], name: str) -> str:
    """The name to count something under: its own, as long as there aren't too many."""
    return name if name in counted or len(counted) < REASONS else OTHER


def merged(parts: Iterable[Tally]) -> Tally:
    """The tallies of all tasks as one; examples come from the first tasks that have any."""
    whole: Tally | None = None
    for part in parts:
        whole = whole or Tally(part.name)
        whole.seen += part.seen
        whole.bad += part.bad
        for reason, counted in part.left_out.items():
            _join(whole.left_out, known_or_other(whole.left_out, reason), counted)
        for name, counted in part.parts.items():
            _join(whole.parts, name, counted)
        for name, counted in part.beside.items():
            _join(whole.beside, known_or_other(whole.beside, name), counted)
    if whole is None:
        raise ValueError("merged: at least one tally expected")
    return whole


def examples_of(left_out: Mapping[str, Counted]) -> str:
    """One line: for the first reasons where it was, what it was, and how many more there are of it."""
    parts = []
    for reason, counted in list(left_out.items())[:REASONS_SAID]:
        where, what = counted.examples[0]
        parts.append(f"{where}: {what or reason}" + f" and {counted.count - 1:,} more" * (counted.count > 1))
    more = len(left_out) - len(parts)
    return "; ".join(parts) + f"; and {more} other reasons" * (more > 0)


def _join(whole: dict[str, Counted], name: str, counted: Counted) -> None:
    into = whole.setdefault(name, Counted())
    into.count += counted.count
    into.examples += counted.examples[: EXAMPLES - len(into.examples)]


def as_json(tally: Tally) -> dict[str, Any]:
    """The tally as it stands in files."""
    values = asdict(tally)
    del values["strict"]
    return values


def from_json(values: dict[str, Any]) -> Tally:
    """The tally that `as_json` gave."""
    left_out, parts, beside = (
        {name: Counted(**counted) for name, counted in values.get(key, {}).items()}
        for key in ("left_out", "parts", "beside")
    )
    return Tally(values["name"], values["seen"], values["bad"], left_out, parts, beside)
