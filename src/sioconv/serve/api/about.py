"""What the server says of itself: `/v1/models`, `/health`, `/ready`, `/metrics`, `/memory`."""

from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from sioconv.serve.api.schema import ModelName
from sioconv.serve.errors import ApiError
from sioconv.serve.models import ServedModel
from sioconv.serve.service import service_of
from sioconv.serve.wire import Json, event

router = APIRouter()


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health() -> Response:
    """Whether the process answers."""
    return Json({"status": "ok"})


@router.head("/ready", include_in_schema=False)
@router.get("/ready")
async def ready(request: Request) -> Response:
    """Whether it takes requests: not while it is being stopped, or where an engine has died."""
    service = service_of(request)
    alive = all(served.runner.alive for served in service.models.values())
    if service.draining or not alive:
        raise ApiError(503, "the server is being stopped" if alive else "an engine has died", code="not_ready")
    return Json({"status": "ready", "models": list(service.models)})


@router.post("/load_model")
async def load_model(body: ModelName, request: Request) -> Response:
    """What `transformers chat` asks for before it talks: models here are always loaded."""
    service = service_of(request)
    service.client(request)
    served = service.model(body.model)
    said = event({"status": "ready", "model": served.name, "cached": True})
    return Response(said, media_type="text/event-stream")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """What happened, for Prometheus."""
    service = service_of(request)
    service.client(request)
    return Response(service.metrics.page(service), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The models."""
    service = service_of(request)
    service.client(request)
    return Json({"object": "list", "data": [_model(served) for served in service.models.values()]})


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> Response:
    """One of them."""
    service = service_of(request)
    service.client(request)
    return Json(_model(service.model(name)))


def _model(served: ServedModel) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "sioconv",
        "sioconv": {
            "fingerprint": served.fingerprint,
            "parameters": sum(each.numel() for each in served.model.parameters()),
            "vocabulary": served.model.config.vocab_size,
            "state_bytes": served.state_bytes,
            "personas": list(served.personas),
        },
    }
