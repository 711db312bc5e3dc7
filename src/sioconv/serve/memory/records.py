"""Responses and conversations that were stored: what a client may see of them, and the state."""

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

from sioconv.generate.states.store import Backing, BackingError

logger = logging.getLogger("sioconv.serve")
KIND = "records 1"  # stands where states have their model's name


@dataclass(frozen=True)
class Record:
    """One of them.

    Args:
        said: JSON.
        state: a state file's bytes; empty where nothing was read yet.
    """

    said: dict[str, Any]
    state: bytes = b""


class Records:
    """Records by owner and name. All methods may wait for a disk or a network.

    Args:
        backing: where they are kept.
    """

    def __init__(self, backing: Backing) -> None:
        self._backing = backing

    def put(self, owner: str, name: str, record: Record) -> bool:
        """Keeps a record; whether that worked."""
        content = json.dumps(record.said).encode() + b"\n" + record.state
        data = _sum(content) + b" " + content
        try:
            self._backing.put(KIND, f"{owner}/{name}", data)
        except BackingError as error:
            logger.warning("a response can't be stored: %s", error)
            return False
        return True

    def get(self, owner: str, name: str) -> Record | None:
        """A record of this owner; None where there is none. Raises BackingError where that can't be known."""
        found = self._backing.first(KIND, [f"{owner}/{name}"])
        if found is None:
            return None
        content = found[1]
        if not content.startswith(b"{"):  # as those of older versions begin, which have no checksum
            written, _, content = content.partition(b" ")
            if written != _sum(content):
                _say_damaged(name)
                return None
        head, _, state = content.partition(b"\n")
        try:
            return Record(json.loads(head), state)
        except ValueError:
            _say_damaged(name)
            return None

    def delete(self, owner: str, name: str) -> None:
        """Forgets a record. Raises BackingError where that can't be done."""
        self._backing.delete(KIND, f"{owner}/{name}")

    def forget(self, owner: str) -> None:
        """Forgets all records of an owner. Raises BackingError where that can't be done."""
        self._backing.forget(owner)


def _say_damaged(name: str) -> None:
    logger.warning("%s is not what was stored, so it isn't used", name)


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
