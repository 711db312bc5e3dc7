"""Messages in their order, cut into conversations of two roles: the one who is learned, and everybody else."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

from sioconv.errors import UserError
from sioconv.importing.items import EMPTY, Item, Items, Message, Note
from sioconv.importing.options import ImportOptions

MOST_OPEN = 256  # threads that may go on; the one that waits longest ends where there are more
TOLD = 2000  # messages that tell whether the newest stands first
MOST_TURNED = 1_000_000  # messages that are turned around in memory
HARD_LIMIT = 4  # times `longest`: where nobody replies, it is cut all the same
# What no text holds; what commands a terminal or turns its direction isn't learned either.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
Turn = dict[str, Any]


@dataclass
class _Open:
    """A conversation that may go on.

    Args:
        turns: who says what, in parts.
        counts: messages in each turn.
        size: characters in all.
        line: where it begins.
        last: its last message.
    """

    turns: list[Turn] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    size: int = 0
    line: int = 0
    last: Message | None = None


class Cutter:
    """Makes conversations of messages that come one at a time, holding one conversation of each thread in memory.

    A conversation ends at a pause, and behind a reply where it has become long; threads may come in turns. What one
    side says in a row becomes one turn. A conversation without both sides, and what comes after the last reply, is left
    out.

    Args:
        options: names, pauses and lengths.
        leave_out: counts what is left out: gets a reason, the line where it was, and how many.
        mask: is applied to every text.
    """

    def __init__(
        self, options: ImportOptions, leave_out: Callable[[str, int, int], None], mask: Callable[[str], str] = str
    ) -> None:
        self._options, self._leave_out, self._mask = options, leave_out, mask
        self._me = {name.strip() for name in options.me}
        self._open: dict[str, _Open] = {}  # by thread, the one that waits longest first
        self.cut_long = 0
        self.persons: dict[str, set[str]] = {}
        self.speakers: Counter[str] = Counter()
        self.mine: Counter[str] = Counter()

    def add(self, message: Message) -> Iterator[list[Turn]]:
        """Takes a message; yields the conversation before it, where that is finished by it."""
        self.speakers[message.speaker] += 1
        names = {message.speaker, message.person, message.account} & self._me
        for name in names:
            self.mine[name] += 1
            self.persons.setdefault(name, set()).add(message.person)
        role = "assistant" if names else "user"
        open = self._open.pop(message.thread, None)
        if open is not None and self._ends(open, message, role):
            yield from self._finished(open)
            open = None
        self._open[message.thread] = open = open or _Open()
        if len(self._open) > MOST_OPEN:
            yield from self._finished(self._open.pop(next(iter(self._open))))
        open.last = message
        text = self._mask(CONTROLS.sub("", message.text.replace("\r\n", "\n").replace("\r", "\n"))).strip()
        if not text:
            self._leave_out(EMPTY, message.line, 1)
            return
        if self._options.names and role == "user":
            text = f"{self._mask(message.speaker)}: {text}"
        if not open.turns:
            open.line = message.line
        if open.turns and open.turns[-1]["role"] == role:
            open.turns[-1]["parts"].append(text)
            open.counts[-1] += 1
        else:
            open.turns.append({"role": role, "parts": [text]})
            open.counts.append(1)
        open.size += len(text)

    def finish(self) -> Iterator[list[Turn]]:
        """Ends all conversations that are held, and yields those in which both sides speak."""
        for open in self._open.values():
            yield from self._finished(open)
        self._open.clear()

    def _finished(self, open: _Open) -> Iterator[list[Turn]]:
        turns = [{"role": turn["role"], "content": "\n".join(turn["parts"])} for turn in open.turns]
        roles = {turn["role"] for turn in turns}
        if not turns:
            return
        if roles != {"user", "assistant"}:
            who = "nobody else speaks" if "assistant" in roles else "you say nothing"
            self._leave_out(f"messages of conversations in which {who}", open.line, sum(open.counts))
            return
        if turns[-1]["role"] == "user":
            self._leave_out("messages at the end of a conversation that you don't answer", open.line, open.counts[-1])
            turns.pop()
        if len(turns) == 1:  # a reply alone would teach to answer nothing
            self._leave_out("messages of conversations that you begin and don't go on with", open.line, open.counts[0])
            return
        yield turns

    def _ends(self, open: _Open, message: Message, role: str) -> bool:
        last = open.last
        assert last is not None
        if message.time is not None and last.time is not None:
            pause = abs(message.time - last.time)  # edited exports may go back
            if pause > self._options.pause * 3600:
                return True
        answered = open.turns and open.turns[-1]["role"] == "assistant" and role == "user"
        if open.size > self._options.longest * (1 if answered else HARD_LIMIT):
            self.cut_long += 1
            return True
        return False


def in_order(items: Items, name: str) -> Items:
    """The items, from the last to the first where time runs backwards in them.

    Raises UserError where that is more than fits into memory.
    """
    held, times = list[Item](), list[float]()
    for item in items:
        held.append(item)
        if isinstance(item, Message) and item.time is not None:
            times.append(item.time)
        if len(held) == TOLD:
            break
    steps = [later - earlier for earlier, later in pairwise(times)]
    back = sum(step < 0 for step in steps)
    if back < 2 or back <= 2 * sum(step > 0 for step in steps):
        yield from chain(held, items)
        return
    turned = list[Message]()
    for item in chain(held, items):
        if isinstance(item, Message):
            turned.append(item)
        else:
            yield item
        if len(turned) > MOST_TURNED:
            raise UserError(f"newest first: {name}: more than {MOST_TURNED:,} messages: sort it by time first")
    yield Note("its newest messages stand first: it is read from the end")
    yield from reversed(turned)
