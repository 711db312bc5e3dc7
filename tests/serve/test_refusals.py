"""What is wrong with a request is said by the name of its field."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sioconv.serve.config import ServeConfig
from tests.serve.conftest import Running, serving

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
NEEDED = {
    CHAT: {"messages": [{"role": "user", "content": "x"}]},
    COMPLETIONS: {"prompt": "x"},
    RESPONSES: {"input": "x"},
}


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens is 0"),
        (CHAT, {"max_tokens": 0}, "max_tokens", "max_tokens is 0"),
        (RESPONSES, {"max_output_tokens": 0}, "max_output_tokens", "max_output_tokens is 0"),
        (RESPONSES, {"input": []}, "input", "no messages"),
        (RESPONSES, {"top_logprobs": 2}, "top_logprobs", "needs include"),
        (RESPONSES, {"conversation": {"id": 3}}, "conversation.id", "valid string"),
        (COMPLETIONS, {"echo": True, "logprobs": 1}, "echo", "leave out echo or logprobs"),
        (COMPLETIONS, {"prompt": ["a", 1]}, "prompt.1", "valid string"),
        (COMPLETIONS, {"prompt": True}, "prompt", "valid string"),
        (CHAT, {"stop": ["x"] * 65}, "stop", "at most 64 items"),
        (CHAT, {"stop": 5}, "stop", "valid string"),
        (CHAT, {"stop": "x" * 1001}, "stop", "at most 1000 characters"),
        (CHAT, {"choice": [""]}, "choice", "a choice is empty"),
        (CHAT, {"choice": ["a"], "regex": "a"}, "choice", "one form"),
        (CHAT, {"response_format": {"type": "grammar"}}, "response_format", "does not match"),
        (CHAT, {"response_format": {"type": "text", "Be-Strict": 1}}, "response_format.text.Be-Strict", "leave it out"),
        (CHAT, {"messages": [{"role": "user", "content": "x", "cache": 1}]}, "messages", "'cache'"),
        (CHAT, {"persona": "nobody"}, "persona", "it has none"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(server: Running, path: str, body: dict[str, Any], param: str, said: str) -> None:
    answer = httpx.post(f"{server.url}{path}", json={"model": "tiny", **NEEDED[path], **body}, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (404 if body.get("persona") else 400, param)
    assert said in error["message"]


def test_why_nothing_was_spared_is_said(server: Running, keeps_nothing: Running) -> None:
    def why(running: Running, **options: Any) -> str | None:
        body = {"model": "tiny", **NEEDED[CHAT], "max_tokens": 1, **options}
        said: str | None = httpx.post(f"{running.url}{CHAT}", json=body, timeout=60).json()["sioconv"][
            "not_reused_because"
        ]
        return said

    assert why(keeps_nothing) == "this server keeps no states"
    assert why(server, store=False) == "states aren't used for this request"
    assert why(server) == "no beginning of this text is stored"
    assert why(server) is None


@pytest.fixture
def keeps_nothing(served_folder: Any) -> Iterator[Running]:
    with serving(f"tiny={served_folder}", store=None, config=ServeConfig()) as running:
        yield running


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_whoever_balances_loads_may_ask_for_the_head_alone(server: Running, path: str) -> None:
    answer = httpx.head(f"{server.url}{path}")
    assert (answer.status_code, answer.content) == (200, b"")
