"""Whatever JSON a client sends, the server answers in OpenAI's form and never fails."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sioconv.serve.api import schema
from tests.serve.conftest import Running

BODIES = {
    "/v1/chat/completions": schema.ChatRequest,
    "/v1/completions": schema.CompletionRequest,
    "/v1/responses": schema.ResponseRequest,
    "/v1/conversations": schema.ConversationRequest,
    "/tokenize": schema.TokenizeRequest,
    "/detokenize": schema.DetokenizeRequest,
}
strange = st.text(st.characters(exclude_categories=()), max_size=8)  # halves of surrogate pairs among them
plain = st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | strange
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool", "x"]), "content": values}),
    max_size=3,
)


@st.composite
def bodies(draw: st.DrawFn, path: str) -> dict[str, Any]:
    """Mostly right: a few fields are strange."""
    right: dict[str, Any] = {"model": "tiny", "max_tokens": 2, "max_output_tokens": 2}
    right |= {"messages": [{"role": "user", "content": "川"}], "prompt": "川", "input": "川", "tokens": [1]}
    fields = list(BODIES[path].model_fields)
    body = {name: right[name] for name in fields if name in right}
    if path == "/tokenize":
        del body["messages"]
        body["text"] = "川"
    for name in draw(st.lists(st.sampled_from(fields), max_size=3)):
        body[name] = draw(messages if name in ("messages", "input", "items") else values)
    return body


@pytest.mark.parametrize("path", BODIES)
def test_no_body_makes_the_server_fail(server: Running, path: str) -> None:
    with httpx.Client(timeout=60) as web:

        @settings(max_examples=60)
        @given(bodies(path))
        def ask(body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            answer = web.post(server.url + path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code in (200, 400, 404), (body, answer.text)
            if answer.status_code != 200:
                error = answer.json()["error"]
                assert error["message"] and error["type"] == "invalid_request_error"

        ask()
    assert server.idle()
    assert httpx.get(f"{server.url}/ready").status_code == 200


def test_a_step_that_fails_ends_what_runs_and_nothing_else(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, body = server.service.models["tiny"].runner._engine, {"model": "tiny", "prompt": "川", "max_tokens": 2}
    step = engine.step

    def broken() -> bool:
        if engine.running:
            raise RuntimeError("no memory")
        return step()

    monkeypatch.setattr(engine, "step", broken)
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    monkeypatch.undo()
    assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).status_code == 200
    assert server.idle()
