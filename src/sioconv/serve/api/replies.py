"""What all requests that write have in common: a place among others, pieces, usage, the end."""

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request

from sioconv.serve.access.keys import Client
from sioconv.serve.models import ServedModel
from sioconv.serve.service import Service
from sioconv.serve.telemetry.tracing import Phases
from sioconv.serve.wire import unless_gone
from sioconv.serve.writing import Piece, Token, Writing


class Asked:
    """A request that writes, from its place in the queue to its end.

    `begin` waits for the place and hands the request to the engine; `pieces` does so where it wasn't done. `close`
    gives both back.

    Args:
        service: the server's parts.
        client: who asks.
        served: the model.
        writing: the replies.
        name: what the answer's id begins with.

    Attributes:
        id: the answer's name.
        created: seconds of the clock.
        served: the model.
        writing: the replies.
        sampling: their settings.
    """

    def __init__(self, service: Service, client: Client, served: ServedModel, writing: Writing, name: str) -> None:
        self.id, self.created = f"{name}{secrets.token_hex(16)}", int(time.time())
        self.served, self.writing, self.sampling = served, writing, writing.sampling
        self._service, self._client = service, client
        self._phases = Phases(service.tracer_provider, served.name)
        self._run_of_pieces = self._run()
        self._begun = False

    async def begin(self) -> None:
        """Waits for a place, and hands the request to the engine.

        Raises:
            ApiError, UserError: there is no place, or the request can't be taken.
        """
        if not self._begun:
            self._begun = True
            await anext(self._run_of_pieces)

    async def begin_for(self, request: Request) -> None:
        """`begin` for a stream. Where it fails, or the client goes meanwhile, the place is given back."""
        try:
            await unless_gone(request, self.begin())
        except BaseException:
            await self.close()
            raise

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The pieces of all replies as they come. Raises ApiError and UserError where something goes wrong."""
        await self.begin()
        async for piece in self._run_of_pieces:
            assert piece is not None
            yield piece

    async def close(self) -> None:
        """Ends the request and gives its place back; where it was whole, the store learns what the next may bring."""
        await self._run_of_pieces.aclose()
        await self.writing.close_aside()

    async def _run(self) -> AsyncGenerator[Piece | None, None]:
        arrived, model, metrics = time.perf_counter(), self.served.name, self._service.metrics
        first = True
        self._phases.enter("queue")
        try:
            async with self._service.room(self.served, self._client, len(self.writing.replies)) as leave:
                self._phases.enter("prefill")
                try:
                    async with aclosing(self.writing.pieces(self._service.config.max_seconds, leave)) as pieces:
                        async for piece in pieces:
                            if piece is not None and first:
                                first = False
                                metrics.first.labels(model).observe(time.perf_counter() - arrived)
                                self._phases.enter("decode")
                            yield piece
                finally:
                    metrics.seconds.labels(model).observe(time.perf_counter() - arrived)
                    self._count()
        except BaseException as error:
            self._phases.end(error)
            raise
        self._phases.end()

    def _count(self) -> None:
        """Tells metrics and traces of the tokens."""
        counts = {"written": self.writing.tokens}
        if (reading := self.writing.reading) is not None:
            counts |= {"read": reading.read, "reused": reading.reused}
        for kind, count in counts.items():
            self._service.metrics.tokens.labels(self.served.name, kind).inc(count)
        self._phases.count(counts)

    def head(self, kind: str) -> dict[str, Any]:
        """What a completion, or each chunk of its stream, begins with; `kind` is its `object`."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
        }

    def extras(self) -> dict[str, Any]:
        """What OpenAI's API doesn't say."""
        return {
            "seed": self.writing.seed,
            "not_reused_because": self._why_nothing_was_spared(),
            "state_bytes": self.served.state_bytes,
        }

    def _why_nothing_was_spared(self) -> str | None:
        reading = self.writing.reading
        if reading is None or reading.why or reading.reused:
            return None if reading is None else reading.why
        return "this server keeps no states" if self._service.store is None else "states aren't used for this request"


def usage_of(writing: Writing) -> dict[str, Any]:
    """A chat completion's `usage`. Tokens that weren't read again are `cached_tokens`."""
    reused, read = (writing.reading.reused, writing.reading.read) if writing.reading else (0, 0)
    return {
        "prompt_tokens": reused + read,
        "completion_tokens": writing.tokens,
        "total_tokens": reused + read + writing.tokens,
        "prompt_tokens_details": {"cached_tokens": reused},
    }


def logprobs_of(served: ServedModel, tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """A chat completion's `logprobs.content`."""

    def named(token: int, logprob: float) -> dict[str, Any]:
        data = served.vocabulary.bytes_of(token)
        name = data.decode("utf-8", "replace") if data else served.tokenizer.convert_ids_to_tokens(token)
        return {"token": name, "logprob": max(logprob, -9999.0), "bytes": list(data)}

    return [
        {**named(token.id, token.logprob), "top_logprobs": [named(*likely) for likely in token.top]} for token in tokens
    ]
