"""Measures of a text's quality: scripts, sentence ends, markup, symbols, repetition."""

import re
import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sioconv.data.cleaning.config import Quality, Repetition
from sioconv.data.cleaning.ngrams import ngram_pieces

WINDOW, NGRAM = 10_000, 10  # repetition is looked for in windows, so that it doesn't grow with the text
FEW_LINES = 4  # fewer than these may repeat: a verse with its refrain
LONGEST = 1_000_000  # characters that are judged: the beginning tells what a longer text is made of

KANA = ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))
HAN = ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
LATIN = ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A))
HANGUL = ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF))
CYRILLIC = ((0x400, 0x52F),)
SCRIPTS = {"ja": KANA + HAN, "zh": HAN, "ko": HANGUL + HAN, "ru": CYRILLIC, "uk": CYRILLIC}

SENTENCE_END = re.compile(r"""[。．！？｡]+|[.!?…][)"'”’」』]*(?=\s|$)""")
MARKUP = re.compile(
    r"</?[a-zA-Z][^<>\n]{0,300}>|&(?:[a-zA-Z]{2,8}|#\d{1,7});"  # HTML
    r"|\{\{[^{}]{0,500}\}\}|\{\||\|\}|\[\[|\]\]|\{\{|\}\}|'{2,}|^[|!][^\n]*"  # wikitext
    r"|https?://[^\s<>\"')]+"
    r"|^[^\n]*[;{}][ \t]*$",  # lines of a program or style sheet
    re.MULTILINE,
)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LETTER, DIGIT, PUNCTUATION, SPACE, SYMBOL = range(5)
CLASSES = {"L": LETTER, "M": LETTER, "N": DIGIT, "P": PUNCTUATION, "Z": SPACE}


def repetition(text: str, limits: Repetition) -> str | None:
    """Why a text repeats itself too much; None where it doesn't."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if len(lines) >= FEW_LINES and 1 - len(set(lines)) / len(lines) > limits.lines:
        return "repeated lines"
    longest = max((match.end() - match.start() for match in re.finditer(r"(\S)\1{9,}", text)), default=0)
    if longest > limits.run * len(text):
        return "one character over and over"
    total = repeated = 0
    for hashes in ngram_pieces(text, NGRAM, WINDOW):
        hashes.sort()
        total += len(hashes)
        repeated += int(np.count_nonzero(hashes[1:] == hashes[:-1]))
    return "repeated passages" if repeated > limits.characters * max(total, 1) else None


def quality(text: str, limits: Quality, language: str) -> str | None:
    """Why a text isn't running text of `language`; None where it is."""
    text = text[:LONGEST]
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")  # [characters]
    classes = _classes()[codes]  # [characters]
    visible = int(np.count_nonzero(classes != SPACE))
    letters = codes[classes == LETTER]
    if not len(letters):
        return "no letters"
    if np.count_nonzero(classes == SYMBOL) > limits.symbols * visible:
        return "too many symbols"
    if _markup(text) > limits.markup * len(text):
        return "markup or code"
    scripts = SCRIPTS.get(language, LATIN)
    if _count(letters, scripts) < limits.language * len(letters):
        return "another language"
    if language == "ja":
        kana = _count(letters, KANA)
        if kana < limits.kana * (kana + _count(letters, HAN)):
            return "hardly any kana"
    sentences = sum(1 for _ in SENTENCE_END.finditer(text))
    return "too few sentence ends" if len(text) > limits.sentence * max(sentences, 1) else None


def _markup(text: str) -> int:
    """Characters of a text that are markup or code."""
    last = text.rfind("-->") + 3  # behind it no comment ends, so looking for one from each beginning would take long
    rest = COMMENT.sub("", text[:last]) + text[last:] if last > 2 else text
    return len(text) - len(rest) + sum(match.end() - match.start() for match in MARKUP.finditer(rest))


def _count(codes: NDArray[np.uint32], ranges: tuple[tuple[int, int], ...]) -> int:
    return sum(int(np.count_nonzero((codes >= first) & (codes <= last))) for first, last in ranges)


@cache
def _classes() -> NDArray[np.uint8]:
    """[every code point]: LETTER, DIGIT, PUNCTUATION, SPACE (control characters among it) or SYMBOL."""
    table = np.full(0x110000, SYMBOL, np.uint8)
    for code in range(len(table)):
        category = unicodedata.category(chr(code))
        table[code] = SPACE if category == "Cc" else CLASSES.get(category[0], SYMBOL)
    return table
