"""Which form a file has, and who reads it."""

import re
from collections.abc import Iterator
from pathlib import Path

from sioconv.data.bundled import bundled_sample
from sioconv.data.documents import BadInput
from sioconv.data.encodings import other_kind
from sioconv.errors import UserError
from sioconv.files import shown
from sioconv.importing import json_chats
from sioconv.importing.books.aozora import looks_like_aozora, read_aozora
from sioconv.importing.books.markup import read_epub, read_html, read_markdown
from sioconv.importing.books.pdf import read_pdf
from sioconv.importing.inputs import HEAD, Archive, Input, file_input
from sioconv.importing.items import Document, Items, Left
from sioconv.importing.line import looks_like_line, read_line
from sioconv.importing.options import ImportOptions
from sioconv.importing.tables import read_table
from sioconv.importing.whatsapp import looks_like_whatsapp, read_whatsapp

ENDINGS = {
    ".epub": "epub", ".pdf": "pdf", ".md": "markdown", ".markdown": "markdown", ".html": "html", ".htm": "html",
    ".xhtml": "html", ".csv": "table", ".tsv": "table", ".json": "json", ".txt": "text",
}  # fmt: skip
TITLES = {
    "line": "LINE", "whatsapp": "WhatsApp", "discord": "Discord", "telegram": "Telegram", "slack": "Slack",
    "table": "a table", "aozora": "Aozora Bunko", "epub": "EPUB", "html": "HTML", "markdown": "Markdown", "pdf": "PDF",
    "text": "plain text",
}  # fmt: skip
CHATS = ("line", "whatsapp", "discord", "telegram")
BESIDE = "files beside a chat, such as those sent in it"
BUNDLED = "bundled:"  # begins the name of a sample
DECODED = ("line", "whatsapp", "table", "aozora", "html", "markdown", "text")  # whose encoding is told or given


class Piece:
    """A file, or a member of an archive, with its form.

    Args:
        name: what it is called.
        form: a key of `TITLES`.
        input: its bytes; None for a whole archive of Slack's.
        archive: that archive.
        left: what was left out around it.
    """

    def __init__(self, form: str, input: Input, archive: Archive | None = None, left: list[Left] | None = None) -> None:
        self.form, self.input, self.archive, self.left = form, input, archive, left or []

    def items(self, options: ImportOptions) -> Items:
        """What it holds."""
        input = self.input
        days_first = None if options.dates == "auto" else options.dates == "day-first"
        if self.archive is not None:
            return json_chats.read_slack(self.archive)
        if self.form == "line":
            return read_line(input, options.me)
        if self.form == "whatsapp":
            return read_whatsapp(input, options.me, days_first)
        if self.form == "table":
            return read_table(input, options.columns, days_first)
        if self.form in ("aozora", "epub", "html"):
            return {"aozora": read_aozora, "epub": read_epub, "html": read_html}[self.form](input, options.ruby)
        readers = {
            "discord": json_chats.read_discord, "telegram": json_chats.read_telegram, "markdown": read_markdown,
            "pdf": read_pdf, "text": read_text,
        }  # fmt: skip
        return readers[self.form](input)

    @property
    def encoding(self) -> str | None:
        """The codec of a file of text, else None."""
        return self.input.codec() if self.form in DECODED else None


def read_text(input: Input) -> Items:
    """A plain text as one document. Raises UserError where it is empty."""
    text = input.text().lstrip("\ufeff").strip("\n")
    if not text.strip():
        raise UserError(f"empty: {input.name}: nothing stands in it: put text in it or leave it out")
    yield Document(text)


def pieces_of(path: Path, options: ImportOptions) -> Iterator[Piece]:
    """What a path stands for: a file, the members of a ZIP archive, the files of a folder, a sample of the package.

    Raises UserError for what can't be read, and for a form that isn't known.
    """
    if str(path).startswith(BUNDLED):
        path = bundled_sample(str(path).removeprefix(BUNDLED))
    if path.is_dir():
        yield from _folder(path, options)
        return
    input = file_input(path, options.encoding)
    head = input.read(64)
    if head.startswith(b"PK\x03\x04") and input.ending != ".epub" and options.form not in ("epub",):
        yield from _archive(Archive(input), input, options)
        return
    yield Piece(form_of(input, options), input)


def _archive(archive: Archive, input: Input, options: ImportOptions) -> Iterator[Piece]:
    if json_chats.is_slack(archive.names) or options.form == "slack":
        yield Piece("slack", input, archive, archive.left)
        return
    left, pieces, unread = list(archive.left), list[Piece](), list[UserError]()
    for name in archive.names:
        member = archive.member(name)
        if member.ending in ENDINGS:
            try:
                pieces.append(Piece(form_of(member, options), member))
            except UserError as error:
                unread.append(error)
        else:
            left.append(Left("archives inside archives" if member.ending == ".zip" else "members that are no text"))
    chats = [piece for piece in pieces if piece.form in CHATS]
    if chats:  # what else is in it was sent in the chat
        left += [Left(BESIDE, count=len(pieces) - len(chats) + len(unread))] * (len(pieces) + len(unread) > len(chats))
        pieces = chats
    elif unread:
        raise unread[0]
    if not pieces:
        found = ", ".join(map(shown, archive.names[:5])) or "nothing"
        raise UserError(f"no text: {input.name}: {found} in it: name an archive with text or chats in it")
    pieces[0].left = left
    yield from pieces


def _folder(folder: Path, options: ImportOptions) -> Iterator[Piece]:
    """The files of a folder that are of a known form; a folder of Slack's is to be packed first."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    if json_chats.is_slack([file.as_posix() for file in files]):
        raise UserError(f"a folder of Slack's: {shown(folder)}: name the ZIP file that Slack gave")
    known = [file for file in files if file.suffix.lower() in ENDINGS or file.suffix.lower() == ".zip"]
    if not known:
        raise UserError(f"no text: {shown(folder)}: no file in it has one of the endings {', '.join(ENDINGS)}, .zip")
    pieces = [piece for file in known for piece in pieces_of(file, options)]
    if len(files) > len(known):
        pieces[0].left.append(Left("files of the folder that are no text", count=len(files) - len(known)))
    yield from pieces


def form_of(input: Input, options: ImportOptions) -> str:
    """The form of a file, by its ending and its beginning. Raises UserError where it isn't known."""
    if options.form != "auto":
        return options.form
    data = input.read(HEAD)
    if not data.strip():
        raise UserError(f"empty: {input.name}: nothing stands in it: export it again")
    form = ENDINGS.get(input.ending)
    if data.startswith(b"%PDF-") or form == "pdf":
        return "pdf"
    if form in (None, "json", "text"):
        if form != "json" and (kind := other_kind(data, input.ending)):
            raise UserError(f"can't read: {input.name}: it is {kind[0]}: {kind[1]}")
        try:
            head = data.decode(input.codec(), "ignore")
        except BadInput as error:
            raise UserError(f"unknown form: {input.name}: {error.problem}: {error.advice}") from error
        told = json_chats.kind_of_json(head) or (None if form == "json" else _kind_of_text(head))
        if told is None and form != "text":
            raise UserError(
                f"unknown form: {input.name}: no chat of Discord or Telegram, and its ending is none of "
                f"{', '.join(ENDINGS)}: give --form, or a source in a recipe its path"
            )
        form = told or "text"
    return form


def _kind_of_text(head: str) -> str | None:
    if looks_like_line(head):
        return "line"
    if looks_like_whatsapp(head):
        return "whatsapp"
    if looks_like_aozora(head):
        return "aozora"
    return "html" if re.match(r"\s*<(!doctype html|html)\b", head, re.IGNORECASE) else None
