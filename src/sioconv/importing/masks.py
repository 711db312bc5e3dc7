"""Names, numbers and addresses out of messages; what stands in their place reads like text."""

import re
from collections import Counter
from collections.abc import Iterable

NAME, MAIL, PAGE = "〇〇", "mail@example.com", "https://example.com"
MAILS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
PAGES = re.compile(r"(?:https?://|www\.)[^\s<>「」（）()、。]+")
DASHES = "-‐‑–−ー－"
NUMBERS = re.compile(rf"\+?\d(?:\d|[{DASHES}() ](?=\d))*\d")
LEAST_DIGITS = 5  # telephones, postcodes, accounts; not years, prices and times
LEAST_SPACED = 9  # where spaces part them, as in some telephone numbers
SHORTEST_NAME = 2  # characters: one alone would be found in every word


class Masker:
    """Masks texts and counts what it masks.

    Args:
        names: who speaks; parts of a name that spaces part are masked as well.
        also: other words, masked whatever their length.
    """

    def __init__(self, names: Iterable[str], also: Iterable[str]) -> None:
        parts = {part for name in names for part in (name.strip(), *re.split(r"[\s\u3000]+", name.strip()))}
        words = {part for part in parts if len(part) >= SHORTEST_NAME} | {word for word in also if word}
        self.short = sorted(part for part in parts - words if part)
        ordered = sorted(words, key=len, reverse=True)
        self._names = re.compile("|".join(map(_whole, ordered)), re.IGNORECASE) if ordered else None
        self.counts: Counter[str] = Counter()

    def mask(self, text: str) -> str:
        """The text with signs in the place of what isn't to be learned."""
        for what, pattern, sign in (("addresses", MAILS, MAIL), ("addresses", PAGES, PAGE)):
            text, count = pattern.subn(sign, text)
            self.counts[what] += count
        if self._names is not None:
            text, count = self._names.subn(NAME, text)
            self.counts["names"] += count
        return NUMBERS.sub(self._number, text)

    def _number(self, found: re.Match[str]) -> str:
        digits = sum(character.isdigit() for character in found[0])
        if digits < (LEAST_SPACED if re.search(r"[ ()]", found[0]) else LEAST_DIGITS):
            return found[0]
        self.counts["numbers"] += 1
        return re.sub(r"\d", "0", found[0])


def _whole(word: str) -> str:
    """A pattern of the word; in Latin letters only where it isn't part of a longer one."""
    pattern = re.escape(word)
    return (r"\b" if re.match(r"[A-Za-z]", word) else "") + pattern + (r"\b" if re.search(r"[A-Za-z]$", word) else "")
