"""API keys: a file of their hashes, and who a request comes from."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from sioconv.errors import UserError
from sioconv.files import atomic_write

PREFIX = "sk-sioconv-"
NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
LINE = re.compile(r"(?P<name>\S+) sha256:(?P<hash>[0-9a-f]{64})")


@dataclass(frozen=True)
class Client:
    """Who a request comes from.

    Args:
        name: for logs and limits; the address where there are no keys.
        owner: whose the states are: a hash of the key, which says nothing of the key. All share one without keys.
    """

    name: str
    owner: str


class Keys:
    """The keys that a server takes.

    Args:
        hashes: SHA-256 of each key, in hex, by its name. Keys are 256 random bits, so that a plain hash is enough.
    """

    def __init__(self, hashes: dict[str, str]) -> None:
        self._hashes = hashes

    def find(self, key: str) -> Client | None:
        """Whose the key is. It takes the same time for every key: all are compared, each in constant time."""
        given, found = _hash(key), None
        for name, known in self._hashes.items():
            if hmac.compare_digest(given, known):
                found = name
        return None if found is None else Client(found, owner_of(key))


def owner_of(key: str) -> str:
    """What stands for a key in the keys of its states."""
    return hashlib.sha256(b"owner of states " + key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def read_keys(path: Path) -> Keys:
    """The keys of a file, `NAME sha256:HASH` a line. Raises UserError where it can't be read or holds none."""
    hashes = _read(path)
    if not hashes:
        raise UserError(f"no keys in {path}: make one: sioconv serve key {path} NAME")
    return Keys(hashes)


def add_key(path: Path, name: str) -> str:
    """Makes a key, adds its hash to the file, and returns it: it can't be shown again.

    Raises:
        UserError: the name is taken, or can't be one, or the file can't be read or written.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"not a name of a key: {name!r}: give up to 64 letters, digits, and any of _ . @ -")
    hashes = _read(path) if path.exists() else {}
    if name in hashes:
        raise UserError(f"{path} has a key {name}: give another name, or delete its line")
    key = PREFIX + secrets.token_urlsafe(32)
    hashes[name] = _hash(key)
    with atomic_write(path, private=True) as temporary:
        temporary.write_text("".join(f"{each} sha256:{value}\n" for each, value in hashes.items()), "utf-8")
    return key


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read the keys: {path}: {error}: check the name") from error
    hashes: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if match is None:
            raise UserError(f"{path}:{number}: not a key: give NAME sha256:HASH, as sioconv serve key writes it")
        hashes[match["name"]] = match["hash"]
    return hashes
