"""A source of text: its rows, its files and what identifies its text, whatever kind it is.

The kinds: files (named by a path, a folder or a glob, or those of the package), a dataset of the Hub, turns built from
a name.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from sioconv.data.bundled import bundled_path
from sioconv.data.cleaning.config import Cleaning
from sioconv.data.config import WHO, SourceConfig
from sioconv.data.conversations import texts_beside
from sioconv.data.documents import PARTS_LEFT_OUT, BadInput, LeftOut, Row, row_of
from sioconv.data.encodings import AUTO, UTF8, name_of
from sioconv.data.sources.compressed import open_bytes
from sioconv.data.sources.files import Found, find
from sioconv.data.sources.hub import hub_identity, read_hub
from sioconv.data.sources.identity import identity_rows
from sioconv.data.sources.provenance import Checksums, file_identity
from sioconv.data.sources.readers import HEAD, Record, Share, declares_encoding, encoding_of, reader_of
from sioconv.data.tally import Counted, Tally, known_or_other
from sioconv.errors import UserError
from sioconv.files import shown


class Source(Protocol):
    """What every kind of source can do; made by `open_source`."""

    def found(self) -> Found:
        """The files that are read and those that are left out; none of both where the rows don't lie in files.

        Raises UserError where nothing can be read.
        """
        ...

    def rows(self, rank: int, world_size: int, tally: Tally) -> Iterator[Row]:
        """The rows that fall to reader `rank` of `world_size`; `tally` counts them and what can't be used."""
        ...

    def identity(self, checksums: Checksums) -> list[dict[str, Any]]:
        """What identifies the text: equal values mean equal rows. `checksums` remembers those of files."""
        ...


def open_source(config: SourceConfig) -> Source:
    """The source that a recipe describes. Nothing is read or looked for yet."""
    if config.origin == "identity":
        return IdentitySource(config)
    return HubSource(config) if config.origin == "hub" else FileSource(config)


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
    yield from open_source(source).rows(rank, world_size, tally)


def identify(source: SourceConfig, checksums: Checksums) -> list[dict[str, Any]]:
    """What identifies the text of a source, and that of the text it is kept apart from.

    Raises UserError for a file or dataset that isn't there or can't be read.
    """
    if source.cleaning.decontaminate is not None:
        apart = SourceConfig(source.cleaning.decontaminate.path)
        return identify(replace(source, cleaning=Cleaning()), checksums) + identify(apart, checksums)
    return open_source(source).identity(checksums)


class FileSource:
    """Files that a path, a folder or a glob names, or those of the package."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config

    def found(self) -> Found:
        """See `Source`."""
        if self._config.origin == "bundled":
            return Found([bundled_path(self._config.name)])
        return find(self._config.path)

    def rows(self, rank: int, world_size: int, tally: Tally) -> Iterator[Row]:
        """See `Source`. Whole files are dealt out where there are enough of them, lines where there aren't."""
        files = self.found().files
        if len(files) >= world_size:
            files, rank, world_size = files[rank::world_size], 0, 1
        for offset, file in enumerate(files):
            share = Share(rank, world_size, offset)
            try:
                yield from _file_rows(file, self._config, share, tally)
            except BadInput as error:  # of the file itself: what came before its damage is kept
                if tally.strict or share.takes(1):  # else another reader counts it
                    tally.refuse(error)

    def identity(self, checksums: Checksums) -> list[dict[str, Any]]:
        """See `Source`."""
        return [file_identity(file, checksums) for file in self.found().files]


class HubSource:
    """A dataset of the Hugging Face Hub."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config

    def found(self) -> Found:
        """See `Source`."""
        return Found()

    def rows(self, rank: int, world_size: int, tally: Tally) -> Iterator[Row]:
        """See `Source`."""
        for where, record in read_hub(self._config, rank, world_size):
            yield from _counted(record, self._config, where, tally)

    def identity(self, checksums: Checksums) -> list[dict[str, Any]]:  # noqa: ARG002 - the Hub has its own
        """See `Source`."""
        return [hub_identity(self._config)]


class IdentitySource:
    """Turns about the model itself, built from its name."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config

    def found(self) -> Found:
        """See `Source`."""
        return Found()

    def rows(self, rank: int, world_size: int, tally: Tally) -> Iterator[Row]:
        """See `Source`. Raises UserError where they are to be read as text."""
        if self._config.kind != "chat":
            raise UserError(f"kind must be chat: {self._config.path}: conversations can't be read as text")
        for row in identity_rows(self._config.name, self._config.config == WHO)[rank::world_size]:
            tally.seen += 1
            yield row

    def identity(self, checksums: Checksums) -> list[dict[str, Any]]:  # noqa: ARG002 - there are no files
        """See `Source`."""
        rows = json.dumps([row.messages for row in read_rows(self._config)])
        return [{"rows_sha256": hashlib.sha256(rows.encode()).hexdigest()}]


def guessed_encodings(source: SourceConfig) -> str:
    """In which encodings the files of a source with `encoding: auto` are read; an empty string for other sources.

    Raises UserError where its files can't be found or read.
    """
    if source.encoding != AUTO:
        return ""
    found: dict[str, list[Path]] = {}
    for file in open_source(source).found().files:
        if not declares_encoding(file):
            try:
                with open_bytes(file) as stream:
                    found.setdefault(name_of(encoding_of(stream.peek(HEAD), file, source)), []).append(file)
            except BadInput:  # counted when its rows are
                continue
    return ", ".join(
        f"{len(files):,} {'file' if len(files) == 1 else 'files'} as {encoding} ({shown(files[0])})"
        for encoding, files in found.items()
    )


def _file_rows(file: Path, source: SourceConfig, share: Share, tally: Tally) -> Iterator[Row]:
    if source.encoding not in (UTF8, AUTO) and declares_encoding(file):
        raise BadInput("encoding", shown(file), "files of this kind say theirs themselves", "leave the source's out")
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
    for key in [] if row.messages is None else texts_beside(row.extra, row.messages):
        if key != source.id_column:
            tally.beside.setdefault(known_or_other(tally.beside, key), Counted()).add(where, "")
    yield row
