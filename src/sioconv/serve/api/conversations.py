"""`/v1/conversations`: a conversation is the state of its latest response."""

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from sioconv.generate.states.store import BackingError
from sioconv.serve.access.keys import Client
from sioconv.serve.api.response_form import messages_of
from sioconv.serve.api.schema import ConversationRequest, ResponseRequest
from sioconv.serve.errors import ApiError
from sioconv.serve.memory.records import Record, Records
from sioconv.serve.service import Service, service_of
from sioconv.serve.wire import Json

router = APIRouter()


@dataclass
class Kept:
    """What a response goes on from.

    Args:
        state: a state file's bytes; empty at the beginning.
        model: whose state it is; None at the beginning.
        instructions: that stand in it.
        persona: that it began with.
        pending: messages that weren't read yet.
        conversation: its id, where it is one.
        version: how often the conversation was written.
        said: what the conversation says of itself.
    """

    state: bytes = b""
    model: str | None = None
    instructions: str | None = None
    persona: str | None = None
    pending: list[dict[str, Any]] = field(default_factory=list)
    conversation: str | None = None
    version: int = 0
    said: dict[str, Any] = field(default_factory=dict)


async def kept_before(service: Service, client: Client, body: ResponseRequest) -> Kept:
    """What a request goes on from. Raises ApiError where that isn't there."""
    conversation = body.conversation if isinstance(body.conversation, str | None) else body.conversation.id
    if body.previous_response_id is not None and conversation is not None:
        raise ApiError(400, "previous_response_id and conversation are both given: give one", "conversation")
    name = body.previous_response_id or conversation
    if name is None:
        return Kept()
    param = "conversation" if conversation else "previous_response_id"
    record = await _get(service, client, name, param)
    said = record.said
    if body.persona is not None and record.state and body.persona != said["persona"]:
        raise ApiError(400, "the persona can't change: leave it out", "persona")
    if conversation is None:
        return Kept(record.state, said["model"], said["instructions"], said["persona"])
    return Kept(
        record.state, said["model"], said["instructions"], said["persona"], said["pending"], conversation,
        said["version"], said["conversation"],
    )  # fmt: skip


async def keep_conversation(records: Records, owner: str, before: Kept, response: Record) -> None:
    """Lets a conversation go on from a response.

    Raises:
        ApiError: another response was added to it meanwhile; that one stays.
    """
    assert before.conversation is not None
    now = await asyncio.to_thread(records.get, owner, before.conversation)
    if now is None or now.said["version"] != before.version:
        message = "the conversation has changed while this response was written: it isn't a part of it"
        raise ApiError(409, message, "conversation", "conversation_changed", {"x-should-retry": "false"})
    said = {key: response.said[key] for key in ("model", "instructions", "persona", "keys")}
    said |= {"conversation": before.said, "pending": [], "version": before.version + 1}
    said["keys"] = sorted({*now.said.get("keys", []), *said["keys"]})
    await asyncio.to_thread(records.put, owner, before.conversation, Record(said, response.state))


@router.post("/v1/conversations")
async def create(body: ConversationRequest, request: Request) -> Response:
    """Begins a conversation; `items` are read with its first response."""
    service = service_of(request)
    client = service.client(request)
    if service.records is None:
        raise ApiError(400, "this server stores nothing: there are no conversations", code="not_stored")
    name = f"conv_{secrets.token_hex(16)}"
    about = {"id": name, "object": "conversation", "created_at": int(time.time()), "metadata": body.metadata}
    said = {
        "conversation": about, "pending": messages_of(body.items, "items"), "version": 0, "model": None,
        "instructions": None, "persona": None, "keys": [],
    }  # fmt: skip
    if not await asyncio.to_thread(service.records.put, client.owner, name, Record(said)):
        raise ApiError(503, "the store can't be written now", code="store_failed")
    return Json(about)


@router.get("/v1/conversations/{name}")
async def retrieve(name: str, request: Request) -> Response:
    """What a conversation says of itself."""
    service = service_of(request)
    return Json((await _get(service, service.client(request), name, "conversation_id")).said["conversation"])


@router.delete("/v1/conversations/{name}")
async def delete(name: str, request: Request) -> Response:
    """Forgets a conversation, its state and its snapshots; its responses are deleted by their own names."""
    service = service_of(request)
    client = service.client(request)
    record = await _get(service, client, name, "conversation_id")
    assert service.records is not None
    if service.store is not None:
        await asyncio.to_thread(service.store.discard, record.said["keys"])
    await asyncio.to_thread(service.records.delete, client.owner, name)
    return Json({"id": name, "object": "conversation.deleted", "deleted": True})


async def _get(service: Service, client: Client, name: str, param: str) -> Record:
    record, right = None, name.startswith("resp_" if param == "previous_response_id" else "conv_")
    if service.records is not None and right:
        try:
            record = await asyncio.to_thread(service.records.get, client.owner, name)
        except BackingError as error:
            raise ApiError(503, "the store can't be read now", code="store_failed") from error
    if record is None:
        raise ApiError(404, "there is none of that name: it wasn't stored, or is forgotten", param, "not_found")
    return record
