"""Reads the values of a JSON array, or JSON texts one after the other, holding one value in memory at a time."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from sioconv.unique_keys import DECODER, RepeatedKeyError

CHUNK = 1 << 18  # characters that are read at once, at least
BETWEEN = re.compile(r"[\s,]*")
NEAR_END = 16  # characters: an error so near to the end of what was read may be of what comes next


def json_values(stream: TextIO) -> Iterator[Any]:
    """Yields the values of a stream: the elements, where it is one array, else whatever stands there.

    In the place of a value with a key that comes twice in an object it yields the RepeatedKeyError.

    Raises ValueError for what isn't JSON or breaks off, RecursionError for what is nested too deep.
    """
    text, place, inside, count = "", 0, False, 0
    while True:
        found = BETWEEN.match(text, place)
        place = found.end() if found else place
        if not count and not inside and text.startswith("[", place):
            place, inside = place + 1, True
        elif inside and text.startswith("]", place):
            if (text[place + 1 :] + stream.read(CHUNK)).strip():
                raise ValueError("something stands behind the array's end")
            return
        elif place < len(text) and (whole := _decoded(text, place)) is not None:
            value, place = whole
            count += 1
            yield value
        else:
            more = stream.read(max(CHUNK, len(text) - place))  # at least doubled: read again, it stays linear
            if not more:
                if place < len(text):
                    DECODER.raw_decode(text, place)  # says what is wrong
                if inside:
                    raise ValueError("the array isn't closed")
                return
            text, place = text[place:] + more, 0


def _decoded(text: str, place: int) -> tuple[Any, int] | None:
    """The value that begins at `place` and where it ends; None where it may go on behind the text."""
    try:
        try:
            value, end = DECODER.raw_decode(text, place)
        except RepeatedKeyError as error:
            value, end = error, json.JSONDecoder().raw_decode(text, place)[1]
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated string") or error.pos >= len(text) - NEAR_END:
            return None
        raise
    return value, end
