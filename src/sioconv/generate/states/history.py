"""What a session remembers of its own text, so that it can go back: snapshots, and the ids between them."""

import bisect
import copy
from array import array
from collections.abc import Iterable, Sequence

from sioconv.generate.states.state import State

OVERHEAD = 512  # bytes that a snapshot takes besides its tensors and ids, about


class History:
    """Snapshots of one text in its order, the ids that were read or written after each, and where its turns began.

    Where the budget is used up, the oldest snapshots are forgotten, and with them the ids before the next one.

    Args:
        start: what the text was when this history began.
        unread: ids after that.
        budget: bytes for snapshots and ids.
        turns: turns of the text before that.

    Attributes:
        bytes: what they take.
    """

    def __init__(self, start: State, unread: Sequence[int], budget: int, turns: int = 0) -> None:
        self.bytes = start.bytes + OVERHEAD
        self._budget = budget
        self._states = [start]
        self._ids: list[array[int]] = []  # those after each state but the last, up to the next state
        self._open = array("I", unread)  # those after the last one begin here, at `_first`
        self._first = 0
        self._end = start.tokens + len(unread)
        self._turns_before = turns
        self._starts = [self._end]  # where turns began, the open one last
        self._fed: list[tuple[int, int]] = []  # what wasn't written by the model, from one token to another
        self._forgotten: frozenset[int] = (
            frozenset()
        )  # ids of the turn in which the first state stands, before that state

    @property
    def start(self) -> int:
        """The first token that it is possible to go back to."""
        first = self._states[0].tokens
        return first + (first > 0)  # the last token before it is read again: it gives the next one's logits

    @property
    def snapshots(self) -> int:
        """How many there are."""
        return len(self._states)

    @property
    def turns(self) -> int:
        """Turns that were ended, those before this history included."""
        return self._turns_before + len(self._starts) - 1

    def copy(self) -> "History":
        """Another one with the same past; what is kept is shared."""
        other = copy.copy(self)
        other._states, other._ids, other._starts = self._states[:], self._ids[:], self._starts[:]
        other._open, other._first = self._open[self._first :], 0
        other._fed = self._fed[:]
        return other

    def write(self, token: int) -> None:
        """The model has written a token."""
        self._open.append(token)
        self._end += 1
        self.bytes += 4

    def feed(self, ids: Iterable[int]) -> None:
        """Ids that the model hasn't written come next."""
        before = len(self._open)
        self._open.extend(ids)
        self._fed.append((self._end, self._end + len(self._open) - before))
        self._end += len(self._open) - before
        self.bytes += 4 * (len(self._open) - before)

    def end_turn(self) -> None:
        """The next turn begins here."""
        self._starts.append(self._end)

    def add(self, state: State) -> None:
        """Keeps a snapshot of the text as it was after `state.tokens` tokens, unless a later one is there already."""
        count = state.tokens - self._states[-1].tokens
        if count <= 0:
            return
        self._ids.append(self._open[self._first : self._first + count])
        self._states.append(state)
        self._first += count
        if 2 * self._first >= len(self._open):  # so that each id is moved about once
            del self._open[: self._first]
            self._first = 0
        self.bytes += state.bytes + OVERHEAD
        while self.bytes > self._budget and len(self._states) > 1:
            self._forget()

    def _forget(self) -> None:
        """Drops the oldest snapshot."""
        old, ids = self._states.pop(0), self._ids.pop(0)
        self.bytes -= old.bytes + OVERHEAD + 4 * len(ids)
        first = self._states[0].tokens
        begun = [start for start in self._starts if old.tokens < start <= first]
        if begun:
            self._forgotten = frozenset()
            ids = ids[begun[-1] - old.tokens :]
        self._forgotten |= set(ids)
        gone = sum(start <= first for start in self._starts[:-1])
        # One start stays before the first snapshot: that of the turn in which it stands.
        drop = max(gone - 1, 0)
        del self._starts[:drop]
        self._turns_before += drop
        self._fed = [fed for fed in self._fed if fed[1] > first]

    def turn(self, back: int) -> int | None:
        """Where the turn began that is so many turns before the open one; None where that is forgotten."""
        start = self._starts[-1 - back] if back < len(self._starts) else -1
        return start if start >= self.start else None

    def before(self, tokens: int) -> State:
        """The nearest snapshot of the text as it was after at most so many tokens."""
        return self._states[self._at(tokens)]

    def turn_ids(self, tokens: int) -> set[int]:
        """The distinct ids of the turn in which a token stands, up to it."""
        start = max(start for start in [0, *self._starts] if start <= tokens)
        first = self._states[0].tokens
        return set(self.ids(max(start, first), tokens)) | (self._forgotten if start < first else frozenset())

    def written(self, tokens: int) -> list[int]:
        """What the model has written without a break before a token."""
        if tokens in self._starts:
            return []
        fed = [(begin, end) for begin, end in self._fed if begin < tokens]
        return self.ids(max(fed[-1][1] if fed else 0, self._states[0].tokens), tokens)

    def cut(self, tokens: int) -> None:
        """Forgets what came after so many tokens."""
        at = self._at(tokens)
        ids = self.ids(self._states[at].tokens, tokens)
        self._states, self._ids = self._states[: at + 1], self._ids[:at]
        self._open, self._first, self._end = array("I", ids), 0, tokens
        self._starts = [start for start in self._starts if start <= tokens] or self._starts[:1]
        self._fed = [(begin, min(end, tokens)) for begin, end in self._fed if begin < tokens]
        self.bytes = sum(each.bytes + OVERHEAD for each in self._states) + 4 * (tokens - self._states[0].tokens)

    def ids(self, first: int, last: int) -> list[int]:
        """The ids from one token to another."""
        found: list[int] = []
        at = self._at(first)
        while first < last:
            begin = self._states[at].tokens
            ids = self._ids[at] if at < len(self._ids) else self._open[self._first :]
            part = ids[first - begin : last - begin]
            found += part
            first, at = first + len(part), at + 1
        return found

    def _at(self, tokens: int) -> int:
        """The place of the nearest snapshot before a token."""
        return bisect.bisect_right(self._states, tokens, key=lambda state: state.tokens) - 1
