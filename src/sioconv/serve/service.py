"""What the routes share: models, states, limits, and who may ask."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.types import Scope

from sioconv.generate.states.store import StateStore
from sioconv.serve.access.keys import Client, Keys, owner_of
from sioconv.serve.access.limits import Limits
from sioconv.serve.config import ServeConfig
from sioconv.serve.errors import ApiError
from sioconv.serve.memory.records import Records
from sioconv.serve.models import ServedModel
from sioconv.serve.telemetry.metrics import Metrics

OPEN = owner_of("")  # the owner of all states where there are no keys


@dataclass(eq=False)
class Service:
    """A server's parts.

    Args:
        models: by name.
        config: the limits.
        store: the snapshots of all models; None where nothing is kept.
        records: responses and conversations that were stored; None where nothing is kept.
        keys: who may ask; None for everybody.
        limits: how much runs.
        metrics: what happened.
        draining: whether it is being stopped.
        writing: how to cancel responses that are being written, by owner and id.
        tracer_provider: makes the spans of requests; None for none.
    """

    models: Mapping[str, ServedModel]
    config: ServeConfig
    store: StateStore | None
    records: Records | None
    keys: Keys | None
    limits: Limits
    metrics: Metrics
    draining: bool = False
    writing: dict[tuple[str, str], Callable[[], None]] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    tracer_provider: Any | None = None

    def model(self, name: str) -> ServedModel:
        """The model of a name. Raises ApiError where there is none."""
        if name not in self.models:
            known = ", ".join(self.models)
            raise ApiError(404, f"there is no such model here; there are: {known}", "model", "model_not_found")
        return self.models[name]

    def client(self, request: Request) -> Client:
        """Who sends a request. Raises ApiError where the key is missing or unknown."""
        if self.keys is None:
            return Client(request.client.host if request.client else "unknown", OPEN)
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        client = self.keys.find(key.strip()) if kind.lower() == "bearer" and key.strip() else None
        if client is None:
            headers = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, "the API key is missing or unknown", code="invalid_api_key", headers=headers)
        request.scope["sioconv.client"] = client.name
        return client

    def admit(self, scope: Scope) -> None:
        """Counts a request of a client. Raises ApiError where its key is missing or unknown, or it sends too many."""
        self.limits.count(self.client(Request(scope)).name)

    @asynccontextmanager
    async def room(self, served: ServedModel, client: Client, texts: int) -> AsyncGenerator[Callable[[], None], None]:
        """Room for replies, see `Limits.room`. Raises ApiError where there is none."""
        most = min(self.config.max_n, self.config.texts)
        if not 1 <= texts <= most:
            raise ApiError(400, f"n is {texts}: this server takes 1 to {most}", "n")
        if self.draining:
            raise ApiError(503, "the server is being stopped", code="draining", headers={"Retry-After": "5"})
        async with self.limits.room(served.name, client.name, texts) as leave:
            yield leave


def service_of(request: Request) -> Service:
    """The service of the application that a request came to."""
    service: Service = request.app.state.service
    return service
