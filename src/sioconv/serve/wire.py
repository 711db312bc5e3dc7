"""What goes over the wire: JSON, server-sent events, and a client that has gone."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio
from fastapi import Request
from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
DONE = "[DONE]"


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8; halves of surrogate pairs, which UTF-8 can't hold, as JSON's escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


class Json(Response):
    """A response of JSON."""

    media_type = "application/json"

    def __init__(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(to_json(content), status, headers)


class EventStream(EventSourceResponse):
    """A response of server-sent events.

    Args:
        events: what each event says, `{"data": …}` with or without `event`; closed however the response ends.
        close: called after that.
        grace: seconds that it may go on when the server is stopped.
    """

    def __init__(
        self, events: AsyncGenerator[dict[str, str], None], close: Callable[[], Awaitable[None]], grace: float
    ) -> None:
        super().__init__(
            events, sep="\n", ping=15, send_timeout=120, shutdown_event=anyio.Event(), shutdown_grace_period=grace
        )
        self._events, self._close = events, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._close()


def event(value: Any, name: str | None = None) -> dict[str, str]:
    """One server-sent event."""
    data = value if isinstance(value, str) else to_json(value).decode()
    return {"data": data} if name is None else {"event": name, "data": data}


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; it is cancelled when the client disconnects. Raises ClientGoneError then."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
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


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
