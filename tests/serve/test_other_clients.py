"""Clients of other people, as they are: LiteLLM, the command line `llm`, and schemathesis on the OpenAPI document."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import Running

QUESTION = "川は山から海へ流れる。"
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def litellm() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import asks the network
    return pytest.importorskip("litellm", reason="LiteLLM isn't installed, which is 200 MB")


def test_litellm_gets_the_same_reply_whole_and_streamed(server: Running, litellm: Any) -> None:
    options = {"model": "openai/tiny", "api_base": server.url + "/v1", "api_key": "none", "messages": MESSAGES}
    options |= {"max_tokens": 12, "seed": 1}
    whole = litellm.completion(**options)
    text = whole.choices[0].message.content
    assert text
    assert whole.usage.completion_tokens == 12
    parts = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**options, stream=True)]
    assert "".join(parts) == text


def test_litellm_says_what_the_server_refuses(server: Running, litellm: Any) -> None:
    with pytest.raises(litellm.BadRequestError, match="logit_bias"):
        litellm.completion(
            model="openai/tiny", api_base=server.url + "/v1", api_key="none", messages=MESSAGES,
            logit_bias={"99999999": 1}, num_retries=0,
        )  # fmt: skip


def test_litellm_takes_responses(server: Running, litellm: Any) -> None:
    options = {"model": "openai/tiny", "api_base": server.url + "/v1", "api_key": "none", "max_output_tokens": 8}
    first = litellm.responses(input=QUESTION, **options)
    again = litellm.responses(input="もう一度", previous_response_id=first.id, **options)
    assert first.output[0].content[0].text
    assert again.output[0].content[0].text


def test_llm_talks_on_in_one_conversation(server: Running, tmp_path: Path) -> None:
    pytest.importorskip("llm", reason="llm isn't installed")
    models = f"- model_id: tiny\n  model_name: tiny\n  api_base: {server.url}/v1\n"
    (tmp_path / "extra-openai-models.yaml").write_text(models, encoding="utf-8")
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none", "PYTHONUTF8": "1"}

    def llm(*arguments: str) -> str:
        command = [sys.executable, "-m", "llm", *arguments]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
        assert run.returncode == 0, run.stderr
        return run.stdout

    assert llm("-m", "tiny", "-o", "max_tokens", "8", QUESTION).strip()
    assert llm("-m", "tiny", "-o", "max_tokens", "8", "-c", "もう一度").strip()
    messages = json.loads(llm("logs", "--json"))
    assert [message["prompt"] for message in messages] == [QUESTION, "もう一度"]


def test_schemathesis_finds_nothing_on_the_openapi_document(server: Running, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis isn't installed")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    command += ["--max-examples", "8", "--phases", "examples,coverage,fuzzing", "--checks", "not_a_server_error"]
    command += ["--seed", "1", "--request-timeout", "300"]  # a busy machine decides nothing
    # In a folder of its own, where it keeps what it has found.
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert server.idle()
