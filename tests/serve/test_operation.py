"""Many clients, clients that leave, large and slow bodies, the end of a server, and its death."""

import asyncio
import gc
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI, RateLimitError

from sioconv.generate import SamplingConfig
from sioconv.generate.engine import Request
from sioconv.serve.access.keys import Client
from sioconv.serve.access.limits import Limits
from sioconv.serve.api.replies import Asked
from sioconv.serve.config import ServeConfig
from sioconv.serve.models import Start
from sioconv.serve.prompts import chat_prompt
from sioconv.serve.server import hosts_of
from sioconv.serve.service import Service
from sioconv.serve.wire import EventStream
from sioconv.serve.writing import Writing
from tests.serve.conftest import Running, serving

HI = [{"role": "user", "content": "川は山から海へ流れる。"}]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"}


def body_of(**options: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": HI, "seed": 1, **options}


@contextmanager
def process(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`sioconv serve` as a process of its own, and its address."""
    command = [sys.executable, "-m", "sioconv", "serve", *arguments, "--port", "0", "--threads", "1"]
    child = subprocess.Popen(
        command, env=os.environ | ENVIRONMENT | (environment or {}), stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert child.stderr is not None
    try:
        for line in child.stderr:
            if found := re.search(r"serving .* at (http://\S+)", line):
                yield child, found[1]
                return
        raise AssertionError("the server didn't start")
    finally:
        child.kill()
        child.wait()
        child.stderr.close()


async def crowd(running: Running, clients: int) -> None:
    """Clients that leave at any moment, beside clients that stay: nothing is lost or crossed."""
    choose = random.Random(0)
    of_others = {id(each) for each in requests()}  # of tests before, which a failure's traceback keeps
    limits = httpx.Limits(max_connections=None)
    alone: dict[int, str] = {}
    async with (
        httpx.AsyncClient(timeout=300, limits=limits) as web,
        AsyncOpenAI(
            base_url=f"{running.url}/v1", api_key="none", timeout=300, http_client=httpx.AsyncClient(limits=limits)
        ) as client,
    ):

        async def stays(seed: int) -> None:
            stream = await client.chat.completions.create(
                model="tiny", messages=HI, seed=seed, max_tokens=12, stream=True
            )  # type: ignore[call-overload]
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert alone.setdefault(seed, text) == text

        async def leaves(seed: int, after: float) -> None:
            body = body_of(seed=seed, max_tokens=4000, stream=seed % 2 == 0)
            task = asyncio.create_task(web.post(f"{running.url}/v1/chat/completions", json=body))
            await asyncio.sleep(after)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        async def cancels(seed: int) -> None:
            stream = await client.responses.create(model="tiny", input="川", stream=True, max_output_tokens=4000)
            async for event in stream:
                if event.type == "response.created":
                    await web.post(f"{running.url}/v1/responses/{event.response.id}/cancel", json={})
            assert (event.type, seed) == ("response.incomplete", seed)

        await asyncio.gather(
            *(stays(seed % 5) for seed in range(clients // 2)),
            *(leaves(seed, choose.random()) for seed in range(clients // 4)),
            *(cancels(seed) for seed in range(clients // 4)),
        )
    assert len(alone) == 5
    assert running.idle()
    service = running.service
    assert not service.writing
    assert not service.limits._held
    assert not any(served.runner._sinks for served in service.models.values())
    assert left_over(of_others) == []


def requests() -> list[object]:
    """All requests in memory."""
    return [each for each in gc.get_objects() if type(each) in (Writing, Request, EventStream)]


def left_over(of_others: set[int]) -> list[object]:
    """Requests that are still in memory, after a while at most, but for those of others."""
    for _ in range(50):
        gc.collect()
        left = [each for each in requests() if id(each) not in of_others]
        if not left:
            break
        time.sleep(0.1)
    return left


def test_a_hundred_clients_come_and_go(served_folder: Path) -> None:
    with serving(f"tiny={served_folder}", config=ServeConfig(texts=16)) as running:
        asyncio.run(crowd(running, 100))


@pytest.mark.slow
def test_five_hundred_clients_come_and_go(served_folder: Path) -> None:
    with serving(f"tiny={served_folder}", config=ServeConfig(key_texts=1000)) as running:
        asyncio.run(crowd(running, 500))


def test_a_client_that_leaves_frees_its_place(served_folder: Path) -> None:
    config = ServeConfig(texts=1, max_n=1, queue=1)
    with serving(f"tiny={served_folder}", config=config) as running:
        url = f"{running.url}/v1/chat/completions"
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body_of(max_tokens=4000), timeout=0.5)
        assert httpx.post(url, json=body_of(max_tokens=2), timeout=60).status_code == 200
        with httpx.stream("POST", url, json=body_of(max_tokens=4000, stream=True), timeout=60) as answer:
            next(answer.iter_lines())
        assert httpx.post(url, json=body_of(max_tokens=2), timeout=60).status_code == 200
        assert running.idle()


def test_a_full_server_sends_away(served_folder: Path) -> None:
    config = ServeConfig(texts=1, max_n=1, queue=1)
    with serving(f"tiny={served_folder}", config=config) as running:

        async def three() -> list[httpx.Response]:
            async with httpx.AsyncClient(timeout=60) as web:
                asked = [
                    web.post(f"{running.url}/v1/chat/completions", json=body_of(max_tokens=1000)) for _ in range(6)
                ]
                return list(await asyncio.gather(*asked))

        answers = asyncio.run(three())
        codes = sorted(answer.status_code for answer in answers)
        assert codes.count(200) >= 2
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused and len(refused) + codes.count(200) == 6
        assert int(refused[0].headers["retry-after"]) >= 1
        assert refused[0].json()["error"]["code"] == "server_full"
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none")
        assert client.chat.completions.create(model="tiny", messages=HI, max_tokens=2)  # type: ignore[arg-type]


def test_rate_and_concurrency_of_one_client(served_folder: Path) -> None:
    with serving(f"tiny={served_folder}", config=ServeConfig(key_rate=2, key_texts=1)) as running:
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(RateLimitError, match="1 may at once"):
            client.chat.completions.create(model="tiny", messages=HI, n=2)  # type: ignore[arg-type]
        client.chat.completions.create(model="tiny", messages=HI, max_tokens=1)  # type: ignore[arg-type]
        with pytest.raises(RateLimitError, match="more than 2 requests a minute"):
            client.chat.completions.create(model="tiny", messages=HI)  # type: ignore[arg-type]


def test_places_are_given_in_order_and_back() -> None:
    async def run() -> None:
        limits, order = Limits(ServeConfig(texts=2, max_n=2)), []

        async def enter(name: int, texts: int) -> None:
            async with limits.room("m", "c", texts):
                order.append(name)
                await asyncio.sleep(0)

        async with limits.room("m", "c", 1):
            tasks = [asyncio.create_task(enter(i, 2 if i == 0 else 1)) for i in range(4)]
            await asyncio.sleep(0.01)
            assert (order, limits.waiting["m"]) == ([], 5)  # small ones don't pass the large one
            tasks[1].cancel()
            await asyncio.sleep(0.01)
            assert limits.waiting["m"] == 4
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 2, 3]
        assert (limits.running["m"], limits.waiting["m"], dict(limits._held)) == (0, 0, {})

    asyncio.run(run())


@pytest.mark.parametrize("steps", range(4))
def test_who_leaves_at_the_moment_of_its_turn_gives_the_place_back(steps: int) -> None:
    async def run() -> None:
        limits, entered = Limits(ServeConfig(texts=1, max_n=1)), []

        async def enter() -> None:
            async with limits.room("m", "c", 1):
                entered.append(True)
                await asyncio.sleep(60)

        async with limits.room("m", "c", 1):
            task = asyncio.create_task(enter())
            await asyncio.sleep(0.01)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        _, waiting = await asyncio.wait({task}, timeout=5)
        assert not waiting and task.cancelled()
        assert (limits.running["m"], limits.waiting["m"], dict(limits._held)) == (0, 0, {})

    asyncio.run(run())


def test_large_bodies_are_refused_before_they_are_read(served_folder: Path) -> None:
    with serving(f"tiny={served_folder}", config=ServeConfig(max_body=100_000, max_prompt_tokens=1000)) as running:
        url = f"{running.url}/v1/chat/completions"
        huge = b"x" * 100 * 2**20
        headers = {"content-type": "application/json"}
        assert httpx.post(url, content=huge, headers=headers, timeout=60).status_code == 413
        chunks = (b"x" * 2**20 for _ in range(100))
        assert httpx.post(url, content=chunks, headers=headers, timeout=60).status_code == 413
        long = [{"role": "user", "content": "海" * 20_000}]
        answer = httpx.post(url, json=body_of(messages=long), timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert httpx.post(url, content=b"{", headers=headers).json()["error"]["code"] == "invalid_json"
        assert httpx.post(url, content=b"[" * 50_000, headers=headers).status_code == 400
        assert httpx.post(url, json=body_of(max_tokens=1), timeout=60).status_code == 200


def test_a_body_that_comes_byte_by_byte_is_given_up(served_folder: Path) -> None:
    with serving(f"tiny={served_folder}", config=ServeConfig(body_seconds=1)) as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            slow.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode())
            slow.settimeout(30)
            slow.sendall(b"{")
            assert httpx.get(f"{running.url}/health").status_code == 200  # others don't wait
            assert b"408" in slow.recv(4096)


def test_a_slow_reader_keeps_nobody_waiting(served_folder: Path) -> None:
    with serving(f"tiny={served_folder}") as running:
        with httpx.stream(
            "POST", f"{running.url}/v1/chat/completions", json=body_of(max_tokens=300, stream=True), timeout=60
        ) as slow:
            lines = slow.iter_lines()
            next(lines)
            answer = httpx.post(f"{running.url}/v1/chat/completions", json=body_of(max_tokens=300), timeout=60)
            assert answer.status_code == 200
            assert running.idle()  # all of it was written, and waits for its reader
            texts = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        read = "".join(each["choices"][0]["delta"].get("content") or "" for each in texts)
        assert read == answer.json()["choices"][0]["message"]["content"]


def test_a_reply_that_is_written_leaves_its_place_before_it_is_read(served_folder: Path) -> None:
    async def read_slowly(service: Service) -> int:
        served, tokens = service.models["tiny"], 0
        prompt = await chat_prompt(served, HI, Start(), "owner", False, service.config)
        writing = Writing(served, prompt, SamplingConfig(max_new_tokens=50, min_new_tokens=50, seed=1), n=2, logprobs=0)
        asked = Asked(service, Client("slow", "owner"), served, writing, "x-")
        pieces = asked.pieces()
        tokens += len((await anext(pieces)).tokens)
        while service.limits.running["tiny"]:
            await asyncio.sleep(0.01)
        assert service.limits._held["slow"] == 2  # of the client's own limit
        tokens += sum([len(piece.tokens) async for piece in pieces])
        await asked.close()
        return tokens

    with serving(f"tiny={served_folder}") as running:
        assert asyncio.run(asyncio.wait_for(read_slowly(running.service), 60)) == 100
        assert running.idle() and not running.service.limits._held


def test_a_request_that_takes_too_long_is_ended(served_folder: Path) -> None:
    with serving(f"tiny={served_folder}", config=ServeConfig(max_seconds=1, max_new_tokens=10**6)) as running:
        answer = httpx.post(f"{running.url}/v1/chat/completions", json=body_of(max_tokens=10**6), timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert answer.headers["x-should-retry"] == "false"
        assert running.idle()


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "evil.example"}, 403), ({"host": "evil.example:8000"}, 403), ({"host": "[::1]:8000"}, 200),
        ({"host": "localhost"}, 200), ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)  # fmt: skip
def test_pages_of_other_sites_are_kept_out(served_folder: Path, headers: dict[str, str], code: int) -> None:
    with serving(f"tiny={served_folder}", hosts=set(hosts_of("127.0.0.1") or ())) as running:
        content = json.dumps(body_of(max_tokens=1)).encode()
        sent = {"content-type": "application/json", **headers}
        answer = httpx.post(f"{running.url}/v1/chat/completions", content=content, headers=sent)
        assert answer.status_code == code
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        allowed = httpx.options(f"{running.url}/v1/chat/completions", headers=asked)
        assert "access-control-allow-origin" not in allowed.headers


def test_killed_conversations_go_on_with_the_token_that_they_would_have_had(
    served_folder: Path, server: Running, tmp_path: Path
) -> None:
    arguments = (f"tiny={served_folder}", "--store", str(tmp_path / "states.db"))
    turns = {i: [{"role": "user", "content": f"{i} 番目の川は？"}] for i in range(50)}

    def ask(url: str, i: int, **options: Any) -> httpx.Response:
        body = body_of(messages=turns[i], max_tokens=6, **options)
        return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)

    with process(*arguments) as (child, url):
        ids = {}
        for i in turns:
            text = ask(url, i).json()["choices"][0]["message"]["content"]
            turns[i] += [{"role": "assistant", "content": text}, {"role": "user", "content": "では海は？"}]
            if i % 10 == 0:
                client = OpenAI(base_url=f"{url}/v1", api_key="none")
                first = client.responses.create(
                    model="tiny", input=f"{i} 番目の川は？", max_output_tokens=6, extra_body={"seed": 1}
                )
                assert first.output_text == text
                ids[i] = first.id
        with httpx.stream(
            "POST", f"{url}/v1/chat/completions", json=body_of(max_tokens=4000, stream=True), timeout=60
        ) as running:
            next(running.iter_lines())
            child.send_signal(signal.SIGKILL)  # while one is being written
            child.wait()
    with process(*arguments) as (_, url):
        reused = 0
        for i in turns:
            answer = ask(url, i).json()
            expected = ask(server.url, i).json()
            assert answer["choices"][0]["message"]["content"] == expected["choices"][0]["message"]["content"]
            reused += answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        assert reused == 50
        client = OpenAI(base_url=f"{url}/v1", api_key="none")
        for i, name in ids.items():
            response = client.responses.create(
                model="tiny", input="では海は？", previous_response_id=name, max_output_tokens=6, extra_body={"seed": 1}
            )
            assert response.output_text == ask(server.url, i).json()["choices"][0]["message"]["content"]


def test_a_server_that_is_stopped_finishes_what_runs(served_folder: Path) -> None:
    with process(f"tiny={served_folder}", "--store", "", "--grace", "60") as (child, url):
        with httpx.stream(
            "POST", f"{url}/v1/chat/completions", json=body_of(max_tokens=600, stream=True), timeout=60
        ) as running:
            lines = running.iter_lines()
            next(lines)
            child.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert child.wait(timeout=60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        assert child.stderr is not None
        said = child.stderr.read()
        logs = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert {"path", "status", "seconds", "method", "client"} <= set(logs[0])
        assert "川" not in said and "\\u5ddd" not in said


def test_open_without_keys_is_said(served_folder: Path) -> None:
    command = [sys.executable, "-m", "sioconv", "serve", str(served_folder), "--host", "0.0.0.0", "--port", "0"]
    child = subprocess.Popen(command, env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE, encoding="utf-8")
    assert child.stderr is not None
    said = ""
    for line in child.stderr:
        said += line
        if "serving" in line:
            break
    child.terminate()
    child.wait()
    child.stderr.close()
    assert "warning: 0.0.0.0 can be reached from outside and there are no keys" in said
