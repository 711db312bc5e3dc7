"""Messages in their order, cut into conversations of two roles: the one who is learned, and everybody else."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from sioconv.importing.items import EMPTY, Message
from sioconv.importing.options import ImportOptions

HARD_LIMIT = 4  # times `longest`: where nobody replies, it is cut all the same
# What no text holds; what commands a terminal or turns its direction isn't learned either.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
Turn = dict[str, Any]


class Cutter:
    """Makes conversations of messages that come one at a time, holding one conversation in memory.

    A conversation ends at a pause, with its thread, and behind a reply where it has become long. What one side says in
    a row becomes one turn. A conversation without both sides, and what comes after the last reply, is left out.

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
        self._turns: list[Turn] = []
        self._counts: list[int] = []  # messages in each turn
        self._size = self._line = 0
        self._last: Message | None = None
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
        if self._last is not None and self._ends(message, role):
            yield from self.finish()
        self._last = message
        text = self._mask(CONTROLS.sub("", message.text.replace("\r\n", "\n").replace("\r", "\n"))).strip()
        if not text:
            self._leave_out(EMPTY, message.line, 1)
            return
        if self._options.names and role == "user":
            text = f"{self._mask(message.speaker)}: {text}"
        if not self._turns:
            self._line = message.line
        if self._turns and self._turns[-1]["role"] == role:
            self._turns[-1]["parts"].append(text)
            self._counts[-1] += 1
        else:
            self._turns.append({"role": role, "parts": [text]})
            self._counts.append(1)
        self._size += len(text)

    def finish(self) -> Iterator[list[Turn]]:
        """Ends the conversation that is held, and yields it where both sides speak in it."""
        turns = [{"role": turn["role"], "content": "\n".join(turn["parts"])} for turn in self._turns]
        counts, line = self._counts, self._line
        self._turns, self._counts, self._size, self._last = [], [], 0, None
        roles = {turn["role"] for turn in turns}
        if not turns:
            return
        if roles != {"user", "assistant"}:
            who = "nobody else speaks" if "assistant" in roles else "you say nothing"
            self._leave_out(f"messages of conversations in which {who}", line, sum(counts))
            return
        if turns[-1]["role"] == "user":
            self._leave_out("messages at the end of a conversation that you don't answer", line, counts[-1])
            turns.pop()
        if len(turns) == 1:  # a reply alone would teach to answer nothing
            self._leave_out("messages of conversations that you begin and don't go on with", line, counts[0])
            return
        yield turns

    def _ends(self, message: Message, role: str) -> bool:
        last = self._last
        assert last is not None
        if message.thread != last.thread:
            return True
        if message.time is not None and last.time is not None:
            pause = abs(message.time - last.time)  # edited exports may go back
            if pause > self._options.pause * 3600:
                return True
        answered = self._turns and self._turns[-1]["role"] == "assistant" and role == "user"
        if self._size > self._options.longest * (1 if answered else HARD_LIMIT):
            self.cut_long += 1
            return True
        return False
