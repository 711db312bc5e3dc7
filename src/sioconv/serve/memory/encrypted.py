"""A `Backing` whose content nobody can read or change without the key."""

import base64
import hashlib
import hmac
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken

from sioconv.errors import UserError
from sioconv.generate.states.store import Backing

SHORTEST = 32  # characters of a secret


class Encrypted:
    """Keeps everything encrypted (Fernet: AES-128-CBC and HMAC-SHA256) in another backing.

    Keys are replaced by keyed hashes: nobody can look whether a text that he guesses is there.

    Args:
        inner: where the bytes go.
        secret: at least 32 random characters.

    Raises:
        UserError: the secret is too short.
    """

    def __init__(self, inner: Backing, secret: str) -> None:
        if len(secret) < SHORTEST:
            raise UserError(f"the store's key has {len(secret)} characters: give 32 or more: openssl rand -base64 32")
        self._inner = inner
        # A key for each purpose from one random secret (HKDF's expansion).
        self._fernet = Fernet(base64.urlsafe_b64encode(_derive(secret, b"sioconv store: content")))
        self._names = _derive(secret, b"sioconv store: names")

    def first(self, model: str, keys: Sequence[str]) -> tuple[str, bytes] | None:
        """See `Backing.first`; what was changed comes back empty."""
        hidden = {self._hide(key): key for key in keys}
        found = self._inner.first(model, list(hidden))
        if found is None:
            return None
        name, data = found
        try:
            said, _, plain = self._fernet.decrypt(data).partition(b"\n")
        except InvalidToken:
            return hidden[name], b""
        return hidden[name], plain if said == name.encode() else b""  # else it was moved here from another key

    def put(self, model: str, key: str, data: bytes) -> None:
        """See `Backing.put`."""
        name = self._hide(key)
        self._inner.put(model, name, self._fernet.encrypt(name.encode() + b"\n" + data))

    def delete(self, model: str, key: str) -> None:
        """See `Backing.delete`."""
        self._inner.delete(model, self._hide(key))

    def why_not(self, model: str, keys: Sequence[str]) -> str | None:
        """See `Backing.why_not`."""
        return self._inner.why_not(model, [self._hide(key) for key in keys])

    def forget(self, scope: str) -> None:
        """See `Backing.forget`."""
        self._inner.forget(self._hash(scope))

    def expire(self) -> None:
        """See `Backing.expire`."""
        self._inner.expire()

    def _hide(self, key: str) -> str:
        scope, stroke, rest = key.partition("/")
        return f"{self._hash(scope)}/{self._hash(rest)}" if stroke else self._hash(key)

    def _hash(self, text: str) -> str:
        return hmac.new(self._names, text.encode(), hashlib.sha256).hexdigest()


def _derive(secret: str, purpose: bytes) -> bytes:
    return hmac.new(hashlib.sha256(secret.encode()).digest(), purpose + b"\x01", hashlib.sha256).digest()
