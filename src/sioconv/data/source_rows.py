"""Where rows come from: files, folders, globs, the Hub, text that ships with the package, turns built from a name."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sioconv.data.config import SourceConfig
from sioconv.data.finding import IDENTITY, find
from sioconv.data.hub import HUB, read_hub
from sioconv.data.identity import identity_rows
from sioconv.data.readers import Record, Share, reader_of
from sioconv.data.rows import PARTS_LEFT_OUT, BadInput, LeftOut, Row, row_of
from sioconv.data.tally import Counted, Tally
from sioconv.errors import UserError
from sioconv.files import shown


def resolve(path: str) -> list[Path]:
    """The files behind a source's path, sorted: those that `finding.find` gives. Raises UserError as that does."""
    return find(path).files


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
    for number, record in reader_of(file)(file, source, share):
        yield from _counted(record, source, f"{shown(file)}:{number}", tally)


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
        row = row_of(record, source.kind, where, source.text_column, source.ignore_columns)
    except BadInput as error:
        tally.refuse(error)
        return
    tally.seen += 1
    for part, count in parts.items():
        tally.parts.setdefault(part, Counted()).add(where, "", count)
    yield row
