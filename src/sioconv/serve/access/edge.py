"""What happens to every request before and after its route: its body's size and time, who may send it, the log."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sioconv.serve.config import ServeConfig
from sioconv.serve.errors import ApiError
from sioconv.serve.telemetry.metrics import Metrics
from sioconv.serve.wire import ClientGoneError

logger = logging.getLogger("sioconv.serve")
WRITING = ("POST", "PUT", "PATCH")


class Edge:
    """The outermost layer of the application.

    Args:
        app: the application.
        config: the limits.
        metrics: gets each answer's path and status.
        admit: raises ApiError where a request that sends something may not come in; called before its body is read.
        hosts: names that a browser may know the server by; None for any. A page of the web whose name leads to this
            machine's loopback address is kept out by them.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServeConfig,
        metrics: Metrics,
        admit: Callable[[Scope], object],
        hosts: Collection[str] | None = None,
    ) -> None:
        self._app, self._config, self._metrics, self._admit, self._hosts = app, config, metrics, admit, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, sent = time.perf_counter(), 499, False

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status, sent = message["status"], True
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            self._check(scope)
            if scope["method"] in WRITING:
                self._admit(scope)
                receive = await self._whole_body(scope, receive)
            await self._app(scope, receive, watched)
        except ApiError as error:
            await error.response()(scope, receive, watched)
        except ClientGoneError:
            self._metrics.gone.inc()
        except Exception:
            # It was logged, and answered unless the answer had begun.
            if not sent:
                await ApiError(500, "the server failed", code="internal_error").response()(scope, receive, watched)
        finally:
            self._tell(scope, status, time.perf_counter() - start)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        name = _name(headers.get(b"host", b"").decode("latin-1"))
        if self._hosts is not None and name not in self._hosts:
            raise ApiError(403, "this server answers to its own names only: see --host", code="wrong_host")
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        with_body = b"transfer-encoding" in headers or int(headers.get(b"content-length", b"0"))
        if scope["method"] in WRITING and with_body and kind != b"application/json":
            # Also: what a page of another site may send without asking is never JSON.
            raise ApiError(415, "the body isn't JSON: send Content-Type: application/json", code="wrong_type")

    async def _whole_body(self, scope: Scope, receive: Receive) -> Receive:
        """A `receive` that gives the whole body at once. Raises ApiError where it is too large or too slow."""
        most = self._config.max_body
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        # The connection stays: a client that is told while it still sends reads the answer only after that.
        too_large = ApiError(413, f"the body has more than {most} bytes", code="body_too_large")
        if not length.isdigit() or int(length) > most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._config.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large
                    if not message.get("more_body"):
                        break
        except TimeoutError as error:
            problem = f"the body didn't come within {self._config.body_seconds:g} s"
            raise ApiError(408, problem, code="body_too_slow", headers={"Connection": "close"}) from error
        bodies = [b"".join(parts)]

        async def replay() -> Message:
            return {"type": "http.request", "body": bodies.pop()} if bodies else await receive()

        return replay

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "other")  # the pattern: no client can make another line of the metrics
        self._metrics.requests.labels(path, str(status)).inc()
        said = {
            "method": scope["method"], "path": path, "status": status, "seconds": round(seconds, 4),
            "client": scope.get("sioconv.client"), **scope.get("sioconv.log", {}),
        }  # fmt: skip
        logger.info(json.dumps(said))


def _name(host: str) -> str:
    """The name in a `Host` header, without its port."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower()
