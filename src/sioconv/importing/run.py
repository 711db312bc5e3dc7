"""Importing: files in, JSON lines out, with an account of what was taken, left out and why."""

import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from sioconv.data.documents import why_no_row
from sioconv.data.encodings import name_of
from sioconv.data.tally import Counted
from sioconv.errors import UserError
from sioconv.files import atomic_write, shown
from sioconv.importing.conversations import CONTROLS, Cutter, in_order
from sioconv.importing.forms import TITLES, Piece, pieces_of
from sioconv.importing.items import Document, Exchange, Items, Left, Message, Note
from sioconv.importing.masks import Masker
from sioconv.importing.options import ImportOptions
from sioconv.language import translated
from sioconv.progress import track

MAY_BE_TURNED = ("table", "discord")  # forms that may have the newest message first
PREVIEWED = 3  # rows that are kept to be shown
MANY_SPEAKERS = 2  # more than these two are a group
PEEKED = 200_000  # messages that are read to say who speaks


@dataclass
class FileAccount:
    """What became of one file.

    Args:
        name: the file.
        form: what it is.
        encoding: the encoding that it was read in, where it is a file of text.
        notes: what was guessed.
        messages: how many messages were read.
    """

    name: str
    form: str
    encoding: str | None = None
    notes: list[str] = field(default_factory=list)
    messages: int = 0


@dataclass
class Account:
    """What became of all files.

    Args:
        kind: `chat` or `text`: what a source of a recipe says; empty where there is nothing.
        files: each of them.
        rows: conversations or documents that are written.
        turns: turns in them.
        characters: characters in them.
        speakers: messages of each.
        left_out: by reason, with where it was first.
        masked: how much was masked, by kind.
        notes: what is to be known about all of it.
        preview: the first rows.
    """

    kind: str = ""
    files: list[FileAccount] = field(default_factory=list)
    rows: int = 0
    turns: int = 0
    characters: int = 0
    speakers: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, Counted] = field(default_factory=dict)
    masked: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    preview: list[dict[str, Any]] = field(default_factory=list)


def import_files(
    paths: Sequence[Path],
    out: Path | None,
    options: ImportOptions,
    agreed: Callable[[Account], bool] = lambda _: True,
) -> Account:
    """Imports files; returns the account.

    Args:
        paths: files, ZIP archives and folders.
        out: the file of JSON lines, which appears whole or not at all, for its owner's eyes alone; None writes none.
        options: how.
        agreed: is asked before the file takes its place.

    Raises:
        UserError: what can't be read, or has nothing to learn from; a name that nobody or more than one has.
    """
    options.check()
    pieces = [piece for path in paths for piece in pieces_of(path, options)]
    masker = Masker(_names(pieces, options), options.mask_also) if options.mask or options.mask_also else None
    importer = _Importer(options, masker)
    if out is None:
        for _ in importer.rows(pieces):
            pass
        importer.check()
        return importer.account
    with atomic_write(out, private=True) as temporary:
        with temporary.open("w", encoding="utf-8") as stream:
            _write(importer.rows(pieces), stream)
        importer.check()
        if not agreed(importer.account):
            raise UserError(f"nothing is written: {shown(out)}: say y, or give --yes")
    return importer.account


def _write(rows: Iterator[dict[str, Any]], stream: TextIO) -> None:
    for row in rows:
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _names(pieces: Sequence[Piece], options: ImportOptions) -> set[str]:
    """Everybody who speaks: to be masked, they must be known before the first message is written."""
    names = set(options.me)
    for piece in pieces:
        for item in _tracked(piece, options, "names in"):
            if isinstance(item, Message):
                names |= {item.speaker, item.account}
    return names


def _tracked(piece: Piece, options: ImportOptions, what: str) -> Items:
    """What a piece holds, with a bar over its bytes."""
    read = 0

    def more(_: object) -> int:
        nonlocal read
        before, read = read, max(read, piece.input.position)
        return read - before

    yield from track(piece.items(options), f"{what} {piece.input.name}, bytes", piece.input.size, more)


class _Importer:
    """Goes through the files once, writing rows and keeping the account."""

    def __init__(self, options: ImportOptions, masker: Masker | None) -> None:
        self.account = Account()
        self._options, self._masker = options, masker
        self._speakers: Counter[str] = Counter()
        self._mine: Counter[str] = Counter()
        self._persons: dict[str, set[str]] = {}
        self._cut_long = 0
        self._file = FileAccount("", "")

    def rows(self, pieces: Sequence[Piece]) -> Iterator[dict[str, Any]]:
        """The rows of all files."""
        for piece in pieces:
            encoding = piece.encoding
            self._file = FileAccount(
                piece.input.name, TITLES[piece.form], None if encoding is None else name_of(encoding)
            )
            self.account.files.append(self._file)
            for left in piece.left:
                self._leave_out(left.reason, left.line, left.count)
            yield from self._rows_of(piece)

    def _rows_of(self, piece: Piece) -> Iterator[dict[str, Any]]:
        cutter = Cutter(self._options, self._leave_out, self._masker.mask if self._masker else str)
        items = _tracked(piece, self._options, "importing")
        if piece.form in MAY_BE_TURNED:
            items = in_order(items, piece.input.name)
        for item in items:
            if isinstance(item, Message):
                if not self._options.me:
                    raise UserError(_who(piece, self._options))
                self._file.messages += 1
                for turns in cutter.add(item):
                    yield from self._conversation(turns)
            elif isinstance(item, Exchange):
                said = {"user": item.question, "assistant": item.answer}
                yield from self._conversation(
                    [{"role": role, "content": self._clean(text)} for role, text in said.items()]
                )
            elif isinstance(item, Document):
                yield from self._document(item)
            elif isinstance(item, Left):
                self._leave_out(item.reason, item.line, item.count)
            elif isinstance(item, Note):
                self._file.notes.append(item.text)
        for turns in cutter.finish():
            yield from self._conversation(turns)
        self._speakers += cutter.speakers
        self._mine += cutter.mine
        self._cut_long += cutter.cut_long
        for name, persons in cutter.persons.items():
            self._persons.setdefault(name, set()).update(persons)

    def _conversation(self, turns: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        yield from self._counted("chat", {"messages": turns}, len(turns), [turn["content"] for turn in turns])

    def _document(self, item: Document) -> Iterator[dict[str, Any]]:
        row = {"text": self._clean(item.text), "title": self._clean(item.title), "author": self._clean(item.author)}
        yield from self._counted("text", {key: text for key, text in row.items() if text}, 0, [row["text"]])

    def _counted(self, kind: str, row: dict[str, Any], turns: int, texts: list[str]) -> Iterator[dict[str, Any]]:
        account = self.account
        if account.kind not in ("", kind):
            raise UserError(
                f"chats and documents: {self._file.name} holds {'a chat' if kind == 'chat' else 'documents'}, and the "
                "files before it don't: import them into two files"
            )
        if problem := why_no_row(texts):
            self._leave_out(f"rows that can't be learned: {problem}", 0, 1)
            return
        account.kind = kind
        account.rows += 1
        account.turns += turns
        account.characters += sum(map(len, texts))
        if len(account.preview) < PREVIEWED:
            account.preview.append(row)
        yield row

    def _clean(self, text: str) -> str:
        text = CONTROLS.sub("", text)
        return self._masker.mask(text) if self._masker else text

    def _leave_out(self, reason: str, line: int, count: int) -> None:
        where = f"{self._file.name}:{line}" if line else self._file.name
        self.account.left_out.setdefault(reason, Counted()).add(where, "", count)

    def check(self) -> None:
        """Completes the account. Raises UserError where a name is nobody's or two people's, or nothing is left."""
        account, options = self.account, self._options
        account.speakers = dict(self._speakers.most_common())
        if options.me and account.kind == "text":
            account.notes.append("no chat is found in the files: they are documents, and --me has no effect")
        if account.speakers:
            _check_names(self._speakers, self._mine, self._persons, options.me)
        if not account.rows:
            reasons = "; ".join(
                f"{counted.count:,} {translated(reason)}" for reason, counted in account.left_out.items()
            )
            names = ", ".join(file.name for file in account.files)
            raise UserError(f"nothing to learn from: {names}: {reasons or 'no messages'}: name a file with more in it")
        if len(account.speakers) > MANY_SPEAKERS:
            how = "their names stand before what they say" if options.names else "--names writes who says what"
            account.notes.append(
                f"{len(account.speakers)} people speak: all but {' and '.join(options.me)} are the user; {how}"
            )
        if self._cut_long:
            account.notes.append(
                f"{self._cut_long:,} cuts where a conversation grew over {options.longest:,} characters"
            )
        if self._masker is not None:
            account.masked = dict(self._masker.counts)
            if self._masker.short:
                account.notes.append(
                    f"names of one character aren't masked: {', '.join(self._masker.short[:5])}; --mask-also does it"
                )


def _check_names(speakers: Counter[str], mine: Counter[str], persons: dict[str, set[str]], me: Sequence[str]) -> None:
    for name in me:
        if not mine[name.strip()]:
            near = difflib.get_close_matches(name, list(speakers), n=1, cutoff=0.5)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"nobody is called {name!r}: {_listed(speakers)} speak: give --me one of these{guess}")
        if len(found := persons.get(name.strip(), set())) > 1:
            raise UserError(
                f"{len(found)} people are called {name!r}: their ids are {', '.join(sorted(found)[:10])}: "
                "give --me an id"
            )


def _who(piece: Piece, options: ImportOptions) -> str:
    speakers: Counter[str] = Counter()
    for item in piece.items(options):
        if isinstance(item, Message):
            speakers[item.speaker] += 1
            if speakers.total() >= PEEKED:
                break
    return f"whose words shall be learned? {piece.input.name}: {_listed(speakers)} speak: give --me NAME"


def _listed(speakers: Counter[str]) -> str:
    some = ", ".join(f"{name} ({count:,})" for name, count in speakers.most_common(8))
    return some + f" and {len(speakers) - 8} others" * (len(speakers) > 8)
