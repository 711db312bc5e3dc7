"""What identifies the text of a source: shards are made anew when it changes."""

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sioconv.checksums import read_sealed, write_sealed
from sioconv.data.cleaning.config import Cleaning
from sioconv.data.config import SourceConfig
from sioconv.data.sources.compressed import unreadable
from sioconv.data.sources.files import IDENTITY, find
from sioconv.data.sources.hub import HUB, hub_identity
from sioconv.data.sources.rows import read_rows
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


def identify(source: SourceConfig, checksums: Checksums) -> list[dict[str, Any]]:
    """What identifies the text of a source, and that of the text it is kept apart from.

    Raises UserError for a file or dataset that isn't there or can't be read.
    """
    if source.cleaning.decontaminate is not None:
        apart = SourceConfig(source.cleaning.decontaminate.path)
        return identify(replace(source, cleaning=Cleaning()), checksums) + identify(apart, checksums)
    if source.path.startswith(HUB):
        return [hub_identity(source)]
    if source.path.startswith(IDENTITY):
        rows = json.dumps([row.messages for row in read_rows(source)])
        return [{"rows_sha256": hashlib.sha256(rows.encode()).hexdigest()}]
    return [_file_identity(file, checksums) for file in find(source.path).files]


def _file_identity(file: Path, checksums: Checksums) -> dict[str, Any]:
    try:
        return {"file": shown(file.name), "bytes": file.stat().st_size, "sha256": checksums.of(file)}
    except OSError as error:
        raise unreadable(file, error) from error
