"""`sioconv import`."""

import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from sioconv.cli.options import json_option
from sioconv.cli.verb import OptionVerb
from sioconv.errors import UserError
from sioconv.language import translated
from sioconv.terminal import one_line, show, show_json, show_lines, tell, visible

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from sioconv.importing.options import ImportOptions
    from sioconv.importing.run import Account

PURPOSE = """\
Makes JSON lines, which a source of a recipe reads, of chats (LINE, WhatsApp, Discord, Telegram, Slack), tables (CSV,
TSV), books and pages (Aozora Bunko, EPUB, PDF, HTML, Markdown, plain text) and ZIP archives of them. Shows first what
is taken, what is left out and why; on a terminal it then asks."""
SHOWN = 72  # characters of a turn that are shown


def import_options(parser: "ArgumentParser") -> None:
    """How files are imported."""
    from sioconv.importing.options import ImportOptions

    parser.add_argument(
        "--me", type=str, action="append", default=[],
        help="the name under which the one speaks whom the model shall learn to be; again where it changed",
    )  # fmt: skip
    parser.add_argument("--mask_also", type=str, action="append", default=[], help="another word to mask")
    parser.add_argument("--mask", action="store_true", help="mask names, numbers and addresses")
    parser.add_argument("--names", action="store_true", help="write in front of others' messages who says them")
    parser.add_class_arguments(ImportOptions, skip={"me", "mask_also", "mask", "names"})


def options_of(arguments: "Namespace") -> "ImportOptions":
    """The options that the arguments ask for."""
    from sioconv.importing.options import ImportOptions

    return ImportOptions(**{item.name: arguments[item.name] for item in fields(ImportOptions)})


def options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    parser.add_argument(
        "files", type=str, nargs="+", help="files, ZIP archives or folders, and last OUT.jsonl, which is written"
    )
    import_options(parser)
    parser.add_argument("--dry_run", action="store_true", help="show what would be written, and write nothing")
    parser.add_argument("--yes", action="store_true", help="write without asking")
    json_option(parser)


def import_files(arguments: "Namespace") -> None:
    """Imports files. Raises UserError where the last one isn't the file that is to be written."""
    from sioconv.importing import run

    *files, last = arguments.files
    out = None if arguments.dry_run and not last.endswith(".jsonl") else Path(last)
    if out is None:
        files.append(last)
    elif out.suffix != ".jsonl" or not files:
        raise UserError(f"{last}: the last argument is the file that is written, OUT.jsonl: name it behind the files")
    if out is not None and any(out.absolute() == Path(file).absolute() for file in files):
        raise UserError(f"{last} would be written over itself: name another file as the last")
    given = options_of(arguments)

    def agreed(account: "Account") -> bool:
        _show(account, arguments.json)
        if arguments.yes or not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
            return True
        over = out is not None and out.exists()
        question = translated(f"Write {last} over the one that is there? [Y/n] " if over else f"Write {last}? [Y/n] ")
        print(visible(question), end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("", "y", "yes", "はい")

    account = run.import_files([Path(file) for file in files], None if arguments.dry_run else out, given, agreed)
    if arguments.dry_run:
        _show(account, arguments.json)
    elif not arguments.json:
        tell(f"→ {last}: a source of a recipe with kind: {account.kind}; or: sioconv tune {last} --name NAME")


def _show(account: "Account", as_json: bool) -> None:
    """What was found, what is left out, and the first rows."""
    if as_json:
        show_json(asdict(account))
        return
    for file in account.files:
        encoding = translated(f", read as {file.encoding}") if file.encoding else ""
        messages = translated(f", {file.messages:,} messages") if file.messages else ""
        notes = [translated(note) for note in file.notes]
        show_lines("; ".join([f"{file.name}: {translated(file.form)}{encoding}{messages}", *notes]))
    if account.speakers:
        named = ", ".join(f"{name} {count:,}" for name, count in list(account.speakers.items())[:8])
        more = len(account.speakers) - 8
        tell(f"speakers: {named} and {more:,} others" if more > 0 else f"speakers: {named}")
    amount, of = f"{account.rows:,}", f"{account.characters:,} characters"
    if account.kind == "chat":
        tell(f"taken: {amount} conversations with {account.turns:,} turns, {of}")
    else:
        tell(f"taken: {amount} documents, {of}")
    for reason, counted in account.left_out.items():
        tell(f"left out: {counted.count:,} {translated(reason)} ({counted.examples[0][0]})")
    for kind, count in account.masked.items():
        tell(f"masked: {count:,} {translated(kind)}")
    for note in account.notes:
        tell(f"note: {note}")
    tell("the first of it:")
    for row in account.preview:
        for turn in row.get("messages", [])[:6]:
            show(f"  {turn['role']}: {_short(turn['content'])}")
        if "text" in row:
            show(f"  {_short(row.get('title', '') + ': ' * ('title' in row) + row['text'])}")
        show("")


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


IMPORT = OptionVerb(
    "import",
    "FILE… OUT.jsonl",
    "chats, tables and books → JSON lines",
    PURPOSE,
    "sioconv import line.txt talks.jsonl --me 花子",
    options,
    import_files,
)
