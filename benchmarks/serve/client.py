"""One client for all servers: OpenAI's streams of chat completions over HTTP."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.serve.processes import Server

MESSAGE = "川は山から海へ流れます。では、海の水はどこへ行きますか。"
Messages = list[dict[str, str]]


@dataclass
class Reply:
    """What a client saw of a reply.

    Args:
        text: what was written.
        started: when the request was sent, in seconds of `time.perf_counter`.
        marks: when each piece came.
        tokens: how many were written, where the server says so; else how many pieces came.
        cached: how many of the prompt weren't read again, where the server says so.
    """

    started: float
    text: str = ""
    marks: list[float] = field(default_factory=list)
    tokens: int = 0
    cached: int = 0

    @property
    def first(self) -> float:
        """Seconds to the first piece."""
        return self.marks[0] - self.started


def opening(number: int) -> Messages:
    """What a conversation begins with: no two alike, so that one finds nothing of another's in a store."""
    return [{"role": "system", "content": f"conversation {number}"}, {"role": "user", "content": MESSAGE}]


def web(server: Server) -> httpx.AsyncClient:
    """Connections to a server, as many as are wanted at once."""
    return httpx.AsyncClient(base_url=server.url, timeout=None, limits=httpx.Limits(max_connections=None))


async def ask(
    client: httpx.AsyncClient, server: Server, messages: Sequence[Mapping[str, str]], tokens: int, **options: Any
) -> Reply:
    """A reply of so many tokens, streamed."""
    extra = {name: tokens if value == "{tokens}" else value for name, value in server.extra.items()}
    body = {
        "model": server.model, "messages": messages, "max_tokens": tokens, "stream": True,
        "stream_options": {"include_usage": True}, **extra, **options,
    }  # fmt: skip
    reply = Reply(time.perf_counter())
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {(await answer.aread()).decode()}")
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                _take(reply, json.loads(line[6:]))
    reply.tokens = reply.tokens or len(reply.marks)
    return reply


def _take(reply: Reply, event: dict[str, Any]) -> None:
    if "error" in event:
        raise RuntimeError(str(event["error"]))
    for choice in event.get("choices") or ():
        if part := choice["delta"].get("content"):
            reply.marks.append(time.perf_counter())
            reply.text += part
    if usage := event.get("usage"):
        reply.tokens = usage["completion_tokens"]
        reply.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
