"""Clients that hold a connection: with half a head, with the rest of a body, with a response that they don't take."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from sioconv.serve import wire
from sioconv.serve.access.connection import Connection, connection_class
from sioconv.serve.access.keys import add_key, read_keys
from sioconv.serve.config import ServeConfig
from tests.serve.conftest import serving

PATIENCE = 60  # seconds: a busy machine
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
LARGE = 32 * 2**20  # bytes: more than the buffers of both sides hold


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads no bodies but at /body, and answers much at /large."""
    if scope["type"] != "http":
        return
    text = b"short"
    if scope["path"] == "/body":
        text = await Request(scope, receive).body()
    if scope["path"] == "/large":
        text = b"x" * LARGE
    await (Response(text) if text else PlainTextResponse("nothing"))(scope, receive, send)


@contextlib.contextmanager
def running(kind: type[Connection]) -> Iterator[uvicorn.Server]:
    server = uvicorn.Server(uvicorn.Config(application, port=0, http=kind, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield server
    server.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive()


def connect(server: uvicorn.Server) -> socket.socket:
    return socket.create_connection(server.servers[0].sockets[0].getsockname()[:2], timeout=PATIENCE)


def trickle(client: socket.socket, data: bytes = b"x") -> None:
    """Sends the same again and again until the server has closed the connection."""
    until = time.monotonic() + PATIENCE
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < until:
            client.sendall(data)
            time.sleep(0.02)
        raise AssertionError("the server waits for ever")


def answer(client: socket.socket) -> bytes:
    """What comes until the connection is closed."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            data += part
    return data


@pytest.mark.parametrize("begun", [b"", b"G", HEAD], ids=["nothing", "a letter", "half a head"])
def test_a_head_that_doesnt_come_is_given_up(begun: bytes) -> None:
    with running(connection_class(0.2)) as server, connect(server) as client:
        client.sendall(begun)
        assert answer(client).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_comes_byte_by_byte_is_given_up() -> None:
    with running(connection_class(0.2)) as server, connect(server) as client:
        client.sendall(HEAD)
        trickle(client)


def test_a_second_head_that_comes_byte_by_byte_is_given_up() -> None:
    with running(connection_class(0.2)) as server, connect(server) as client:
        client.sendall(HEAD + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        trickle(client)


def test_the_rest_of_a_body_that_nobody_reads_is_not_awaited() -> None:
    with running(connection_class(0.2)) as server, connect(server) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        trickle(client)


def test_a_connection_that_rests_between_requests_is_kept() -> None:
    with running(connection_class(0.2)) as server, connect(server) as client:
        for _ in range(3):
            client.sendall(HEAD + b"\r\n")
            time.sleep(0.3)
        client.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
        time.sleep(0.3)  # the body's time is the application's affair
        client.sendall(b"body" + 2 * (HEAD + b"\r\n"))
        client.shutdown(socket.SHUT_WR)
        assert answer(client).count(b"HTTP/1.1 200 ") == 6


def test_a_response_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SEND_TIMEOUT", 0.2)
    with running(connection_class(PATIENCE)) as server:
        for last in (b"", b"Connection: close\r\n"):
            with connect(server) as client:
                client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n" + last + b"\r\n")
                assert client.recv(16).startswith(b"HTTP/1.1 200 ")
                until = time.monotonic() + PATIENCE
                while server.server_state.connections and time.monotonic() < until:
                    time.sleep(0.02)
                assert not server.server_state.connections
                assert len(answer(client)) < LARGE


@pytest.mark.parametrize(("left", "given_up"), [([9, 5, 2, 0], False), ([9, 5, 5, 2], True)])
def test_a_response_that_is_taken_slowly_is_waited_for(left: list[int], given_up: bool) -> None:
    connection, transport, loop = Connection.__new__(Connection), Mock(), Mock()
    connection.transport, connection.loop, connection._untaken = transport, loop, None
    transport.get_write_buffer_size.side_effect = lambda: left[0]
    connection._watch_unsent()
    while loop.call_later.called and not transport.abort.called:
        _, check, *values = loop.call_later.call_args.args
        loop.reset_mock()
        left.pop(0)
        check(*values)
    assert (transport.abort.called, left) == (given_up, [5, 2] if given_up else [0])


def test_who_has_no_key_is_told_before_the_body(served_folder: Path, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.txt", "alice")
    with serving(f"tiny={served_folder}", keys=read_keys(tmp_path / "keys.txt"), config=ServeConfig()) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
            head = b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            client.sendall(head + b"Content-Length: 10000000\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 401 ")
        headers = {"authorization": f"Bearer {key}"}
        url = f"{server.url}/v1/chat/completions"
        body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        assert httpx.post(url, json=body, headers=headers, timeout=PATIENCE).status_code == 200


def test_a_request_without_a_body_needs_no_type(served_folder: Path) -> None:
    with serving(f"tiny={served_folder}", config=ServeConfig()) as server:
        host, port = server.url.removeprefix("http://").split(":")
        for more, status in ((b"", b"404"), (b"Content-Length: 0\r\n", b"404"), (b"Content-Length: 1\r\n", b"415")):
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
                client.sendall(b"POST /v1/responses/resp_x/cancel HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n")
                assert client.recv(4096).split()[1] == status
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
                client.sendall(b"POST /load_model HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
                assert client.recv(4096).split()[1] == b"415"


def test_the_server_gives_up_slow_heads(served_folder: Path) -> None:
    with serving(f"tiny={served_folder}", config=ServeConfig(body_seconds=1)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
            client.sendall(b"GET /health HTTP/1.1\r\n")
            assert httpx.get(f"{server.url}/health").status_code == 200  # others don't wait
            trickle(client)
