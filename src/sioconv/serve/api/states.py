"""`DELETE /v1/states`: everything of a key is forgotten; `/memory`: how long the model remembers."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from sioconv.evaluate.timescales import half_lives
from sioconv.generate.states.store import BackingError
from sioconv.serve.errors import ApiError
from sioconv.serve.models import ServedModel
from sioconv.serve.service import service_of
from sioconv.serve.wire import Json

router = APIRouter()


@router.delete("/v1/states")
async def delete(request: Request) -> Response:
    """Forgets all states, responses and conversations of the key that asks."""
    service = service_of(request)
    client = service.client(request)
    for served in service.models.values():
        await asyncio.wrap_future(served.runner.forget_aside(client.owner))
    try:
        if service.records is not None:
            await asyncio.to_thread(service.records.forget, client.owner)
    except BackingError as error:
        raise ApiError(503, "the store can't be written now: nothing was deleted there", code="store_failed") from error
    if service.store is not None:
        await asyncio.to_thread(service.store.forget, client.owner)
    return Json({"object": "states.deleted", "deleted": True})


@router.get("/memory")
async def memory(request: Request, model: str | None = None) -> Response:
    """How large a text's state is, how fast the model writes, and how long each layer remembers."""
    service = service_of(request)
    service.client(request)
    served = service.model(next(iter(service.models)) if model is None else model)
    # On the engine's thread: it listens to the gates of whatever the model reads meanwhile.
    return Json(await asyncio.wrap_future(served.runner.call(lambda: _memory(served))))


def _memory(served: ServedModel) -> dict[str, Any]:
    if not served.half_lives:
        served.half_lives.extend(half_lives(served.model, served.tokenizer))
    layers = [{"layer": i, "half_lives": heads} for i, heads in enumerate(served.half_lives)]
    return {
        "object": "memory",
        "model": served.name,
        "state_bytes": served.state_bytes,
        "tokens_per_second": round(served.runner.tokens_per_second, 1),
        "layers": layers,
    }
