"""Opening plain, gzip, bzip2, xz and zstd files alike, and noticing where one of them breaks off."""

import bz2
import errno
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sioconv.data.documents import BadInput
from sioconv.data.encodings import other_kind
from sioconv.errors import UserError
from sioconv.files import shown

COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
CHUNK = 1 << 18
MAGIC_BYTES = 64  # that tell a file of another kind
LONGEST_WINDOW = 1 << 31  # bytes of text that `zstd --long=31` looks back


def compression_of(file: Path) -> str:
    """The ending that says how a file is compressed, in lower case; an empty string for one that isn't."""
    suffix = file.suffix.lower()
    return suffix if suffix in COMPRESSIONS else ""


@contextmanager
def open_bytes(file: Path) -> Iterator[io.BufferedReader]:
    """A file's bytes, decompressed as its suffix says.

    Raises:
        BadInput: the file is of another kind; while it is read, the compressed data is damaged or breaks off.
        UserError: the file can't be read, or zstd isn't installed.
    """
    try:
        refuse_other_kinds(file)
        with io.BufferedReader(_open(file), CHUNK) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise broken(file, str(error)) from error
    except OSError as error:
        if error.errno is None:  # what bz2 raises for data that isn't its own
            raise broken(file, str(error)) from error
        raise unreadable(file, error) from error


def refuse_other_kinds(file: Path) -> None:
    """Raises BadInput for a file that isn't what its name says, as it is on the disk: a Git LFS pointer, a picture."""
    with file.open("rb") as stream:
        kind = other_kind(stream.read(MAGIC_BYTES), file.suffix.lower())
    if kind:
        raise BadInput("not text", shown(file), f"it is {kind[0]}", kind[1])


def unreadable(file: Path, error: OSError) -> UserError:
    """The error for a file or folder that the system doesn't let us read."""
    advice = "check the path and its rights"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        advice = "raise the limit of open files (ulimit -n)"
    return UserError(f"can't read: {shown(file)}: {error.strerror or error}: {advice}")


def broken(file: Path, problem: str) -> BadInput:
    """The error for a file that is damaged."""
    kind = COMPRESSIONS.get(compression_of(file), file.suffix.lower().removeprefix("."))
    return BadInput(f"broken {kind} file", shown(file), " ".join(problem.split()), "make or download it again")


def _open(file: Path) -> Any:
    """What a buffered reader takes to read from."""
    compression = compression_of(file)
    if compression == ".gz":
        return gzip.open(file)
    if compression == ".bz2":
        return bz2.open(file)
    if compression == ".xz":
        return lzma.open(file)
    return _ZstdReader(file) if compression == ".zst" else file.open("rb", buffering=0)


class _ZstdReader(io.RawIOBase):
    """Decompresses frame after frame; the library's own reader takes a file that breaks off for one that ends."""

    def __init__(self, file: Path) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise UserError(f"can't read: {shown(file)}: pip install zstandard first") from error
        self._new = zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj
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
