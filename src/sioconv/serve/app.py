"""The application: its routes, its errors, its beginning and end."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection
from pathlib import Path

from fastapi import FastAPI

from sioconv import __version__
from sioconv.serve import errors
from sioconv.serve.access.edge import Edge
from sioconv.serve.api import about, chat, completions, conversations, responses, states, tokens
from sioconv.serve.page_files import PageFiles
from sioconv.serve.service import Service
from sioconv.serve.telemetry.tracing import telemetry_of

PAGE = Path(__file__).parent / "page"
EXPIRE_EVERY = 300.0  # seconds


def make_app(service: Service, hosts: Collection[str] | None = None) -> FastAPI:
    """The application of a server.

    Args:
        service: its parts; closed at the application's end.
        hosts: the names that it answers to; None for any.
    """

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncGenerator[None, None]:
        cleaner = asyncio.create_task(_expire(service))
        try:
            yield
        finally:
            cleaner.cancel()
            for served in service.models.values():
                await asyncio.to_thread(served.runner.close)
            if service.tracer_provider is not None:
                await asyncio.to_thread(service.tracer_provider.shutdown)  # sends what is left

    telemetry = telemetry_of(service.tracer_provider)
    app = FastAPI(
        title="sioconv", version=__version__, lifespan=life, docs_url=None, redoc_url=None, telemetry=telemetry
    )
    app.state.service = service
    errors.install(app)
    for part in (about, chat, completions, responses, conversations, states, tokens):
        app.include_router(part.router)
    if PAGE.is_dir():
        app.mount("/", PageFiles(PAGE))
    app.add_middleware(Edge, config=service.config, metrics=service.metrics, admit=service.admit, hosts=hosts)
    return app


async def _expire(service: Service) -> None:
    """Forgets what is too old, from time to time."""
    while service.store is not None:
        await asyncio.to_thread(service.store.expire)
        await asyncio.sleep(EXPIRE_EVERY)
