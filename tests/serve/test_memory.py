"""Conversations are recognised, taken away and brought back, and never cross keys."""

import base64
import contextlib
import json
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import InternalServerError, NotFoundError, OpenAI
from safetensors.torch import load, save

from sioconv.data.tokenizer.tokenizer import encode_texts
from sioconv.errors import UserError
from sioconv.generate import SamplingConfig, Session
from sioconv.generate.decoder import Piece
from sioconv.generate.native import NativeDecoder
from sioconv.generate.states.store import ANOTHER_MODEL, EVICTED
from sioconv.model import load_model_folder
from sioconv.serve.access.keys import Keys, add_key, read_keys
from sioconv.serve.config import ServeConfig
from sioconv.serve.memory.encrypted import Encrypted
from sioconv.serve.memory.in_memory import InMemory
from sioconv.serve.memory.redis import RedisPlace
from sioconv.serve.start import make_service
from tests.serve.conftest import Running, serving

SYSTEM = {"role": "system", "content": "短く答えてください。" * 20}
ASK = {"role": "user", "content": "川はどこへ流れますか。"}
MORE = {"role": "user", "content": "では、海の水は？"}
SECRET = "a secret of thirty-two characters."


def ask(url: str, messages: list[dict[str, str]], key: str = "none", **options: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": messages, "max_tokens": 10, "seed": 5, **options}
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def text_of(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


def cached(answer: dict[str, Any]) -> int:
    count: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return count


def said(answer: dict[str, Any]) -> dict[str, str]:
    return {"role": "assistant", "content": text_of(answer)}


@pytest.fixture(scope="module")
def blank(served_folder: Path) -> Iterator[Running]:
    """A server that keeps nothing: what it says is what every other must say."""
    with serving(f"tiny={served_folder}", store=None) as running:
        yield running


def test_a_whole_conversation_is_recognised_also_after_an_edit(server: Running, blank: Running) -> None:
    first = ask(server.url, [SYSTEM, ASK])
    assert server.idle()
    turns = [SYSTEM, ASK, said(first), MORE]
    second = ask(server.url, turns)
    before = first["usage"]["prompt_tokens"]
    assert cached(second) > before  # the reply, too, isn't read again
    again = ask(server.url, turns, seed=6)
    assert again["usage"]["prompt_tokens"] - cached(again) == 1  # the token that begins the reply
    edited = ask(server.url, [SYSTEM, {**ASK, "content": "山は？"}, said(first), MORE])
    assert cached(edited) > 50
    for found, messages in ((second, turns), (edited, [SYSTEM, {**ASK, "content": "山は？"}, said(first), MORE])):
        alone = ask(blank.url, messages)
        assert text_of(found) == text_of(alone)
        assert cached(alone) == 0


def test_a_reply_that_was_cut_is_not_read_again(
    server: Running, blank: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, read = server.service.models["tiny"], NativeDecoder.read
    count = 0

    def counted(decoder: NativeDecoder, pieces: list[Piece]) -> Any:
        nonlocal count
        if decoder._model is served.model:  # not what a server of a test before still reads aside
            count += sum(len(piece.ids) for piece in pieces)
        return read(decoder, pieces)

    monkeypatch.setattr(NativeDecoder, "read", counted)
    # A token that the tokenizer makes of its own text too, however often it stands there.
    names = [(token, served.vocabulary.bytes_of(token).decode("utf-8", "replace")) for token in range(384)]
    token = next(t for t, name in names if name.isalpha() and encode_texts(served.tokenizer, [name * 9]) == [[t] * 9])
    for turn, asked in enumerate([[ASK, SYSTEM], [MORE, ASK]]):
        assert server.idle()  # nothing of the requests before is read aside while this one is counted
        count = 0
        answer = ask(server.url, asked, logit_bias={str(token): 1000})
        assert text_of(answer) == served.vocabulary.bytes_of(token).decode() * 10
        assert server.idle()
        usage = answer["usage"]
        assert count == usage["total_tokens"] - cached(answer) + 1  # and the message's end
        went_on = [*asked, said(answer), MORE]
        again = ask(server.url, went_on, max_tokens=4 + turn)
        assert cached(again) > usage["total_tokens"]
        assert text_of(again) == text_of(ask(blank.url, went_on, max_tokens=4 + turn))


@pytest.mark.parametrize("options", [{}, {"stop": "の"}, {"max_tokens": 3}, {"stream": True}])
def test_a_state_that_the_client_keeps_is_the_conversation(
    blank: Running, served_folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    if options.get("stream"):
        client = OpenAI(base_url=f"{blank.url}/v1", api_key="none")
        chunks = client.chat.completions.create(
            model="tiny", messages=[SYSTEM, ASK], stream=True, max_tokens=10, seed=5, extra_body={"return_state": True}
        )  # type: ignore[call-overload]
        choices = [chunk.choices[0] for chunk in chunks]
        text, state = "".join(each.delta.content or "" for each in choices), choices[-1].state
    else:
        first = ask(blank.url, [SYSTEM, ASK], return_state=True, **options)
        text, state = text_of(first), first["choices"][0]["state"]
    whole = ask(blank.url, [SYSTEM, ASK, {"role": "assistant", "content": text}, MORE])
    carried = ask(blank.url, [MORE], state=state)
    assert text_of(carried) == text_of(whole)
    assert carried["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    assert cached(carried) > 50
    (tmp_path / "talk.state").write_bytes(base64.b64decode(state))
    session = Session.load(tmp_path / "talk.state", *load_model_folder(served_folder))
    session.feed([session.vocabulary.bos])
    assert list(session.stream(SamplingConfig(max_new_tokens=2)))


def test_a_forged_state_is_never_found_by_others(server: Running, blank: Running) -> None:
    true = base64.b64decode(ask(blank.url, [ASK], return_state=True)["choices"][0]["state"])
    false = base64.b64decode(ask(blank.url, [{**ASK, "content": "x"}], return_state=True)["choices"][0]["state"])
    served = blank.service.models["tiny"]
    honest, _ = served.format.unpack(true, "true")
    _, tensors = served.format.unpack(false, "false")
    forged = base64.b64encode(served.format.pack(honest, tensors)).decode()  # claims another text, checksum and all
    ask(server.url, [MORE], state=forged)
    answer = ask(server.url, [ASK])
    turns = [ASK, said(answer), MORE]
    assert text_of(ask(server.url, turns)) == text_of(ask(blank.url, turns))


def test_a_state_of_another_model_and_a_damaged_one_are_refused(server: Running, blank: Running) -> None:
    state = base64.b64decode(ask(blank.url, [ASK], return_state=True)["choices"][0]["state"])
    wrong = save(
        {name: tensor * 2 for name, tensor in load(state).items()}, {"format": "sioconv-state", "version": "1"}
    )
    for data in (wrong, state[:-4], b""):
        body = {"model": "tiny", "messages": [MORE], "state": base64.b64encode(data).decode()}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "state")


@contextlib.contextmanager
def with_keys(folder: Path, tmp_path: Path, **options: Any) -> Iterator[tuple[Running, str, str]]:
    names = [add_key(tmp_path / "keys.txt", name) for name in ("alice", "bob")]
    with serving(f"tiny={folder}", keys=read_keys(tmp_path / "keys.txt"), **options) as running:
        yield running, *names


@pytest.mark.parametrize("secret", [None, SECRET])
def test_states_never_cross_keys(
    served_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str | None
) -> None:
    if secret is not None:
        monkeypatch.setenv("SIOCONV_STORE_KEY", secret)
    file = tmp_path / "states.db"
    with with_keys(served_folder, tmp_path, store=str(file)) as (running, alice, bob):
        hers = ask(running.url, [SYSTEM, ASK], alice)
        his = ask(running.url, [SYSTEM, ASK], bob)
        assert (cached(hers), cached(his)) == (0, 0)
        assert his["sioconv"]["not_reused_because"] not in (EVICTED, ANOTHER_MODEL)  # nor is it said that it is there
        assert hers["sioconv"] == his["sioconv"]
        assert cached(ask(running.url, [SYSTEM, ASK], alice)) > 0
        clients = [OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0) for key in (alice, bob)]
        response = clients[0].responses.create(
            model="tiny", input="川は？", max_output_tokens=4, extra_body={"seed": 1}
        )
        conversation = clients[0].conversations.create()
        for attack in (
            lambda c: c.responses.retrieve(response.id),
            lambda c: c.responses.delete(response.id),
            lambda c: c.responses.cancel(response.id),
            lambda c: c.responses.create(model="tiny", input="x", previous_response_id=response.id),
            lambda c: c.responses.create(model="tiny", input="x", conversation=conversation.id),
            lambda c: c.conversations.retrieve(conversation.id),
            lambda c: c.conversations.delete(conversation.id),
        ):
            with pytest.raises(NotFoundError):
                attack(clients[1])
        httpx.delete(f"{running.url}/v1/states", headers={"Authorization": f"Bearer {bob}"}).raise_for_status()
        assert clients[0].responses.retrieve(response.id).id == response.id
        assert cached(ask(running.url, [SYSTEM, ASK], alice)) > 0
        assert cached(ask(running.url, [SYSTEM, ASK], bob)) == 0
    content = b"".join(path.read_bytes() for path in tmp_path.glob("states.db*"))
    assert response.output_text
    assert (json.dumps(response.output_text)[1:-1].encode() in content) is (secret is None)
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer nonsense", "Basic x", "Bearer sk-sioconv-\u00e9"])
def test_without_a_key_nobody_gets_in(served_folder: Path, tmp_path: Path, header: str) -> None:
    add_key(tmp_path / "keys.txt", "alice")
    keys = read_keys(tmp_path / "keys.txt")
    with serving(f"tiny={served_folder}", keys=keys, store=None) as running:
        headers = {"Authorization": header.encode()} if header else {}
        for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/memory"), ("DELETE", "/v1/states")):
            answer = httpx.request(method, running.url + path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert httpx.get(f"{running.url}/health").status_code == 200


def test_keys_are_compared_whole_and_kept_as_hashes(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.txt", "alice")
    assert key not in (tmp_path / "keys.txt").read_text()
    assert (tmp_path / "keys.txt").stat().st_mode & 0o077 == 0
    keys = read_keys(tmp_path / "keys.txt")
    assert keys.find(key) is not None
    assert keys.find(key[:-1]) is keys.find("") is None
    assert Keys({}).find(key) is None


def test_everything_of_a_key_can_be_forgotten(served_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "states.db"
    with serving(f"tiny={served_folder}", store=str(file)) as running:
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        response = client.responses.create(model="tiny", input="川は？" * 100, max_output_tokens=4)
        assert running.idle()
        assert rows(file) > 1
        client.responses.delete(response.id)
        assert rows(file) == 0  # its snapshots are gone too
        with pytest.raises(NotFoundError):
            client.responses.retrieve(response.id)
        ask(running.url, [SYSTEM, ASK])
        assert running.idle()
        assert rows(file) > 0
        httpx.delete(f"{running.url}/v1/states").raise_for_status()
        assert rows(file) == len(running.service.store) == 0  # type: ignore[arg-type]
        assert cached(ask(running.url, [SYSTEM, ASK])) == 0


def rows(file: Path) -> int:
    with contextlib.closing(sqlite3.connect(file)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'states'").fetchone():
            return 0  # the server is making the file
        count: int = database.execute("SELECT count(*) FROM states").fetchone()[0]
    return count


def test_what_is_too_old_is_forgotten(served_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "states.db"
    with serving(f"tiny={served_folder}", store=str(file), config=ServeConfig(ttl=1)) as running:
        ask(running.url, [SYSTEM, ASK])
        assert running.idle()
        store = running.service.store
        assert store is not None and rows(file) > 0 < len(store)
        time.sleep(1.1)
        assert cached(ask(running.url, [SYSTEM, MORE])) == 0
        time.sleep(1.1)
        store.expire()
        assert (rows(file), len(store), store.bytes) == (0, 0, 0)


def test_a_server_that_keeps_nothing_says_so(blank: Running) -> None:
    client = OpenAI(base_url=f"{blank.url}/v1", api_key="none", max_retries=0)
    assert client.responses.create(model="tiny", input="川", max_output_tokens=2).store is False  # type: ignore[attr-defined]
    answer = httpx.post(f"{blank.url}/v1/responses", json={"model": "tiny", "input": "川", "store": True})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "store")
    assert httpx.post(f"{blank.url}/v1/conversations", json={}).status_code == 400


def test_store_false_leaves_nothing(served_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "states.db"
    with serving(f"tiny={served_folder}", store=str(file)) as running:
        ask(running.url, [SYSTEM, ASK], store=False)
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none")
        client.responses.create(model="tiny", input="川は？" * 100, max_output_tokens=4, store=False)
        assert running.idle()
        assert len(running.service.store) == 0  # type: ignore[arg-type]
        assert not file.exists() or rows(file) == 0


def test_what_is_encrypted_cant_be_read_changed_or_moved() -> None:
    inner = InMemory(10**6)
    mine = Encrypted(inner, SECRET)
    mine.put("m", "me/a", b"first")
    mine.put("m", "me/b", b"second")
    assert mine.first("m", ["me/x", "me/a"]) == ("me/a", b"first")
    assert Encrypted(inner, SECRET[::-1]).first("m", ["me/a"]) is None
    (one, two) = list(inner._kept)
    inner._kept[one], inner._kept[two] = inner._kept[two], inner._kept[one]
    assert mine.first("m", ["me/a"]) == ("me/a", b"")
    assert mine.first("m", ["me/b"]) == ("me/b", b"")
    assert all(b"first" not in data and "me" not in name[1] for name, (_, data) in inner._kept.items())
    mine.forget("me")
    assert not inner._kept


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        pytest.skip("neither valkey-server nor redis-server is installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def test_two_replicas_take_turns_in_one_conversation(served_folder: Path, blank: Running, redis_url: str) -> None:
    with (
        serving(f"tiny={served_folder}", store=redis_url) as one,
        serving(f"tiny={served_folder}", store=redis_url) as other,
    ):
        for _ in range(500):
            if one.service.store is not None:
                with contextlib.suppress(Exception):
                    RedisPlace(redis_url).put("m", "k/1", b"x")
                    break
            time.sleep(0.02)
        turns, last = [SYSTEM], None
        for turn in range(4):
            turns.append({"role": "user", "content": f"{turn} 番目の質問です。"})
            replica = (one, other)[turn % 2]
            answer = ask(replica.url, turns)
            assert text_of(answer) == text_of(ask(blank.url, turns))
            assert last is None or cached(answer) >= last
            last = answer["usage"]["prompt_tokens"]
            turns.append(said(answer))
            assert replica.idle()
        clients = [OpenAI(base_url=f"{each.url}/v1", api_key="none") for each in (one, other)]
        response = clients[0].responses.create(
            model="tiny", input="川は？", max_output_tokens=4, extra_body={"seed": 1}
        )
        assert clients[1].responses.retrieve(response.id).output_text == response.output_text
        httpx.delete(f"{other.url}/v1/states").raise_for_status()
        with pytest.raises(NotFoundError):
            clients[0].responses.retrieve(response.id)


def test_redis_keeps_what_backings_keep(redis_url: str) -> None:
    place = RedisPlace(redis_url, ttl=100)
    place.put("m", "me/a", b"1")
    place.put("m", "you/a", b"2")
    assert place.first("m", ["me/b", "me/a"]) == ("me/a", b"1")
    assert place.first("other", ["me/a"]) is None
    place.forget("me")
    assert place.first("m", ["me/a"]) is None
    place.delete("m", "you/a")
    assert place.first("m", ["you/a"]) is None
    place.close()


def test_a_store_that_cant_be_reached_costs_no_reply(served_folder: Path, blank: Running) -> None:
    with serving(f"tiny={served_folder}", store="redis://127.0.0.1:1/0") as running:
        assert text_of(ask(running.url, [SYSTEM, ASK])) == text_of(ask(blank.url, [SYSTEM, ASK]))
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        response = client.responses.create(model="tiny", input="川", max_output_tokens=2)
        assert response.output_text is not None and response.store is False  # type: ignore[attr-defined]
        with pytest.raises(InternalServerError, match="can't be read"):
            client.responses.retrieve(response.id)


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("redis://user:a-password@host:port/0", "not an address of Redis"),
        ("rediss://host/0?what=1&socket_timeout=x", "not an address of Redis"),
        ("{folder}/nothing/states.db", "nothing/states.db"),
        ("{folder}", "choose another --store"),
    ],
)
def test_a_store_that_cannot_be_is_refused_at_the_start(store: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        make_service(["no-model"], store=store.format(folder=tmp_path))
    assert "a-password" not in str(caught.value)
