"""Streams of events: signs of life, clients that hang, clients that leave."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from starlette.types import Message

from sioconv.serve import wire


async def answer(
    events: AsyncGenerator[bytes, None],
    send: Callable[[Message], Awaitable[None]],
    receive: Callable[[], Awaitable[Message]] | None = None,
) -> list[str]:
    """Sends a stream; what was closed at its end."""
    closed: list[str] = []

    async def close() -> None:
        closed.append("place")

    async def stays() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    stream = wire.EventStream(events, close)
    await asyncio.wait_for(stream({"type": "http"}, receive or stays, send), 20)
    return closed


def test_a_stream_that_is_silent_says_that_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PING_EVERY", 0.03)
    sent: list[bytes] = []

    async def events() -> AsyncGenerator[bytes, None]:
        yield wire.event("a")
        while wire.PING not in sent:
            await asyncio.sleep(0.01)
        yield wire.event("b")

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    assert asyncio.run(answer(events(), send)) == ["place"]
    assert [each for each in sent if each and each != wire.PING] == [b'data: "a"\n\n', b'data: "b"\n\n']
    assert sent[-1] == b""


def test_a_client_that_takes_nothing_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PING_EVERY", 0.03)
    monkeypatch.setattr(wire, "SEND_TIMEOUT", 0.1)
    ended: list[str] = []

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield wire.event("a")
        finally:
            ended.append("events")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    assert asyncio.run(answer(events(), send)) == ["place"]
    assert ended == ["events"]


def test_a_client_that_leaves_ends_the_stream() -> None:
    ended: list[str] = []

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield wire.event("a")
            await asyncio.Event().wait()
        finally:
            ended.append("events")

    async def leaves() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        pass

    assert asyncio.run(answer(events(), send, leaves)) == ["place"]
    assert ended == ["events"]


def test_an_error_of_a_stream_is_raised_and_everything_is_closed() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield wire.event("a")
        raise ValueError("broken")

    async def send(_: Message) -> None:
        pass

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(answer(events(), send))
