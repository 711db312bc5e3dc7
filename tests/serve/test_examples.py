"""The programs of examples/ against a real server and stand-ins of the services that they talk to."""

import asyncio
import base64
import hashlib
import hmac
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.conftest import Running

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def environment(server: Running, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    values = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "none", "SIOCONV_MODEL": "tiny"}
    values |= {"LINE_SECRET": "a secret", "LINE_TOKEN": "a token", "PYTHONUTF8": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    # Offline, transformers' client refuses the server on this machine too.
    return {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | values


def loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_are_short() -> None:
    for file in EXAMPLES.glob("*.py"):
        assert len(file.read_text("utf-8").splitlines()) < 40, file.name


@pytest.mark.usefixtures("environment")
def test_the_discord_bot_answers_those_who_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    discord = types.ModuleType("discord")
    discord.Intents = types.SimpleNamespace(default=types.SimpleNamespace)  # type: ignore[attr-defined]
    discord.Message = object  # type: ignore[attr-defined]
    discord.Client = lambda intents: types.SimpleNamespace(  # type: ignore[attr-defined]
        user="bot", event=lambda f: f, intents=intents
    )
    monkeypatch.setitem(sys.modules, "discord", discord)
    bot = loaded("discord_bot")
    sent: list[str] = []

    async def send(text: str) -> None:
        sent.append(text)

    async def talk() -> None:
        channel = types.SimpleNamespace(id=1, send=send)
        for mentions in (["bot"], [], ["bot"]):
            message = types.SimpleNamespace(author="me", mentions=mentions, channel=channel, clean_content="川は？")
            await bot.on_message(message)
        bot.conversations[1] = "conv_forgotten"
        await bot.on_message(types.SimpleNamespace(author="me", mentions=["bot"], channel=channel, clean_content="海"))

    asyncio.run(talk())
    assert len(sent) == 3 and all(sent)
    assert sent[0] != sent[1]


def test_the_chat_box_of_vrchat_gets_the_answers(environment: dict[str, str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as vrchat:
        vrchat.bind(("127.0.0.1", 0))
        vrchat.settimeout(60)
        port = {"VRCHAT_PORT": str(vrchat.getsockname()[1])}
        subprocess.run(
            [sys.executable, EXAMPLES / "vrchat_chatbox.py"], env=environment | port, input="川は？\n海は？\n",
            encoding="utf-8", check=True, timeout=120,
        )  # fmt: skip
        for _ in range(2):
            data = vrchat.recv(4096)
            assert len(data) % 4 == 0
            address, types_, text = data[:16], data[16:24], data[24:]
            assert (address.rstrip(b"\0"), types_.rstrip(b"\0")) == (b"/chatbox/input", b",sTF")
            assert text.rstrip(b"\0").decode()


@pytest.fixture
def line() -> Iterator[tuple[str, list[tuple[Any, Any]]]]:
    """A stand-in of LINE's API, and what was sent to it."""
    got: list[tuple[Any, Any]] = []

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append((self.headers["Authorization"], body))
            self.send_response(200)
            self.end_headers()

    api = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{api.server_port}", got
    api.shutdown()
    api.server_close()


@pytest.mark.usefixtures("environment")
def test_the_webhook_of_line_answers_what_line_has_signed(
    line: tuple[str, list[tuple[Any, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINE_API", line[0])
    module = loaded("line_webhook")
    hook = ThreadingHTTPServer(("127.0.0.1", 0), module.Webhook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    message = {"type": "message", "message": {"type": "text", "text": "川は？"}, "source": {"userId": "u"}}
    body = json.dumps({"events": [{**message, "replyToken": "r"}, {"type": "follow"}]}).encode()
    signature = base64.b64encode(hmac.digest(b"a secret", body, hashlib.sha256)).decode()
    url = f"http://127.0.0.1:{hook.server_port}"
    assert httpx.post(url, content=body, headers={"X-Line-Signature": "forged"}, timeout=60).status_code == 403
    assert line[1] == []
    for _ in range(2):
        assert httpx.post(url, content=body, headers={"X-Line-Signature": signature}, timeout=60).status_code == 200
    hook.shutdown()
    hook.server_close()
    assert [token for token, _ in line[1]] == ["Bearer a token"] * 2
    assert line[1][0][1]["replyToken"] == "r"
    assert line[1][0][1]["messages"][0]["text"]


def test_langchain_talks_to_the_server(environment: dict[str, str]) -> None:
    pytest.importorskip("langchain_openai")
    command = [sys.executable, EXAMPLES / "langchain_chat.py", "川は？"]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_transformers_chat_talks_to_the_server(environment: dict[str, str], server: Running, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "transformers.cli.transformers", "chat", "tiny", server.url, "max_new_tokens=8"]
    done = subprocess.run(
        command, env=environment | {"COLUMNS": "100", "TERM": "dumb"}, input="川は？\nn\n!exit\n", capture_output=True,
        encoding="utf-8", timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    assert "ERROR" not in done.stdout.upper()
    assert server.idle()
