"""Where rows come from: files, folders, globs, text that ships with the package, turns built from a name."""

import glob
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from sioconv.data.bundled import bundled_path
from sioconv.data.config import SourceConfig
from sioconv.data.identity import identity_rows
from sioconv.data.rows import ROLES, Kind, Row, Split, bad_row, parse_line, split_of
from sioconv.errors import UserError

__all__ = ["ROLES", "Row", "Split", "read_rows", "read_split", "resolve", "split_of"]

JSON_SUFFIXES = (".jsonl", ".jsonl.gz")
TEXT_SUFFIXES = (".txt", ".txt.gz")
SUFFIXES = JSON_SUFFIXES + TEXT_SUFFIXES
BUNDLED = "bundled:"
IDENTITY = "identity:"
UTF8_MARK = b"\xef\xbb\xbf"


def resolve(path: str) -> list[Path]:
    """The files behind a source's path, sorted; none for `identity:NAME`, which isn't kept in a file.

    A folder stands for all files of a known kind in it and below, hidden ones left out.

    Raises `UserError` when nothing matches, or when a file isn't of a known kind.
    """
    if path.startswith(IDENTITY):
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


def read_rows(source: SourceConfig, *, rank: int = 0, world_size: int = 1) -> Iterator[Row]:
    """The rows of a source in order, one at a time; with `world_size` readers, those that fall to reader `rank`.

    Whole files are dealt out where there are enough of them, lines where there aren't. Together the readers yield
    every row once.

    Raises `UserError` naming file and line for a row that can't be used, and for a missing or empty file.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size), got rank={rank}, world_size={world_size}")
    if source.path.startswith(IDENTITY):
        if source.kind != "chat":
            raise UserError(f"kind must be chat: {source.path}: conversations can't be read as text")
        yield from identity_rows(source.path.removeprefix(IDENTITY))[rank::world_size]
        return
    files = resolve(source.path)
    if len(files) >= world_size:
        files, rank, world_size = files[rank::world_size], 0, 1
    start = 0
    for file in files:
        count = 0
        for count, line in enumerate(_lines(file), start=1):
            if (start + count - 1) % world_size == rank:
                yield _row(line, source.kind, file, count)
        if count == 0:
            raise UserError(f"empty file: {file}: put text in it or take it out of the source")
        start += count


def read_split(source: SourceConfig, split: Split, heldout: float) -> Iterator[Row]:
    """The rows of a source that belong to `split`, in order."""
    return (row for row in read_rows(source) if split_of(row, heldout) == split)


def _is_visible_text(file: Path) -> bool:
    return file.name.endswith(SUFFIXES) and not any(part.startswith(".") for part in file.parts)


def _row(line: bytes, kind: Kind, file: Path, number: int) -> Row:
    where = f"{file}:{number}"
    if file.name.endswith(JSON_SUFFIXES):
        return parse_line(line, kind, where)
    if kind == "chat":
        raise bad_row(where, "a plain text file holds no conversations", kind)
    try:
        return Row(where, text=line.decode())
    except UnicodeDecodeError as error:
        raise bad_row(where, f"invalid UTF-8 at byte {error.start} of the file", kind) from error


def _lines(file: Path) -> Iterator[bytes]:
    """The lines of a JSON lines file without their ends, or the whole of a plain text file as one."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            if file.name.endswith(TEXT_SUFFIXES):
                if text := stream.read().removeprefix(UTF8_MARK):
                    yield text
                return
            for number, line in enumerate(stream):
                yield (line if number else line.removeprefix(UTF8_MARK)).rstrip(b"\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"broken gzip file: {file}: {error}: make or download it again") from error
    except OSError as error:
        raise UserError(f"can't read: {file}: {error.strerror or error}: check the path and its rights") from error
