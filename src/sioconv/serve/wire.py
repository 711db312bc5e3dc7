"""What goes over the wire: JSON, server-sent events, and a client that has gone."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
PING = b": still here\n\n"
PING_EVERY = 15.0  # seconds without an event
SEND_TIMEOUT = 120.0  # seconds in which a client must take something
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8; halves of surrogate pairs, which UTF-8 can't hold, as JSON's escapes."""
    return _encode(value).encode("utf-8", "backslashreplace")


class Json(Response):
    """A response of JSON."""

    media_type = "application/json"

    def __init__(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(to_json(content), status, headers)


class EventStream(Response):
    """A response of server-sent events.

    It sends each event as it is: a token of each of many replies comes at once, and a general library's work on every
    event costs more than a small model's token (docs/decisions.md).

    Args:
        events: whole events, from `event`; closed however the response ends.
        close: called after that.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], close: Callable[[], Awaitable[None]]) -> None:
        self._events, self._close = events, close
        self._sending = 0.0  # since when the client is waited for; 0 where it isn't
        self._sent = time.monotonic()
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Sends the events until they end, or the client has gone, or takes nothing any more."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            tasks = [asyncio.ensure_future(work) for work in (self._write(send), _gone(receive), self._tend(send))]
            try:
                done = (await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))[0]
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()
        finally:
            await self._events.aclose()
            await self._close()

    async def _write(self, send: Send) -> None:
        async for data in self._events:
            await self._send(send, data)
        self._sending = time.monotonic()  # no sign of life may come behind the end
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, data: bytes) -> None:
        self._sending = self._sent = time.monotonic()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._sending = 0.0

    async def _tend(self, send: Send) -> None:
        """Says that the server is there where it has written nothing for a while; ends where a client hangs."""
        while True:
            await asyncio.sleep(PING_EVERY / 3)
            now = time.monotonic()
            if self._sending:
                if now - self._sending > SEND_TIMEOUT:
                    return
            elif now - self._sent > PING_EVERY:
                await self._send(send, PING)


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event, of a line of JSON."""
    return (b"" if name is None else f"event: {name}\n".encode()) + b"data: " + to_json(value) + b"\n\n"


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; it is cancelled when the client disconnects. Raises ClientGoneError then."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for each in (task, watch):
            if not each.done():
                each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
