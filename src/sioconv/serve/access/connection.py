"""A connection that its client may not hold for ever: with half a request, or with a response that it doesn't take."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sioconv.serve import wire

TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connection(H11Protocol):
    """uvicorn's connection with two limits that it lacks.

    A request's head must have come whole after `head_seconds`, and so must the rest of a body that was refused before
    its end; uvicorn's own limit counts anew from each byte. A client that takes nothing of a response that was handed
    over whole is given up after `wire.SEND_TIMEOUT`.

    Args:
        options: uvicorn's.

    Attributes:
        head_seconds: the limit; `connection_class` sets it.
    """

    head_seconds = 60.0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._late: asyncio.TimerHandle | None = None  # while no request is whole
        self._untaken: asyncio.TimerHandle | None = None  # while bytes wait for the client

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has connected."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """A response was handed over."""
        super().on_response_complete()
        self._watch_unsent()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        for timer in (self._late, self._untaken):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._late is not None and (answering or self._rests()):
            self._late.cancel()
            self._late = None
        elif self._late is None and not answering and not self._rests() and not self.transport.is_closing():
            self._late = self.loop.call_later(self.head_seconds, self._give_up)

    def _rests(self) -> bool:
        """Whether the client has sent whole requests and nothing more: then uvicorn's limit counts."""
        return self.timeout_keep_alive_task is not None

    def _give_up(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE:
            self.transport.write(TOO_SLOW)
        self.transport.close()
        self._watch_unsent()

    def _watch_unsent(self) -> None:
        if self._untaken is None and (left := self.transport.get_write_buffer_size()):
            self._untaken = self.loop.call_later(wire.SEND_TIMEOUT, self._unless_taken, left)

    def _unless_taken(self, before: int) -> None:
        self._untaken = None
        if self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._watch_unsent()


def connection_class(head_seconds: float) -> type[Connection]:
    """`Connection` with a limit of its own."""
    return type("Connection", (Connection,), {"head_seconds": head_seconds})
