"""Conversations about the model itself, built from the name that it shall answer to."""

import json
import re
import unicodedata
from importlib.resources import files
from typing import Any

from sioconv.data.documents import Row
from sioconv.errors import UserError

TURNS = "identity.jsonl"
NAME = "{name}"
DENIAL = "denial"  # relation of the questions that ask after another name, which might be this one
WHO = ("name", DENIAL, "who", "human", "program")
# A name in which a quotation begins or ends can't be told from the words around it.
QUOTES = re.compile('["“”「」『』]')


def identity_rows(name: str, only_who: bool = False) -> list[Row]:
    """About 200 distinct conversations in Japanese and English in which the model goes by `name`.

    With `only_who` those single questions alone that ask who it is: a model that has learned a person's manner has
    its own greetings, and would tell in another manner what programs can do.

    `extra` holds the language, the `relation` (what is asked, for single questions) and the `key` that a right answer
    contains; every answer to a question after the name contains the name.

    Raises `UserError` for a name that is empty, too long, or holds quotation marks, line breaks or control characters.
    """
    check_name(name)
    rows: dict[str, Row] = {}
    lines = (files("sioconv.data.bundled") / TURNS).read_text(encoding="utf-8").splitlines()
    for line in lines:
        entry: dict[str, Any] = json.loads(line)
        first, *others = entry.pop("turns")
        if only_who and entry.get("relation") not in WHO:
            continue
        extra = {field: value.replace(NAME, name) for field, value in entry.items()}
        for wording in [first] if isinstance(first, str) else first:
            if extra.get("relation") == DENIAL and name.casefold() in wording.casefold():
                continue
            turns = [turn.replace(NAME, name) for turn in (wording, *others)]
            messages = [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(turns)]
            row = Row(f"identity:{name}:{len(rows) + 1}", messages=messages, extra={"source": "sioconv", **extra})
            rows.setdefault("\0".join(turns), row)
    return list(rows.values())


def check_name(name: str) -> None:
    """Raises `UserError` for a name that conversations can't be built from."""
    if not name.strip():
        raise UserError("the model's name is empty: identity: give it a name, such as identity:Shio")
    if len(name) > 40:
        raise UserError(f"the model's name is too long: {name[:40]!r}…: use at most 40 characters")
    if QUOTES.search(name) or any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
        raise UserError(f"the model's name can't be used: {name!r}: leave out quotation marks and line breaks")
    if name != name.strip():
        raise UserError(f"the model's name can't be used: {name!r}: leave out the spaces around it")
