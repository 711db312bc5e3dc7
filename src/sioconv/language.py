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
from functools import cache
from pathlib import Path
from typing import NamedTuple

VARIABLE = "SIOCONV_LANG"
LANGUAGES = ("en", "ja")
CATALOGUES = Path(__file__).parent / "locale"
# Values that may be a single word of ours; others are translated only where they are a sentence, not a user's word.
WORDS = ("when", "what", "first", "who", "how", "kind", "form", "description", "problem")
SURE = 12  # letters of its own by which a sentence within another one is recognised
DEEPEST = 3  # sentences within sentences
NAME = re.compile(r"{(\w+)}|({{)|(}})")
NOT_FIRST = "。、，．）」』】〉》！？・:;,.)]ーっゃゅょッャュョ"  # a line doesn't begin with these


class Pattern(NamedTuple):
    """A message with values in it."""

    letters: int
    texts: tuple[str, ...]
    form: re.Pattern[str]
    translation: str


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
        self._patterns = sorted(patterns, key=lambda pattern: -pattern.letters)

    def translate(self, text: str, depth: int = 0) -> str:
        """The translation of a whole message, and of the messages in its values."""
        if text in self._exact:
            return self._exact[text]
        for letters, texts, form, translation in self._patterns:
            if depth and letters < SURE:
                break
            if all(part in text for part in texts) and (found := form.fullmatch(text)):
                return self._filled(translation, found.groupdict(), depth)
        return text

    def _filled(self, translation: str, values: dict[str, str], depth: int) -> str:
        if depth < DEEPEST:
            values = {
                name: self.translate(value, depth + 1) if name in WORDS or len(value) >= SURE else value
                for name, value in values.items()
            }
        return NAME.sub(lambda name: values[name[1]] if name[1] else name[0][0], translation)


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
    texts, form, place = list[str](), "", 0
    for found in [*NAME.finditer(message), None]:
        text = message[place : found.start() if found else None]
        if found and found[1] is None:
            text += found[0][0]
        if text:
            texts.append(text)
            form += re.escape(text)
        if found:
            form += f"(?P<{found[1]}>.*?)" if found[1] else ""
            place = found.end()
    letters = sum(map(len, texts))
    return Pattern(letters, tuple(texts), re.compile(form, re.DOTALL), translation)


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


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
