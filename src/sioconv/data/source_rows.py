"""Where rows come from: files, folders, globs, the Hub, text that ships with the package, turns built from a name."""

import glob
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sioconv.data.bundled import bundled_path
from sioconv.data.config import SourceConfig
from sioconv.data.hub import HUB, read_hub
from sioconv.data.identity import identity_rows
from sioconv.data.readers import SUFFIXES, Record, Share, reader_of
from sioconv.data.rows import PARTS_LEFT_OUT, BadInput, LeftOut, Row, row_of
from sioconv.data.tally import Counted, Tally
from sioconv.errors import UserError

BUNDLED = "bundled:"
IDENTITY = "identity:"


def resolve(path: str) -> list[Path]:
    """The files behind a source's path, sorted; none for `identity:NAME` and `hf:NAME`, which aren't files.

    A folder stands for all files of a known kind in it and below, hidden ones left out.

    Raises `UserError` when nothing matches, or when a file isn't of a known kind.
    """
    if path.startswith((IDENTITY, HUB)):
        return []
    if path.startswith(BUNDLED):
        return [bundled_path(path.removeprefix(BUNDLED))]
    place = Path(path).expanduser()
    if place.is_file():
        files = [place]
    elif place.is_dir():
        files = [file for file in place.rglob("*") if file.is_file() and _is_visible_text(file.relative_to(place))]
    else:
        matches = glob.glob(str(place), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        files = [Path(match) for match in matches if Path(match).is_file()]
    if not files:
        kinds = ", ".join(SUFFIXES)
        raise UserError(f"no text found: {path}: name a file, a folder or a glob of {kinds} files")
    for file in files:
        if not file.name.endswith(SUFFIXES):
            raise UserError(f"unknown kind of file: {file}: expected one of {', '.join(SUFFIXES)}")
    return sorted(files, key=lambda file: file.as_posix())


def read_rows(source: SourceConfig, *, rank: int = 0, world_size: int = 1, tally: Tally | None = None) -> Iterator[Row]:
    """The rows of a source in order, one at a time; with `world_size` readers, those that fall to reader `rank`.

    Whole files are dealt out where there are enough of them, lines where there aren't. Together the readers yield
    every row once.

    Args:
        source: what to read.
        rank: which reader this is.
        world_size: how many there are.
        tally: counts the rows, and those that can't be used, with file and line; None is strict: it raises at the
            first of them.

    Raises:
        UserError: a missing file, or one that may not be read; `BadInput` for a row or file that can't be used, where
            it isn't counted or nothing else has come in a thousand rows.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size), got rank={rank}, world_size={world_size}")
    tally = Tally("read", strict=True) if tally is None else tally
    if source.path.startswith(IDENTITY):
        if source.kind != "chat":
            raise UserError(f"kind must be chat: {source.path}: conversations can't be read as text")
        for row in identity_rows(source.path.removeprefix(IDENTITY))[rank::world_size]:
            tally.seen += 1
            yield row
        return
    if source.path.startswith(HUB):
        for where, record in read_hub(source, rank, world_size):
            yield from _counted(record, source, where, tally)
        return
    files = resolve(source.path)
    if len(files) >= world_size:
        files, rank, world_size = files[rank::world_size], 0, 1
    for offset, file in enumerate(files):
        share = Share(rank, world_size, offset)
        try:
            yield from _file_rows(file, source, share, tally)
        except BadInput as error:  # of the file itself: what came before its damage is kept
            if tally.strict or share.takes(1):  # else another reader counts it
                tally.refuse(error)


def _file_rows(file: Path, source: SourceConfig, share: Share, tally: Tally) -> Iterator[Row]:
    number = 0
    for number, record in reader_of(file)(file, source, share):
        yield from _counted(record, source, f"{file}:{number}", tally)
    if number == 0 and share.takes(1):
        raise BadInput("empty file", str(file), "nothing in it", "put text in it or take it out of the source")


def _counted(record: Record, source: SourceConfig, where: str, tally: Tally) -> Iterator[Row]:
    """The row of a record, if it is one; else it is counted, or raised where the tally is strict."""
    if isinstance(record, LeftOut):
        tally.seen += 1
        tally.drop(record.reason, record.where, "")
        return
    try:
        if isinstance(record, BadInput):
            raise record
        parts = record.pop(PARTS_LEFT_OUT) if isinstance(record.get(PARTS_LEFT_OUT), Counter) else Counter()
        row = row_of(record, source.kind, where, source.text_column)
    except BadInput as error:
        tally.refuse(error)
        return
    tally.seen += 1
    for part, count in parts.items():
        tally.parts.setdefault(part, Counted()).add(where, "", count)
    yield row


def _is_visible_text(file: Path) -> bool:
    return file.name.endswith(SUFFIXES) and not any(part.startswith(".") for part in file.parts)
