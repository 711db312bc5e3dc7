"""A `Backing` in memory: where nothing outlives the process."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence


class InMemory:
    """Bytes by model and key; what was used longest ago goes first.

    Args:
        budget: bytes.
        ttl: seconds after which what wasn't used again is forgotten; None for no such limit.
        clock: seconds.
    """

    def __init__(self, budget: int, ttl: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget, self._ttl, self._clock = budget, ttl, clock
        self._kept: OrderedDict[tuple[str, str], tuple[float, bytes]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def first(self, model: str, keys: Sequence[str]) -> tuple[str, bytes] | None:
        """See `Backing.first`."""
        with self._lock:
            self._expire()
            for key in keys:
                if (found := self._kept.get((model, key))) is not None:
                    self._put((model, key), found[1])
                    return key, found[1]
        return None

    def put(self, model: str, key: str, data: bytes) -> None:
        """See `Backing.put`."""
        with self._lock:
            self._expire()
            self._put((model, key), data)
            while self._bytes > self._budget and self._kept:
                self._drop(next(iter(self._kept)))

    def delete(self, model: str, key: str) -> None:
        """See `Backing.delete`."""
        with self._lock:
            self._drop((model, key))

    def why_not(self, model: str, keys: Sequence[str]) -> str | None:  # noqa: ARG002
        """See `Backing.why_not`: it isn't known here."""
        return None

    def forget(self, scope: str) -> None:
        """See `Backing.forget`."""
        with self._lock:
            for name in [name for name in self._kept if name[1].startswith(f"{scope}/")]:
                self._drop(name)

    def expire(self) -> None:
        """See `Backing.expire`."""
        with self._lock:
            self._expire()

    def _put(self, name: tuple[str, str], data: bytes) -> None:
        self._drop(name)
        self._kept[name] = (self._clock(), data)
        self._bytes += len(data)

    def _drop(self, name: tuple[str, str]) -> None:
        if name in self._kept:
            self._bytes -= len(self._kept.pop(name)[1])

    def _expire(self) -> None:
        if self._ttl is not None:
            oldest = self._clock() - self._ttl
            while self._kept and self._kept[name := next(iter(self._kept))][0] < oldest:
                self._drop(name)
