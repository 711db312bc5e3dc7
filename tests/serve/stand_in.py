"""A server that says what a test wants, when it wants it: for the page alone."""

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
STATE = "c3RhdGU="
FINGERPRINT = "fp_1"


class StandIn(ThreadingHTTPServer):
    """Serves a folder, and answers chats with what `reply` gives for a request's body.

    Args:
        folder: the page's files.

    Attributes:
        reply: the pieces of an answer, or a status and headers that refuse it.
        bodies: the requests so far.
        key: the API key that is wanted; None for none.
        gone: set when a client has left in the middle of a reply.
        more: a reply stops after each piece until this is set.
        ready: nobody is told of the models until this is set.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.reply: Callable[[dict[str, Any]], list[str] | tuple[int, dict[str, str]]] = _echo
        self.bodies: list[dict[str, Any]] = []
        self.key: str | None = None
        self.gone = threading.Event()
        self.more = threading.Event()
        self.more.set()
        self.ready = threading.Event()
        self.ready.set()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/"

    @property
    def last(self) -> dict[str, Any]:
        """The newest request."""
        return self.bodies[-1]


def _echo(body: dict[str, Any]) -> list[str]:
    turns = body["messages"]
    return [f"{len(turns)}：", *turns[-1]["content"], "ですね。"]


class _Handler(SimpleHTTPRequestHandler):
    server: StandIn
    extensions_map = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}  # noqa: RUF012

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/v1/models":
            self.server.ready.wait(10)
            about = {"fingerprint": FINGERPRINT, "parameters": 5_000_000, "state_bytes": 3072, "personas": ["海"]}
            self._json({"data": [{"id": "tiny", "sioconv": about}, {"id": "other/模型", "sioconv": about}]})
        elif path == "/memory":
            self._json({"layers": [{"half_lives": [0.5, 2.5, 80]}, {"half_lives": [1, 30, None]}]})
        else:
            super().do_GET()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return
        self.server.bodies.append(body)
        answer = self.server.reply(body)
        if isinstance(answer, tuple):
            self._json({"error": {"message": "no <b>place</b>"}}, *answer)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self._stream(answer)
        except OSError:
            self.server.gone.set()

    def _stream(self, pieces: list[str]) -> None:
        for piece in pieces:
            self._chunk({"index": 0, "delta": {"content": piece}})
            while not self.server.more.wait(0.02):
                self.wfile.write(b": still here\n\n")
        self._chunk({"index": 0, "delta": {}, "finish_reason": "stop", "state": STATE})
        usage = {"prompt_tokens": 9, "completion_tokens": len(pieces), "prompt_tokens_details": {"cached_tokens": 4}}
        self._event({"choices": [], "usage": usage, "sioconv": {"seed": 1, "state_bytes": 3072}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _chunk(self, choice: dict[str, Any]) -> None:
        self._event({"system_fingerprint": FINGERPRINT, "choices": [choice]})

    def _event(self, value: dict[str, Any]) -> None:
        data = f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
        # Cut anywhere, also inside a character: the page must put it together.
        for half in (data[: len(data) // 2], data[len(data) // 2 :]):
            self.wfile.write(half)
            self.wfile.flush()
        time.sleep(0.001)

    def _allowed(self) -> bool:
        key = self.server.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self._json({"error": {"message": "the API key is missing or unknown"}}, 401)
        return False

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if status == 200 and not self._allowed():
            return
        data = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        for name, content in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""
