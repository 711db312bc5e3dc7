"""The records of one file, one at a time, whatever its kind: JSON lines, Parquet, plain text, a MediaWiki dump."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sioconv.data.compressed import COMPRESSIONS, broken, open_bytes
from sioconv.data.config import SourceConfig
from sioconv.data.mediawiki import read_pages
from sioconv.data.rows import BadInput, LeftOut, bad_row, parse_json

UTF8_MARK = b"\xef\xbb\xbf"
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


def read_json_lines(file: Path, source: SourceConfig, share: Share) -> Iterator[tuple[int, Record]]:
    """One record a line."""
    with open_bytes(file) as stream:
        for number, line in enumerate(stream, start=1):
            if share.takes(number):
                content = (line if number > 1 else line.removeprefix(UTF8_MARK)).rstrip(b"\r\n")
                try:
                    yield number, parse_json(content, source.kind, f"{file}:{number}")
                except BadInput as error:
                    yield number, error


def read_text(file: Path, source: SourceConfig, share: Share) -> Iterator[tuple[int, Record]]:
    """The whole file as one record."""
    if not share.takes(1):
        return
    with open_bytes(file) as stream:
        content = stream.read().removeprefix(UTF8_MARK)
    where = f"{file}:1"
    if source.kind == "chat":
        yield 1, bad_row(where, "a plain text file holds no conversations", source.kind)
    elif content:
        try:
            yield 1, {source.text_column: content.decode()}
        except UnicodeDecodeError as error:
            yield 1, bad_row(where, f"invalid UTF-8 at byte {error.start} of the file", source.kind)


def read_parquet(file: Path, source: SourceConfig, share: Share) -> Iterator[tuple[int, Record]]:
    """One record a row; of documents only the columns that are used are read.

    Whole row groups are dealt out where there are enough of them, rows where there aren't.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, memory_map=True) as table:
            names = table.schema_arrow.names
            wanted = (source.text_column, source.id_column) if source.kind == "text" else names
            columns = [name for name in names if name in wanted]
            whole = table.num_row_groups >= share.world_size
            first = 1
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if not whole or share.takes(group + 1):
                    number = first
                    for batch in table.iter_batches(PARQUET_ROWS, row_groups=[group], columns=columns):
                        for record in _batch_records(batch, source, f"{file}:", number):
                            if whole or share.takes(number):
                                yield number, record
                            number += 1
                first += rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
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
    """One record for each page of a MediaWiki XML dump; see `data/mediawiki.py`."""
    with open_bytes(file) as stream:
        for number, page in read_pages(stream, file, share.takes):
            yield number, {**page, source.text_column: page["text"]} if isinstance(page, dict) else page


READERS: dict[str, Reader] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
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


def reader_of(file: Path) -> Reader:
    """What reads a file of that name. Raises KeyError for a kind that isn't known."""
    name = file.name.removesuffix(file.suffix) if file.suffix in COMPRESSIONS else file.name
    return READERS[Path(name).suffix]
