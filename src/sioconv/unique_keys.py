"""JSON whose objects have each key once: the library keeps the last of two, and forgets the other in silence."""

import json
from typing import Any


class RepeatedKeyError(ValueError):
    """An object has a key twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        again = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise RepeatedKeyError(f"the key {again[:100]!r} comes twice")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_once)


def loads(text: str) -> Any:
    """`json.loads`. Raises RepeatedKeyError, a ValueError, where an object has a key twice."""
    return DECODER.decode(text)
