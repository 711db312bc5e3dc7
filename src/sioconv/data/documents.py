"""One document or conversation, checked: the unit that every part of `data` works on."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sioconv import unique_keys
from sioconv.data.conversations import FORMS, conversation_of, text_of
from sioconv.data.encodings import likely_encoding, why_no_text
from sioconv.errors import UserError

Kind = Literal["text", "chat"]
Split = Literal["train", "heldout"]
# Key of a record under which a reader counts, by name, what of it it hasn't read.
PARTS_LEFT_OUT = "parts_left_out"
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
        messages: turns, each with `role` (system, user, assistant) and `content`, and with the `weight` 0 where what
            the assistant says isn't learned.
        extra: whatever else the row carried (source, key, language, …).
    """

    id: str
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
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


class BadInput(UserError):
    """A row or file that isn't what it must be; where rows are counted instead of refused, it is counted.

    Args:
        what: bad row, broken file.
        where: `FILE:LINE`, or the file.
        problem: what is wrong.
        advice: what is expected, or what to do.
    """

    def __init__(self, what: str, where: str, problem: str, advice: str) -> None:
        super().__init__(f"{what}: {where}: {problem}: {advice}")
        self.what, self.where, self.problem, self.advice = what, where, problem, advice

    def __reduce__(self) -> tuple[type["BadInput"], tuple[str, str, str, str]]:
        """How one process hands it to another; by itself, an exception keeps only its message."""
        return BadInput, (self.what, self.where, self.problem, self.advice)


@dataclass(frozen=True)
class LeftOut:
    """A row that is as it must be but no document, such as a redirect.

    Args:
        where: `FILE:LINE` or like it.
        reason: why it is no document.
    """

    where: str
    reason: str


def parse_json(line: bytes, kind: Kind, where: str) -> dict[str, Any]:
    """The object in one line of JSON. Raises `BadInput` when the line isn't UTF-8 or isn't a JSON object."""
    try:
        record = unique_keys.loads(line.decode())
    except UnicodeDecodeError as error:
        raise bad_row(where, invalid_utf8(line, error, "line"), kind) from error
    except unique_keys.RepeatedKeyError as error:
        raise bad_row(where, str(error), kind) from error
    except (ValueError, RecursionError) as error:
        raise bad_row(where, f"not JSON ({error})", kind) from error
    return object_of(record, kind, where)


def invalid_utf8(data: bytes, error: UnicodeDecodeError, what: str) -> str:
    """The problem of bytes that aren't UTF-8, with the encoding that they are likely to be in."""
    likely = likely_encoding(data[data.rfind(b"\n", 0, error.start) + 1 :])
    return f"invalid UTF-8 at byte {error.start} of the {what}" + (f": it looks like {likely}" if likely else "")


def object_of(record: Any, kind: Kind, where: str) -> dict[str, Any]:
    """A JSON value if it is an object. Raises `BadInput` if it isn't, or if it is an error that stands for one."""
    if isinstance(record, unique_keys.RepeatedKeyError):
        raise bad_row(where, str(record), kind)
    if not isinstance(record, dict):
        raise bad_row(where, f"JSON {type(record).__name__} instead of an object", kind)
    return record


def row_of(
    record: Mapping[str, Any], kind: Kind, where: str, text_column: str = "text", ignored: Collection[str] = ()
) -> Row:
    """The row that a record (a JSON object, a row of a table) holds; a conversation's without its `ignored` keys.

    Raises `BadInput` when it lacks what it needs.
    """
    try:
        if kind == "chat":
            messages, extra = conversation_of(record, ignored)
            row = Row(where, messages=messages, extra=extra)
        else:
            extra = dict(record)
            row = Row(where, text=text_of(extra.pop(text_column, None), f'"{text_column}"'), extra=extra)
        if problem := why_no_row(row.texts):
            raise ValueError(problem)
    except ValueError as error:
        raise bad_row(where, str(error), kind) from error
    return row


def why_no_row(texts: Iterable[str]) -> str | None:
    """Why the texts of a row can't be learned; None where they can."""
    return next((problem for text in texts if (problem := why_no_text(text))), None)


def bad_row(where: str, problem: str, kind: Kind) -> BadInput:
    """The error for a row that isn't what it must be."""
    return BadInput("bad row", where, problem, f"expected {EXPECTED[kind]}")
