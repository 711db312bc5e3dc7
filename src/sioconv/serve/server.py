"""Starting and stopping a server."""

import gc
import ipaddress
import logging
from collections.abc import Collection
from typing import Any

import uvicorn

from sioconv.errors import UserError
from sioconv.progress import say
from sioconv.serve.access.connection import connection_class
from sioconv.serve.app import make_app
from sioconv.serve.service import Service

LOCAL = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_of(host: str) -> Collection[str] | None:
    """The names that a server at an address answers to; None for any, where it is open to others."""
    return {*LOCAL, host} if is_loopback(host) else None


def uvicorn_config(service: Service, host: str, port: int, hosts: Collection[str] | None) -> uvicorn.Config:
    """How the application is served: `hosts` are the names that it answers to, None for any."""
    return uvicorn.Config(
        make_app(service, hosts),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than what proxies and clients keep a connection that they don't use
        timeout_graceful_shutdown=max(1, int(service.config.grace) + 1),
        h11_max_incomplete_event_size=64 * 1024,
        http=connection_class(service.config.body_seconds),
        ws="none",
    )


class Server(uvicorn.Server):
    """uvicorn's server; it tells the service when it is being stopped, and says where it listens."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Called with SIGINT and SIGTERM."""
        self._service.draining = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: Any = None) -> None:
        """Waits for what runs. The signal isn't raised once more after that: the end was asked for, and is orderly."""
        await super().shutdown(sockets)
        self._captured_signals.clear()

    async def startup(self, sockets: Any = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        for server in self.servers:
            for socket in server.sockets:
                host, port = socket.getsockname()[:2]
                say(
                    f"serving {', '.join(self._service.models)} at http://{f'[{host}]' if ':' in host else host}:{port}"
                )


def run_server(service: Service, host: str, port: int) -> None:
    """Serves until SIGINT or SIGTERM; replies that run then have `grace` seconds to end.

    Raises:
        UserError: the address can't be had.
    """
    if service.keys is None and not is_loopback(host):
        say(f"warning: {host} can be reached from outside and there are no keys: anyone may use this server (--keys)")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    gc.collect()
    gc.freeze()  # models and libraries stay: the collector needn't look through them again and again
    try:
        Server(uvicorn_config(service, host, port, hosts_of(host)), service).run()
    except SystemExit as error:  # uvicorn's way to say that it can't listen; it has logged why
        raise UserError(f"can't listen at {host}:{port}: choose another --host or --port") from error
