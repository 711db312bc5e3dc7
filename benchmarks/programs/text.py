"""The text that every program gets: train.jsonl and heldout.jsonl in one folder, and how they are made from files.

A line is `{"text": …, "language": …}`; the language is there to give figures for each, and may be left out.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sioconv.data.config import SourceConfig
from sioconv.data.sources.source import read_rows
from sioconv.errors import UserError
from sioconv.files import atomic_write

TRAIN, HELDOUT = "train.jsonl", "heldout.jsonl"
EVERY = 50  # of every so many documents one is held out, as long as there is room
HELDOUT_BYTES = 300_000  # of all languages together, each has its share


@dataclass(frozen=True)
class Document:
    """A text without space around it (one of the programs takes that away), and its language where it is known."""

    text: str
    language: str = ""

    @property
    def size(self) -> int:
        """UTF-8 bytes."""
        return len(self.text.encode())


def split_documents(files: dict[str, Path], folder: Path) -> None:
    """Writes train.jsonl and heldout.jsonl from one file of documents a language, training in a fixed random order.

    The order matters: a program that reads from the front would otherwise see one language first.

    Raises:
        UserError: the folder has a split already, or a file can't be read.
    """
    if (folder / TRAIN).exists() or (folder / HELDOUT).exists():
        raise UserError(f"{folder} has a {TRAIN} or {HELDOUT} already: leave --documents out, or give another --text")
    train: list[Document] = []
    heldout: list[Document] = []
    for language, file in files.items():
        room = HELDOUT_BYTES // len(files)
        texts = ((row.text or "").strip() for row in read_rows(SourceConfig(str(file))))
        for number, document in enumerate(Document(text, language) for text in texts if text):
            if number % EVERY == EVERY - 1 and document.size <= room:
                room -= document.size
                heldout.append(document)
            else:
                train.append(document)
    random.Random(0).shuffle(train)
    write_documents(train, folder / TRAIN)
    write_documents(heldout, folder / HELDOUT)


def write_documents(documents: Iterable[Document], path: Path) -> None:
    """Writes JSON lines, whole or not at all."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for document in documents:
            row = {"text": document.text} | ({"language": document.language} if document.language else {})
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_documents(path: Path) -> list[Document]:
    """The documents of a file, none of them empty.

    Raises:
        UserError: it isn't there, a line isn't such a row, or there is no text.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there: make it with --documents LANGUAGE=FILE …")
    documents = []
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line)
                documents.append(Document(row["text"].strip(), row.get("language", "")))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise UserError(f'{path}, line {number}: expected {{"text": "…"}} as JSON: mend the line') from None
    documents = [document for document in documents if document.text]
    if not documents:
        raise UserError(f"{path} has no text: give documents")
    return documents


def pieces(text: str, most: int) -> list[str]:
    """The text cut at ends of lines into pieces of at most `most` UTF-8 bytes; longer lines are cut within.

    Joined by nothing the pieces are the text again.
    """
    found, size = [""], 0
    for line in text.splitlines(keepends=True):
        for part in _cut(line, most):
            length = len(part.encode())
            if size + length > most and found[-1]:
                found.append("")
                size = 0
            found[-1] += part
            size += length
    return found


def _cut(line: str, most: int) -> list[str]:
    """A line in parts of at most `most` UTF-8 bytes, none of them cut within a character."""
    parts = []
    while len(line.encode()) > most:
        part = line.encode()[:most].decode(errors="ignore") or line[0]
        parts.append(part)
        line = line[len(part) :]
    return [*parts, line] if line else parts
