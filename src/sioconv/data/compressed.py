"""Opening plain, gzip, bzip2 and zstd files alike, and noticing where one of them breaks off."""

import bz2
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from sioconv.data.rows import BadInput
from sioconv.errors import UserError

COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".zst": "zstd"}
CHUNK = 1 << 18


@contextmanager
def open_bytes(file: Path) -> Iterator[BinaryIO]:
    """A file's bytes, decompressed as its suffix says.

    Raises:
        BadInput: while it is read, where the compressed data is damaged or breaks off.
        UserError: the file can't be read, or zstd isn't installed.
    """
    try:
        with _open(file) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise broken(file, str(error)) from error
    except OSError as error:
        if error.errno is None:  # what bz2 raises for data that isn't its own
            raise broken(file, str(error)) from error
        raise UserError(f"can't read: {file}: {error.strerror or error}: check the path and its rights") from error


def broken(file: Path, problem: str) -> BadInput:
    """The error for a file that is damaged."""
    kind = COMPRESSIONS.get(file.suffix, file.suffix.removeprefix("."))
    return BadInput(f"broken {kind} file", str(file), " ".join(problem.split()), "make or download it again")


def _open(file: Path) -> BinaryIO:
    if file.suffix == ".gz":
        return cast(BinaryIO, gzip.open(file))
    if file.suffix == ".bz2":
        return cast(BinaryIO, bz2.open(file))
    if file.suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_ZstdReader(file), CHUNK))
    return file.open("rb")


class _ZstdReader(io.RawIOBase):
    """Decompresses frame after frame; the library's own reader takes a file that breaks off for one that ends."""

    def __init__(self, file: Path) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise UserError(f"can't read: {file}: pip install zstandard first") from error
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._file = file.open("rb")
        self._frame = self._new()
        self._begun = False  # whether the current frame has data
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._begun = self._new(), False
            data = data or self._file.read(CHUNK)
            if not data:
                if self._begun:
                    raise EOFError("the file ends in the middle of a frame")
                return 0
            self._begun = True
            try:
                self._ready = memoryview(self._frame.decompress(data))
            except self._error as error:
                raise EOFError(str(error)) from error
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
