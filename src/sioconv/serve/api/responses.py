"""`/v1/responses`: a stored response is a stored state."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from sioconv.generate.states.store import BackingError
from sioconv.serve.access.keys import Client
from sioconv.serve.api.conversations import Kept, keep_conversation, kept_before
from sioconv.serve.api.replies import Asked, logprobs_of
from sioconv.serve.api.response_form import item_of, message_id, messages_of, part_of, response_of
from sioconv.serve.api.schema import ResponseRequest
from sioconv.serve.errors import ApiError, to_api_error
from sioconv.serve.memory.records import Record
from sioconv.serve.models import Start
from sioconv.serve.prompts import chat_prompt, grammar_of, start_of
from sioconv.serve.runner import CancelledByClientError
from sioconv.serve.service import Service, service_of
from sioconv.serve.wire import EventStream, Json, event, unless_gone
from sioconv.serve.writing import Token, Writing

router = APIRouter()


@dataclass(eq=False)
class _Turn:
    """A response that is being written.

    Args:
        service: the server's parts.
        client: who asks.
        body: what for.
        asked: the reply.
        before: what it goes on from.
        stored: whether it is kept.
        tokens: with log-probabilities, so far.
        status: of the response object.
    """

    service: Service
    client: Client
    body: ResponseRequest
    asked: Asked
    before: Kept
    stored: bool
    tokens: list[Token] = field(default_factory=list)
    status: str = "in_progress"

    def said(self) -> Any:
        """The response object as it is now."""
        return response_of(self.asked, self.body, self.status, self.tokens, self.stored)

    async def finish(self) -> None:
        """Keeps the response, and its conversation, where that is asked for."""
        if not self.stored:
            return
        state = await self.asked.writing.close()
        keys = sorted(self.asked.writing.keys)
        instructions = self.body.instructions or self.before.instructions
        said = {
            "response": self.said(), "keys": keys, "instructions": instructions, "persona": self.before.persona,
            "model": self.asked.served.name,
        }  # fmt: skip
        record = Record(said, self.asked.served.pack(state))
        records = self.service.records
        assert records is not None
        self.stored = await asyncio.to_thread(records.put, self.client.owner, self.asked.id, record)
        if self.before.conversation is not None:
            await keep_conversation(records, self.client.owner, self.before, record)


@router.post("/v1/responses")
async def create(body: ResponseRequest, request: Request) -> Response:
    """Writes a response."""
    service = service_of(request)
    client = service.client(request)
    served = service.model(body.model)
    if body.store and service.records is None:
        raise ApiError(400, "this server stores nothing: send store: false", "store")
    if body.top_logprobs is not None and not body.include:
        raise ApiError(400, 'top_logprobs needs include: ["message.output_text.logprobs"]', "top_logprobs")
    before = await kept_before(service, client, body)
    if before.model is not None and before.model != served.name:
        raise ApiError(400, f"what it goes on from was written by the model {before.model}: only that one can", "model")
    sampling = body.sampling("max_output_tokens", None, service.config, served.model)
    start = start_of(served, body.persona or before.persona, None)[0]
    if before.state:
        start = Start(served.unpack(before.state, trusted=True).state, name=start.name)
    messages = before.pending + messages_of(body.input)
    if body.instructions is not None and body.instructions != before.instructions:
        messages.insert(0, {"role": "system", "content": body.instructions})
    stored = service.records is not None and body.store is not False
    prompt = await chat_prompt(served, messages, start, client.owner, stored, service.config, "input")
    logprobs = (body.top_logprobs or 0) if body.include else None
    grammar = await grammar_of(served, body.form(body.text.format if body.text else None), "text.format")
    writing = Writing(served, prompt, sampling, logprobs=logprobs, grammar=grammar)
    asked = Asked(service, client, served, writing, "resp_")
    before.persona = body.persona or before.persona
    turn = _Turn(service, client, body, asked, before, stored)
    if body.stream:
        await asked.begin_for(request)
        return EventStream(_events(turn), asked.close)
    try:
        return Json(await unless_gone(request, _whole(turn)))
    finally:
        await asked.close()


async def _write(turn: _Turn) -> AsyncGenerator[tuple[str, tuple[Token, ...]], None]:
    """Writes, and keeps what was written; yields the text's parts."""
    name = (turn.client.owner, turn.asked.id)
    await turn.asked.begin()
    turn.service.writing[name] = turn.asked.writing.interrupt
    try:
        async for piece in turn.asked.pieces():
            turn.tokens += piece.tokens
            if piece.text or piece.tokens:
                yield piece.text, piece.tokens
            if piece.finish is not None:
                turn.status = "incomplete" if piece.finish == "length" else "completed"
        await turn.finish()
    except CancelledByClientError:
        turn.status, turn.stored = "cancelled", False
    finally:
        turn.service.writing.pop(name, None)


async def _whole(turn: _Turn) -> Any:
    async for _ in _write(turn):
        pass
    return turn.said()


async def _events(turn: _Turn) -> AsyncGenerator[bytes, None]:
    """The events in the order in which OpenAI's clients expect them."""
    asked, number = turn.asked, 0
    place = {"item_id": message_id(asked), "output_index": 0, "content_index": 0}

    def told(kind: str, **values: Any) -> bytes:
        nonlocal number
        said = event({"type": kind, "sequence_number": number, **values}, kind)
        number += 1
        return said

    try:
        yield told("response.created", response=turn.said())
        yield told("response.in_progress", response=turn.said())
        yield told("response.output_item.added", output_index=0, item=item_of(asked, "in_progress", ()))
        yield told("response.content_part.added", **place, part=part_of(asked, None))
        async for text, tokens in _write(turn):
            logprobs = logprobs_of(asked.served, tokens)
            yield told("response.output_text.delta", **place, delta=text, logprobs=logprobs)
        part = part_of(asked, turn.tokens)
        yield told("response.output_text.done", **place, text=part["text"], logprobs=part["logprobs"])
        yield told("response.content_part.done", **place, part=part)
        yield told("response.output_item.done", output_index=0, item=item_of(asked, turn.status, turn.tokens))
        end = "response.completed" if turn.status == "completed" else "response.incomplete"
        yield told(end, response=turn.said())
    except Exception as error:
        problem = to_api_error(error).body()["error"]
        yield told("error", message=problem["message"], code=problem["code"], param=problem["param"])


@router.get("/v1/responses/{name}")
async def retrieve(name: str, request: Request) -> Response:
    """A response that was stored."""
    service = service_of(request)
    record = await _record(service, service.client(request), name)
    return Json(record.said["response"])


@router.post("/v1/responses/{name}/cancel")
async def cancel(name: str, request: Request) -> Response:
    """Ends a response that is being written."""
    service = service_of(request)
    client = service.client(request)
    interrupt: Callable[[], None] | None = service.writing.get((client.owner, name))
    if interrupt is None:
        await _record(service, client, name)
        raise ApiError(400, "the response was written already", "response_id", "already_completed")
    interrupt()
    return Json({"id": name, "object": "response", "status": "cancelled", "output": []})


@router.delete("/v1/responses/{name}")
async def delete(name: str, request: Request) -> Response:
    """Forgets a response, its state, and the snapshots that were made for it."""
    service = service_of(request)
    client = service.client(request)
    record = await _record(service, client, name)
    assert service.records is not None
    if service.store is not None:
        await asyncio.to_thread(service.store.discard, record.said["keys"])
    await asyncio.to_thread(service.records.delete, client.owner, name)
    return Json({"id": name, "object": "response", "deleted": True})


async def _record(service: Service, client: Client, name: str) -> Record:
    record = None
    if service.records is not None and name.startswith("resp_"):
        try:
            record = await asyncio.to_thread(service.records.get, client.owner, name)
        except BackingError as error:
            raise ApiError(503, "the store can't be read now", code="store_failed") from error
    if record is None:
        raise ApiError(404, "there is no such response: it wasn't stored, or is forgotten", "response_id", "not_found")
    return record
