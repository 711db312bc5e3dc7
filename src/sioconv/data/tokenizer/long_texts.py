"""Token ids of texts of any length in bounded memory: the tokenizers library needs hundreds of bytes a token."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer.tokenizer import encode_texts

PIECE = 1_000_000  # characters that are tokenised at once
STREAM_PIECE = 30_000  # the same, where the ids are read at once and forgotten
CONTEXT = 1_000  # characters on both sides of a cut that must give the same tokens with and without it
TRIES = 32
PLACES = re.compile(r"(?<=[^\n]\n)(?=\S)|(?<=[。！？])(?=\S)|(?<=[.!?])(?= \S)")


def is_long(text: str) -> bool:
    """Whether a text is better tokenised in pieces."""
    return len(text) > PIECE


def encode_long(tokenizer: PreTrainedTokenizerFast, text: str, bos: int, eos: int) -> NDArray[np.uint32]:
    """[tokens]: bos, what `encode_texts` gives for a text, put together from pieces, and eos.

    A text is cut at the end of a line or sentence where the tokens around the cut are the same without it. Where there
    is no such place, as with a tokenizer that adds a space before every text, it is tokenised as a whole.
    """
    pieces = (encode_texts(tokenizer, [piece])[0] for piece in _pieces(tokenizer, text))
    return np.concatenate([np.array(ids, np.uint32) for ids in chain([[bos]], pieces, [[eos]])])


def encode_stream(tokenizer: PreTrainedTokenizerFast, chunks: Iterable[str]) -> Iterator[list[int]]:
    """What `encode_texts` gives for a text that comes in chunks, a piece at a time.

    Memory stays the same however long the text is, but for the rest of a text in which there is no place for a cut.
    """
    rest, size = "", STREAM_PIECE
    for chunk in chunks:
        rest += chunk
        while size and len(rest) >= size + CONTEXT:
            stop = _cut(tokenizer, rest, 0, size)
            if stop is None:
                size = 0
            else:
                yield encode_texts(tokenizer, [rest[:stop]])[0]
                rest = rest[stop:]
    for piece in _pieces(tokenizer, rest):
        if piece:
            yield encode_texts(tokenizer, [piece])[0]


def _pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE:
        stop = _cut(tokenizer, text, start, PIECE)
        if stop is None:
            break
        yield text[start:stop]
        start = stop
    yield text[start:]


def _cut(tokenizer: PreTrainedTokenizerFast, text: str, start: int, size: int) -> int | None:
    """The last place in the second half of the next `size` characters at which a cut changes no token, or None."""
    half = start + size // 2
    # A place among the last characters is all that is wanted; the whole half is searched only where they have none.
    for first in (max(half, start + size - 64 * CONTEXT), half):
        places = [match.start() for match in PLACES.finditer(text, first, start + size)]
        for place in reversed(places[-TRIES:]):
            left, right = text[max(place - CONTEXT, 0) : place], text[place : place + CONTEXT]
            whole, one, other = encode_texts(tokenizer, [left + right, left, right])
            if whole == one + other:
                return place
    return None
