"""Hashes of character n-grams, for comparing texts in languages with and without spaces between words."""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sioconv.data.cleaning.unicode_forms import normal_form

BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it loses bits
PIECE = 1 << 20  # characters that are hashed at once, however long a text is
UNCOMPARED = re.compile(r"[\W_]+")


def compared(text: str) -> str:
    """The letters and digits of a text in one spelling: what is left when two texts are asked whether they agree."""
    return UNCOMPARED.sub("", normal_form("NFKC", text).casefold())


def ngram_hashes(text: str, length: int) -> NDArray[np.uint64]:
    """[characters - length + 1] (or none): a hash of each n-gram, the same on every machine.

    Sums of characters times powers of a constant, modulo 2⁶⁴, put together from n-grams of half the length; their
    bits are then mixed (the finaliser of splitmix64: Steele, Lea, Flood 2014).
    """
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint64)  # [characters]
    if len(codes) < length:
        return np.empty(0, np.uint64)
    hashes, have = codes, 1
    with np.errstate(over="ignore"):
        for bit in bin(length)[3:]:
            hashes = hashes[: len(hashes) - have] * _power(have) + hashes[have:]
            have *= 2
            if bit == "1":
                hashes = hashes[: len(codes) - have] * BASE + codes[have:]
                have += 1
        hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return hashes ^ (hashes >> np.uint64(31))


def ngram_pieces(text: str, length: int, size: int = PIECE) -> Iterator[NDArray[np.uint64]]:
    """The same hashes in pieces of `size` (the last one shorter), so that a huge text needs no huge arrays."""
    for start in range(0, max(len(text) - length + 1, 0), size):
        yield ngram_hashes(text[start : start + size + length - 1], length)


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(int(BASE), exponent, 1 << 64))
