"""One document or conversation, checked: the unit that every part of `data` works on."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from sioconv.data.conversations import FORMS, conversation_of, text_of
from sioconv.errors import UserError

Kind = Literal["text", "chat"]
Split = Literal["train", "heldout"]
ROLES = ("system", "user", "assistant")
EXPECTED = {
    "text": 'an object with a non-empty string "text"',
    "chat": f"an object with {FORMS}",
}


@dataclass(frozen=True)
class Row:
    """A document (`text`) or a conversation (`messages`); exactly one of the two is set.

    Args:
        id: where it came from, `FILE:LINE`.
        text: the document.
        messages: turns, each with `role` (system, user, assistant) and `content`.
        extra: whatever else the row carried (source, key, language, …).
    """

    id: str
    text: str | None = None
    messages: list[dict[str, str]] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        """The pieces of text of the row: the document, or what each turn says."""
        if self.messages is not None:
            return [message["content"] for message in self.messages]
        return [] if self.text is None else [self.text]


def split_of(row: Row, heldout: float) -> Split:
    """`heldout` for a share `heldout` of all contents, `train` for the others.

    A pure function of what the row says: the first 8 bytes of the SHA-256 of the text, or of the messages as
    canonical JSON, read as a number in [0, 1). The same content is on the same side wherever it turns up.
    """
    if row.messages is not None:
        content = json.dumps(row.messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    else:
        content = row.text or ""
    digest = hashlib.sha256(content.encode()).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") < heldout * 2.0**64 else "train"


def parse_line(line: bytes, kind: Kind, where: str) -> Row:
    """The row in one line of JSON.

    Raises `UserError` naming `where` when the line isn't UTF-8, isn't JSON, or isn't what `kind` needs.
    """
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise bad_row(where, f"invalid UTF-8 at byte {error.start} of the line", kind) from error
    except (ValueError, RecursionError) as error:
        raise bad_row(where, f"not JSON ({error})", kind) from error
    if not isinstance(record, dict):
        raise bad_row(where, f"JSON {type(record).__name__} instead of an object", kind)
    try:
        if kind == "chat":
            messages, extra = conversation_of(record)
            return Row(where, messages=messages, extra=extra)
        return Row(where, text=text_of(record.pop("text", None), '"text"'), extra=record)
    except ValueError as error:
        raise bad_row(where, str(error), kind) from error


def bad_row(where: str, problem: str, kind: Kind) -> UserError:
    """The error for a row that isn't what it must be."""
    return UserError(f"bad row: {where}: {problem}: expected {EXPECTED[kind]}")
