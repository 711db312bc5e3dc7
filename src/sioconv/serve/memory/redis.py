"""A `Backing` in Redis or Valkey: any replica of a server goes on with any conversation."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis

from sioconv.errors import UserError
from sioconv.generate.states.store import BackingError

T = TypeVar("T")
SECONDS = 2.0  # what an answer may take
AT_ONCE = 200


class RedisPlace:
    """States in Redis or Valkey. What is to go where its memory is full is the service's own setting.

    Args:
        url: `redis://`, `rediss://` or `unix://`; it may hold a password, so it is never shown.
        ttl: seconds after which what wasn't written or found again is forgotten; None for no such limit.

    Raises:
        UserError: it isn't such an address.
    """

    def __init__(self, url: str, ttl: float | None = None) -> None:
        self._ttl = None if ttl is None else max(1, int(ttl))
        try:
            self._client: Any = redis.Redis.from_url(url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS)
        except ValueError as error:
            raise UserError("not an address of Redis or Valkey: give redis://HOST:PORT/NUMBER to --store") from error

    def first(self, model: str, keys: Sequence[str]) -> tuple[str, bytes] | None:
        """See `Backing.first`."""
        return self._try(lambda: self._first(model, keys))

    def put(self, model: str, key: str, data: bytes) -> None:
        """See `Backing.put`."""
        self._try(lambda: self._client.set(_name(model, key), data, ex=self._ttl))

    def delete(self, model: str, key: str) -> None:
        """See `Backing.delete`."""
        self._try(lambda: self._client.delete(_name(model, key)))

    def why_not(self, model: str, keys: Sequence[str]) -> str | None:  # noqa: ARG002
        """See `Backing.why_not`: it isn't known here."""
        return None

    def forget(self, scope: str) -> None:
        """See `Backing.forget`."""

        def forget() -> None:
            for name in self._client.scan_iter(match=f"sioconv:*:{scope}/*", count=1000):
                self._client.unlink(name)

        self._try(forget)

    def expire(self) -> None:
        """See `Backing.expire`: the service does it."""

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    def _first(self, model: str, keys: Sequence[str]) -> tuple[str, bytes] | None:
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            with self._client.pipeline(transaction=False) as pipe:
                for key in some:
                    pipe.exists(_name(model, key))
                there = pipe.execute()
            for key, exists in zip(some, there, strict=True):
                data = self._client.get(_name(model, key)) if exists else None
                if data is not None:
                    if self._ttl is not None:
                        self._client.expire(_name(model, key), self._ttl)
                    return key, data
        return None

    def _try(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except redis.RedisError as error:
            raise BackingError(f"the Redis service: {type(error).__name__}") from error


def _name(model: str, key: str) -> str:
    return f"sioconv:{hashlib.sha256(model.encode()).hexdigest()[:16]}:{key}"
