"""The language that the program speaks: English as it stands in the code, or Japanese from a gettext catalogue.

A message is translated where it is shown, not where it is made: the code raises and prints whole English sentences, the
catalogue has them with `{names}` in place of their values, and a sentence is recognised by the longest text that fits.
Files, JSON and what other programs read are never translated.
"""

import gettext
import os
import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

VARIABLE = "SIOCONV_LANG"
LANGUAGES = ("en", "ja")
CATALOGUES = Path(__file__).parent / "locale"
# Values that may be a single word of ours; others are translated only where they are a sentence, not a user's word.
WORDS = (
    "when", "what", "first", "who", "how", "kind", "form", "description", "problem", "found", "kept", "expected",
    "place",
)  # fmt: skip
SURE = 12  # letters of its own by which a sentence within another one is recognised
DEEPEST = 4  # sentences within sentences
MOST_WAYS = 64  # to cut a text into the values of a message
LONGEST = 1000  # letters of a text that is looked up: there are too many ways to cut a longer one
WORD = re.compile("[A-Za-z]")
NAME = re.compile(r"{(\w+)}|({{)|(}})")
NOT_FIRST = "。、，．）」』】〉》！？・:;,.)]ーっゃゅょッャュョ"  # a line doesn't begin with these


class Pattern(NamedTuple):
    """A message with values in it: `texts[0]`, the value `names[0]`, `texts[1]`, …"""

    letters: int
    texts: tuple[str, ...]
    names: tuple[str, ...]
    translation: str

    def values(self, text: str) -> Iterator[dict[str, str]]:
        """What the values are, if the text is this message: in every way, as a value may hold the text behind it."""
        first, *others = self.texts
        if text.startswith(first) and all(part in text for part in others):
            for found in islice(_cuts(text[len(first) :], others), MOST_WAYS):
                yield dict(zip(self.names, found, strict=True))


def _cuts(text: str, texts: list[str]) -> Iterator[tuple[str, ...]]:
    """The values before each of the texts, the last of which is the end."""
    part, *others = texts
    if not others:
        if text.endswith(part):
            yield (text.removesuffix(part),)
        return
    place = text.find(part)
    while place >= 0:
        for found in _cuts(text[place + len(part) :], others):
            yield text[:place], *found
        place = text.find(part, place + 1) if part else -1


def language() -> str:
    """`ja` or `en`: what SIOCONV_LANG says (which --lang sets), else the locale."""
    for name in (VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return "ja" if value.lower().startswith("ja") else "en"
    return "en"


def choose_language(arguments: list[str]) -> list[str]:
    """Takes `--lang` out of the arguments and lets it, and what this process starts, speak so.

    Raises ValueError for a language that there isn't.
    """
    rest, words = list[str](), list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":
            return [*rest, word, *words]
        key, equals, value = word.partition("=")
        if key != "--lang":
            rest.append(word)
            continue
        value = value if equals else words.pop(0) if words else ""
        if value not in LANGUAGES:
            raise ValueError(value)
        os.environ[VARIABLE] = value
    return rest


def translated(text: str) -> str:
    """A message in the user's language; as it is where the catalogue doesn't have it."""
    chosen = language()
    return text if chosen == "en" else catalogue(chosen).translate(text)


class Catalogue:
    """The messages of a language.

    Args:
        messages: English → translation, both with `{names}` for values, `{{` and `}}` for braces.
    """

    def __init__(self, messages: dict[str, str]) -> None:
        self._exact = {_plain(key): _plain(value) for key, value in messages.items() if not _names(key)}
        patterns = (_pattern(key, value) for key, value in messages.items() if _names(key))
        self._patterns = sorted(
            patterns, key=lambda pattern: pattern.letters
        )  # of equals, the one that knows more inside

    def translate(self, text: str) -> str:
        """The translation of a whole message, and of the messages in its values; a very long text as it is."""
        return text if len(text) > LONGEST else self._known(text, 0)[1]

    @lru_cache(maxsize=1024)  # noqa: B019  # catalogues live as long as the program
    def _known(self, text: str, depth: int) -> tuple[int, str]:
        """How many letters of a text are ours, and its translation: of all messages that fit, that which knows most."""
        if text in self._exact:
            return len(text), self._exact[text]
        if not WORD.search(text):
            return 0, text
        best = -len(text), text  # below any pattern
        for pattern in self._patterns:
            for values in pattern.values(text):
                more, filled = self._filled(pattern.translation, values, depth)
                best = max(best, (pattern.letters + more, filled), key=lambda each: each[0])
        return best if best[0] > -len(text) else (0, text)

    def _filled(self, translation: str, values: dict[str, str], depth: int) -> tuple[int, str]:
        """A translation with its values in it, and how many letters of these are ours."""
        letters = 0
        if depth < DEEPEST:
            for name, value in values.items():
                if len(value) < SURE and name not in WORDS:
                    continue
                known, inner = self._known(value, depth + 1)
                if known >= SURE or (known and name in WORDS):
                    letters, values[name] = letters + known, inner
        return letters, NAME.sub(lambda name: values[name[1]] if name[1] else name[0][0], translation)


@cache
def catalogue(chosen: str) -> Catalogue:
    """The catalogue of a language, read once."""
    found = gettext.translation("sioconv", CATALOGUES, [chosen])
    messages: dict[str, str] = found._catalog  # type: ignore[attr-defined]  # gettext can't list what it has read
    return Catalogue({key: value for key, value in messages.items() if key})


def _names(message: str) -> list[str]:
    return [found[1] for found in NAME.finditer(message) if found[1]]


def _plain(message: str) -> str:
    return message.replace("{{", "{").replace("}}", "}")


def _pattern(message: str, translation: str) -> Pattern:
    texts, names, place = [""], list[str](), 0
    for found in NAME.finditer(message):
        texts[-1] += message[place : found.start()]
        if found[1]:
            names.append(found[1])
            texts.append("")
        else:
            texts[-1] += found[0][0]
        place = found.end()
    texts[-1] += message[place:]
    # Signs between values, as in "{name}.{error}", know nothing: what is in the values may be one message with them.
    letters = sum(map(len, texts)) if WORD.search("".join(texts)) else -1
    return Pattern(letters, tuple(texts), tuple(names), translation)


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def padded(text: str, width: int) -> str:
    """The text with spaces behind it, so many columns wide."""
    return text + " " * (width - columns(text))


def wrapped(text: str, width: int) -> Iterator[str]:
    """Lines of at most so many columns; Japanese may be cut between any two letters, other text at spaces."""
    line = ""
    for word in re.findall(r"[!-~]+|\s+|[^!-~\s]", " ".join(text.split())):
        if line and columns(line + word) > width and word not in NOT_FIRST:
            yield line.rstrip()
            line = ""
        line += word if line else word.lstrip()
    if line.strip():
        yield line.rstrip()


def hung(line: str, width: int) -> Iterator[str]:
    """A line as lines of at most so many columns; what doesn't fit goes on below its last column, or a little indented.

    Columns are parted by two spaces or more. Words and their spaces stay as they are.
    """
    if columns(line) <= width:
        yield line
        return
    last = max((found.end() for found in re.finditer(r"\S {2,}(?=\S)", line)), default=0)
    first = len(line) - len(line.lstrip(" "))
    indent = columns(line[:last]) if last and columns(line[:last]) <= width * 2 // 3 else first + 2
    kept, is_empty = "", True
    for word in re.findall(r"[!-~]+|\s+|[^!-~\s]", line):
        if not is_empty and columns(kept + word.rstrip()) > width - 2 * (word not in NOT_FIRST):
            yield kept.rstrip()
            kept, is_empty, word = " " * indent, True, word.lstrip()
        kept += word
        is_empty = is_empty and not word.strip()
    if not is_empty:
        yield kept.rstrip()
