"""The files that are imported: opened, looked into and decoded line by line; ZIP archives without unpacking them."""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from sioconv.data.documents import BadInput
from sioconv.data.encodings import guess_codec, name_of
from sioconv.data.sources.compressed import unreadable
from sioconv.errors import UserError
from sioconv.files import shown
from sioconv.importing.items import Left

HEAD = 1 << 16  # bytes that tell the form
LONGEST_LINE = 1 << 22  # bytes; longer ones are left out
LARGEST_WHOLE = 1 << 28  # bytes of a file that is read at once: a book, not a log
MOST_MEMBERS = 200_000
LARGEST_ARCHIVE = 16 << 30  # bytes of all members
BOMB_RATIO, BOMB_SIZE = 200, 1 << 24  # no text packs better than this, where it is larger than this
MOST_BAD = 0.1  # share of lines that may be in another encoding
BROKEN_LINE = "lines in another encoding"
LONG_LINE = f"lines of more than {LONGEST_LINE >> 20} MiB"


@dataclass(frozen=True)
class Input:
    """A file, or a member of an archive.

    Args:
        name: what it is called in messages.
        size: its bytes.
        opener: opens it anew.
        encoding: its encoding, or `auto`.
        opened: what was opened last, to tell how far it is read.
    """

    name: str
    size: int
    opener: Callable[[], BinaryIO] = field(repr=False)
    encoding: str = "auto"
    opened: list[BinaryIO] = field(default_factory=list, repr=False, compare=False)

    @property
    def ending(self) -> str:
        """The ending of its name, in lower case."""
        return PurePosixPath(self.name).suffix.lower()

    def open(self) -> BinaryIO:
        """Its bytes from the beginning. Raises UserError where they can't be read."""
        try:
            self.opened[:] = [self.opener()]
            return self.opened[0]
        except OSError as error:
            raise unreadable(Path(self.name), error) from error
        except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:  # a password, an odd compression
            raise UserError(f"can't read: {self.name}: {error}: unpack it first") from error

    @property
    def position(self) -> int:
        """How many of its bytes have been read since it was opened last."""
        stream = self.opened[0] if self.opened else None
        return self.size if stream is None or stream.closed else stream.tell()

    def read(self, size: int) -> bytes:
        """The first `size` bytes."""
        with damage_named(self), self.open() as stream:
            return stream.read(size)

    def whole(self) -> bytes:
        """All bytes. Raises UserError for a file that is too large to be a text of one piece."""
        data = self.read(LARGEST_WHOLE + 1)
        if len(data) > LARGEST_WHOLE:
            raise UserError(
                f"too large: {self.name}: more than {LARGEST_WHOLE >> 20} MiB in one piece: split it into parts"
            )
        return data

    def codec(self) -> str:
        """The codec that its bytes are decoded with. Raises BadInput where it is no text that can be told."""
        if self.encoding != "auto":
            return "utf-8-sig" if self.encoding.lower() in ("utf-8", "utf8") else self.encoding
        with damage_named(self), self.open() as stream:
            codec = guess_codec(iter(lambda: stream.read(HEAD), b""))
        if codec is None:
            raise BadInput(
                "no text", self.name, "its encoding can't be told", "give --encoding cp932, or save it as UTF-8"
            )
        return codec

    def lines(self) -> Iterator[tuple[int, str] | Left]:
        """Its lines, numbered from 1, without line ends; what can't be decoded is left out.

        Raises BadInput where that is more than a tenth.
        """
        codec = self.codec()
        bad = number = 0
        with damage_named(self), self.open() as stream:
            for number, line in enumerate(_lines_of(stream, codec), start=1):
                yield line if isinstance(line, Left) else (number, line)
                bad += isinstance(line, Left) and line.reason == BROKEN_LINE
        if bad > MOST_BAD * number:
            problem = f"{bad:,} of {number:,} lines aren't {name_of(codec)}: mixed encodings"
            raise BadInput("broken text", self.name, problem, "give --encoding, or save the file as UTF-8")

    def text(self) -> str:
        """All of it as text with line feeds. Raises BadInput where it isn't text in its encoding."""
        data, codec = self.whole(), self.codec()
        try:
            text = data.decode(codec)
        except (UnicodeDecodeError, LookupError) as error:
            where = f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else "any byte"
            problem = f"not {name_of(codec)} at {where}: mixed encodings, or no text"
            raise BadInput("broken text", self.name, problem, "give --encoding, or save it as UTF-8") from error
        return text.replace("\r\n", "\n").replace("\r", "\n")


@contextmanager
def damage_named(input: Input) -> Iterator[None]:
    """Turns what damaged archives raise while they are read into an error that names the file."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"can't read: {input.name}: {' '.join(str(error).split())}: make it again") from error
    except OSError as error:
        raise unreadable(Path(input.name), error) from error


def _lines_of(stream: BinaryIO, codec: str) -> Iterator[str | Left]:
    """The lines, each decoded by itself, so that a bad one costs no other."""
    wide = codec.replace("_", "-").startswith(("utf-16", "utf-32"))
    head = stream.read(HEAD)
    stream.seek(0)
    if wide or (b"\r" in head and b"\n" not in head):  # lines that can't be told by their bytes, or end as on old Macs
        newline = "\n" if wide else "\r"
        for number, text in enumerate(io.TextIOWrapper(stream, codec, newline=newline, errors="replace"), start=1):
            yield Left(BROKEN_LINE, number) if "\ufffd" in text else text.rstrip("\r\n")
        return
    number = 0
    while line := stream.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST_LINE)
            yield Left(LONG_LINE, number)
            continue
        try:
            yield line.decode(codec if number == 1 or codec != "utf-8-sig" else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            yield Left(BROKEN_LINE, number)


def file_input(path: Path, encoding: str = "auto") -> Input:
    """A file of the disk. Raises UserError where it isn't there or is no file."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UserError(f"can't read: {shown(path)}: it is no file: name a file")
    except OSError as error:
        raise unreadable(path, error) from error
    return Input(shown(path), size, lambda: path.open("rb"), encoding)


class Archive:
    """A ZIP archive whose members are read where they are: nothing is unpacked onto the disk.

    Args:
        input: the archive.

    Raises:
        UserError: it is damaged, needs a password, or unpacks to more than any text does (a ZIP bomb).
    """

    def __init__(self, input: Input) -> None:
        self.left: list[Left] = []
        self._input = input
        try:
            self._zip = zipfile.ZipFile(input.open())
            infos = self._zip.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError, OverflowError) as error:
            raise UserError(f"can't read: {input.name}: {error}: make or download it again") from error
        whole = sum(info.file_size for info in infos)
        bomb = whole > BOMB_SIZE and whole > BOMB_RATIO * max(1, input.size)
        if len(infos) > MOST_MEMBERS or whole > LARGEST_ARCHIVE or bomb:
            raise UserError(f"a ZIP bomb: {input.name}: it unpacks to more than any text: take the text out of it")
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.filename
            if info.is_dir():
                continue
            if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or ":" in name[:2]:
                self.left.append(Left("members whose path leads out of the archive"))
            elif info.file_size > BOMB_SIZE and info.file_size > BOMB_RATIO * max(1, info.compress_size):
                raise UserError(
                    f"a ZIP bomb: {input.name}: {shown(name)} unpacks to {info.file_size:,} bytes from "
                    f"{info.compress_size:,}: take the text out of it"
                )
            elif info.flag_bits & 1:
                raise UserError(f"can't read: {input.name}: {shown(name)} needs a password: unpack it first")
            elif not PurePosixPath(name).name.startswith((".", "__MACOSX")) and "__MACOSX" not in name:
                self._members[name] = info

    @property
    def names(self) -> list[str]:
        """The members, in order; not folders, hidden files and what leads out of the archive."""
        return sorted(self._members)

    def member(self, name: str) -> Input:
        """A member. Raises KeyError where there is none of that name."""
        info = self._members[name]
        where = f"{self._input.name}/{shown(name)}"
        return Input(where, info.file_size, lambda: cast(BinaryIO, self._zip.open(info)), self._input.encoding)
