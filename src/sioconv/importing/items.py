"""What a file holds, whatever its form: messages, documents, finished conversations, and what is neither."""

from collections.abc import Iterator
from dataclasses import dataclass

STICKERS = "stickers"
MEDIA = "pictures, videos, voices and files"
CALLS = "calls"
SYSTEM = "lines of the app itself"
DELETED = "deleted messages"
BOTS = "messages of bots"
FORWARDED = "forwarded messages"
OTHERS = "places, contacts, polls and albums"
EMPTY = "empty messages"


@dataclass(frozen=True)
class Message:
    """One message of a chat.

    Args:
        speaker: the name that is shown beside it.
        text: what is said.
        time: when, in seconds on the clock of the export; None where the form doesn't say.
        person: what identifies the speaker where the form says more than a name.
        thread: messages of different threads belong to different conversations.
        account: the speaker's other name, where the form has one.
        line: where it begins, counted from 1; 0 where the form has no lines.
    """

    speaker: str
    text: str
    time: float | None = None
    person: str = ""
    thread: str = ""
    account: str = ""
    line: int = 0


@dataclass(frozen=True)
class Exchange:
    """A whole conversation of a question and an answer, as a row of a table may hold it.

    Args:
        question: what the user says.
        answer: what the assistant says.
    """

    question: str
    answer: str


@dataclass(frozen=True)
class Document:
    """A text.

    Args:
        text: the whole of it.
        title: its title, where the form has one.
        author: its author, where the form has one.
    """

    text: str
    title: str = ""
    author: str = ""


@dataclass(frozen=True)
class Left:
    """What is left out.

    Args:
        reason: why, in the plural: what a count stands before.
        line: where, counted from 1; 0 where the form has no lines.
        count: how many.
    """

    reason: str
    line: int = 0
    count: int = 1


@dataclass(frozen=True)
class Note:
    """What a reader has found out or guessed of a file, to be shown.

    Args:
        text: a short sentence without a full stop.
    """

    text: str


Item = Message | Exchange | Document | Left | Note
Items = Iterator[Item]
