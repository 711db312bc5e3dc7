"""The provenance of a file: its name, size and checksum. Shards are made anew when it changes."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from sioconv.checksums import read_sealed, write_sealed
from sioconv.data.sources.compressed import unreadable
from sioconv.errors import UserError
from sioconv.files import sha256_file, shown


class Checksums:
    """SHA-256 of files; those of an earlier run are taken where size and time of the last change are the same.

    So a large corpus isn't read again at every start only to learn that it is the one that the shards were made from.

    Args:
        memory: the file in which they are kept from run to run.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._used: dict[str, list[Any]] = {}
        try:
            self._known: dict[str, list[Any]] = read_sealed(memory)
        except (OSError, ValueError):
            self._known = {}

    def of(self, file: Path) -> str:
        """The file's checksum in hexadecimal."""
        name, stat = shown(file.absolute()), file.stat()
        state = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(name)
        sha256 = known[2] if known is not None and known[:2] == state else sha256_file(file)
        self._used[name] = [*state, sha256]
        return str(sha256)

    def save(self) -> None:
        """Keeps what was used, if anything of it is new; a folder that can't be written costs only time."""
        if self._used != self._known:
            with suppress(UserError):
                write_sealed(self._memory, self._used)


def file_identity(file: Path, checksums: Checksums) -> dict[str, Any]:
    """A file's name, size and checksum. Raises UserError where it can't be read."""
    try:
        return {"file": shown(file.name), "bytes": file.stat().st_size, "sha256": checksums.of(file)}
    except OSError as error:
        raise unreadable(file, error) from error
