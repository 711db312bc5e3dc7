"""The records of one file, one at a time, whatever its kind: JSON, Parquet, plain text, a MediaWiki dump."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sioconv.data.config import SourceConfig
from sioconv.data.documents import BadInput, LeftOut, bad_row, invalid_utf8, object_of, parse_json, row_of
from sioconv.data.encodings import AUTO, UTF8, UTF8_MARK, guess_codec, mark_of, not_utf8
from sioconv.data.sources.compressed import (
    COMPRESSIONS,
    broken,
    compression_of,
    open_bytes,
    refuse_other_kinds,
    unreadable,
)
from sioconv.data.sources.json_values import json_values
from sioconv.data.sources.mediawiki import read_pages
from sioconv.files import shown

HEAD = 1 << 16  # bytes of a file that tell how it is to be read
SAVE = "save it as UTF-8"
PARQUET_ROWS = 64  # decoded together: a document may be large


@dataclass(frozen=True)
class Share:
    """Which of a file's records fall to one of several readers.

    Args:
        rank: the reader.
        world_size: how many there are.
        offset: the file's place among the others, so that files of one record fall to different readers.
    """

    rank: int = 0
    world_size: int = 1
    offset: int = 0

    def takes(self, number: int) -> bool:
        """Whether record `number`, counted from 1, is this reader's."""
        return (self.offset + number - 1) % self.world_size == self.rank


Record = dict[str, Any] | BadInput | LeftOut
Reader = Callable[[Path, SourceConfig, Share], Iterator[tuple[int, Record]]]


def read_json(file: Path, source: SourceConfig, share: Share) -> Iterator[tuple[int, Record]]:
    """One record a line; of an array `[ {…}, {…} ]`, or of objects that are spread over lines, one record a value.

    Blank lines are no records. A `.json` file of one object that is no row is left out: settings, not text.
    """
    with open_bytes(file) as stream:
        head = stream.peek(HEAD)
        encoding = encoding_of(head, file, source)
        start = head.decode(encoding, "ignore").lstrip()
        if not start:
            raise _empty(file)
        settings = _only_settings(start, file, source) if _ending(file) == ".json" else None
        if settings is not None:
            yield from [(1, settings)] if share.takes(1) else []
        elif start.startswith("[") or (_ending(file) == ".json" and not _is_json(start.partition("\n")[0])):
            yield from _json_values(io.TextIOWrapper(stream, encoding), file, source, share)
        else:
            yield from _json_lines(stream, encoding, file, source, share)


def _json_lines(
    stream: io.BufferedReader, encoding: str, file: Path, source: SourceConfig, share: Share
) -> Iterator[tuple[int, Record]]:
    found = False
    for number, line in enumerate(_lines(stream, encoding, file), start=1):
        content = line.removeprefix(UTF8_MARK).strip()
        found = found or bool(content)
        if content and share.takes(number):
            try:
                yield number, parse_json(content, source.kind, f"{shown(file)}:{number}")
            except BadInput as error:
                if content.decode(errors="replace").strip():  # blanks of Unicode alone are a blank line too
                    yield number, error
    if not found:
        raise _empty(file)


def _lines(stream: io.BufferedReader, encoding: str, file: Path) -> Iterator[bytes]:
    """The lines in UTF-8; those of a file without another encoding's mark as they are."""
    if encoding == "utf-8-sig":
        yield from stream
        return
    try:
        for line in io.TextIOWrapper(stream, encoding, newline="\n"):
            yield line.encode()
    except UnicodeDecodeError as error:
        raise BadInput("broken text file", shown(file), f"invalid {encoding.upper()} ({error.reason})", SAVE) from error


def _json_values(
    stream: io.TextIOWrapper, file: Path, source: SourceConfig, share: Share
) -> Iterator[tuple[int, Record]]:
    number = 0
    try:
        for number, value in enumerate(json_values(stream), start=1):
            if share.takes(number):
                try:
                    yield number, object_of(value, source.kind, f"{shown(file)}:{number}")
                except BadInput as error:
                    yield number, error
    except UnicodeDecodeError as error:
        problem = f"{invalid_utf8(error.object, error, 'piece')} (after value {number})"
        raise BadInput("broken json file", shown(file), problem, SAVE) from error
    except (ValueError, RecursionError) as error:
        raise broken(file, f"{error} (after value {number})") from error
    if not number:
        raise _empty(file)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _only_settings(start: str, file: Path, source: SourceConfig) -> LeftOut | None:
    """What to say of a file that holds one small object and no row, as tools keep settings in; else None."""
    if not start.startswith("{") or not _is_json(start):
        return None
    where = f"{shown(file)}:1"
    try:
        row_of(json.loads(start), source.kind, where, source.text_column, source.ignore_columns)
    except BadInput as error:
        return LeftOut(where, f"one object that is no row: {error.problem}")
    return None


def read_text(file: Path, source: SourceConfig, share: Share) -> Iterator[tuple[int, Record]]:
    """The whole file as one record; line ends of other systems become line feeds."""
    if not share.takes(1):
        return
    with open_bytes(file) as stream:
        encoding = encoding_of(stream.peek(HEAD), file, source)
        content = stream.read()
    where = f"{shown(file)}:1"
    if source.kind == "chat":
        yield 1, bad_row(where, "a plain text file holds no conversations", source.kind)
        return
    problem = not_utf8(content) if encoding == "utf-8-sig" else None
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8-sig":  # whose decoder counts from behind the mark
            start = error.start + len(content) - len(content.removeprefix(UTF8_MARK))
            problem = invalid_utf8(content, UnicodeDecodeError("utf-8", content, start, start + 1, ""), "file")
        else:
            problem = f"invalid {encoding.upper()} at byte {error.start} of the file"
    if problem:
        yield 1, bad_row(where, problem, source.kind)
    elif not text.strip():
        raise _empty(file)
    else:
        yield 1, {source.text_column: text.replace("\r\n", "\n").replace("\r", "\n")}


def encoding_of(head: bytes, file: Path, source: SourceConfig) -> str:
    """The codec that a file is decoded with: what its mark says, else what the source says, which may be a guess.

    Raises BadInput for what is no text in UTF-8, and where nothing fits.
    """
    encoding = mark_of(head)
    if encoding is not None:
        return encoding
    if source.encoding == UTF8:
        if problem := not_utf8(head):
            raise BadInput("not text in UTF-8", shown(file), problem, f"{SAVE}, or give the source encoding: auto")
        return "utf-8-sig"
    if source.encoding != AUTO:
        return source.encoding
    with open_bytes(file) as stream:
        guess = guess_codec(iter(partial(stream.read, HEAD), b""))
    if guess is None:
        raise BadInput("not text", shown(file), "its encoding can't be told", f"{SAVE}, or name its encoding")
    return guess


def _empty(file: Path) -> BadInput:
    return BadInput("empty file", shown(file), "nothing in it", "put text in it or take it out of the source")


def read_parquet(file: Path, source: SourceConfig, share: Share) -> Iterator[tuple[int, Record]]:
    """One record a row; of documents only the columns that are used are read.

    Whole row groups are dealt out where there are enough of them, rows where there aren't.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        refuse_other_kinds(file)
        with pq.ParquetFile(file, memory_map=True) as table:
            names = table.schema_arrow.names
            wanted = (source.text_column, source.id_column) if source.kind == "text" else names
            columns = [name for name in names if name in wanted]
            if not table.metadata.num_rows and share.takes(1):
                raise _empty(file)
            whole = table.num_row_groups >= share.world_size
            first = 1
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if not whole or share.takes(group + 1):
                    number = first
                    for batch in table.iter_batches(PARQUET_ROWS, row_groups=[group], columns=columns):
                        for record in _batch_records(batch, source, f"{shown(file)}:", number):
                            if whole or share.takes(number):
                                yield number, record
                            number += 1
                first += rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(file, error) from error
        raise broken(file, str(error)) from error


def _batch_records(batch: Any, source: SourceConfig, where: str, first: int) -> Iterator[Record]:
    """The rows of a batch of Arrow columns; strings that aren't UTF-8 make their row a bad one, not the batch."""
    try:
        records: list[dict[str, Any]] = batch.to_pylist() if batch.num_columns else [{}] * batch.num_rows
        yield from records
    except UnicodeDecodeError:
        for row in range(batch.num_rows):
            try:
                yield batch.slice(row, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                problem = f"invalid UTF-8 at byte {error.start} of a column"
                yield bad_row(f"{where}{first + row}", problem, source.kind)


def read_mediawiki(file: Path, source: SourceConfig, share: Share) -> Iterator[tuple[int, Record]]:
    """One record for each page of a MediaWiki XML dump; see `data/sources/mediawiki.py`."""
    number = 0
    with open_bytes(file) as stream:
        for number, page in read_pages(stream, file, share.takes):
            yield number, {**page, source.text_column: page["text"]} if isinstance(page, dict) else page
    if number == 0 and share.takes(1):
        raise _empty(file)


DECLARED = (".xml", ".parquet")  # kinds of files that say their encoding themselves
READERS: dict[str, Reader] = {
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".txt": read_text,
    ".xml": read_mediawiki,
    ".parquet": read_parquet,
}
# Parquet compresses by itself, page by page.
SUFFIXES = tuple(
    suffix + compression
    for suffix in READERS
    for compression in (("",) if suffix == ".parquet" else ("", *COMPRESSIONS))
)


def is_known(file: Path) -> bool:
    """Whether a file's name ends as those do that can be read, in small or capital letters."""
    return file.name.lower().endswith(SUFFIXES)


def reader_of(file: Path) -> Reader:
    """What reads a file of that name. Raises KeyError for a kind that isn't known."""
    return READERS[_ending(file)]


def declares_encoding(file: Path) -> bool:
    """Whether files of that name say their encoding themselves."""
    return _ending(file) in DECLARED


def _ending(file: Path) -> str:
    """The ending that says what is in a file, in lower case, without that of its compression."""
    return Path(file.name.lower().removesuffix(compression_of(file))).suffix
