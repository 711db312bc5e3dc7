"""Names that the text is parted from by the same sign that stands in them: a space, or a colon."""

from collections.abc import Iterable
from dataclasses import dataclass, field

MOST_WORDS = 5  # of a name
MOST_NEXT = 12  # words that may follow a word in names; more are text
MOST_FIRST = 5000  # first words that are looked at
LEAST, LEAST_KNOWN = 3, 20  # messages of a name that are needed to tell it; the latter where a shorter one is given


@dataclass
class _Node:
    """A word at the beginning of messages.

    Args:
        count: how many messages begin so.
        ends: in how many of them the last word follows, which is text.
        following: the words behind it; None where they are too many for names.
    """

    count: int = 0
    ends: int = 0
    following: "dict[str, _Node] | None" = field(default_factory=dict)


class Names:
    """Finds names that go on behind the sign: where all that begins with a word goes on alike, that is the name too.

    Args:
        known: names that are known, such as one's own.
        sign: what parts words, and a name from its text.
    """

    def __init__(self, known: Iterable[str], sign: str = " ") -> None:
        self._sign, self._root = sign, _Node()
        self._known = {name for name in known if name}

    def add(self, begun: str) -> None:
        """Takes a message with its speaker in front, in memory that doesn't grow with their number."""
        if any(self._sign in name and begun.startswith(name + self._sign) for name in self._known):
            return
        node, words = self._root, begun.split(self._sign, MOST_WORDS + 1)
        if len(words) == 1 or (words[0] not in (node.following or {}) and len(node.following or {}) >= MOST_FIRST):
            return
        for word in words[:-1][:MOST_WORDS]:
            if node.following is None:
                return
            below = node.following.setdefault(word, _Node())
            below.count += 1
            if node is not self._root and len(node.following) > MOST_NEXT:
                node.following = None
            node = below
        node.ends += len(words) <= MOST_WORDS + 1

    def found(self) -> tuple[list[str], dict[str, int]]:
        """Names with the sign in them, the longest first; and those without it, with the number of their messages."""
        names = {name for name in self._known if self._sign in name}
        single = dict.fromkeys(self._known - names, LEAST)
        for word, node in (self._root.following or {}).items():
            for name in _names(word, node, self._sign, LEAST_KNOWN if word in self._known else LEAST):
                if self._sign in name:
                    names.add(name)
                else:
                    single[name] = max(single.get(name, 0), node.count)
        return sorted(names, key=len, reverse=True), single


def _names(name: str, node: _Node, sign: str, least: int) -> list[str]:
    """The names that begin with `name`."""
    following = node.following or {}
    alike = not node.ends and node.count >= least * len(following)
    if not following or not alike or (len(following) > 1 and min(each.count for each in following.values()) < 2):
        return [name]
    return [whole for word, each in following.items() for whole in _names(name + sign + word, each, sign, least)]
