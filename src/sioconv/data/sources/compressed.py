"""Opening plain, gzip, bzip2, xz and zstd files alike, and noticing where one of them breaks off."""

import bz2
import errno
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sioconv.data.documents import BadInput
from sioconv.data.encodings import other_kind
from sioconv.errors import UserError
from sioconv.files import POINTER_BYTES, shown

COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
CHUNK = 1 << 18
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
        kind = other_kind(stream.read(POINTER_BYTES), file.suffix.lower())
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
        return _FrameReader(file, bz2.BZ2Decompressor, OSError)
    if compression == ".xz":
        return _FrameReader(file, lzma.LZMADecompressor, lzma.LZMAError)
    if compression != ".zst":
        return file.open("rb", buffering=0)
    try:
        import zstandard
    except ImportError as error:
        raise UserError(f"can't read: {shown(file)}: pip install zstandard first") from error
    new = zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj
    return _FrameReader(file, new, zstandard.ZstdError)


class _FrameReader(io.RawIOBase):
    """Decompresses frame after frame.

    The libraries' own readers take a file that breaks off for one that ends (zstandard), and leave out in silence what
    stands behind the last frame that they know, such as a frame whose beginning is damaged (bz2, lzma).

    Args:
        file: the file.
        new: makes what decompresses a frame.
        error: what that raises for damaged data.
    """

    def __init__(self, file: Path, new: Callable[[], Any], error: type[Exception]) -> None:
        self._new, self._error = new, error
        self._file = file.open("rb")
        self._frame = self._new()
        self._begun = False  # whether the current frame has data
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            data = b""
            if self._frame.eof:
                data, self._frame, self._begun = self._frame.unused_data.lstrip(b"\0"), self._new(), False
            while not data and (read := self._file.read(CHUNK)):
                data = read if self._begun else read.lstrip(b"\0")  # zeros between frames are padding
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
