"""Chat completions through OpenAI's own client."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel

from sioconv.data.chat import encode
from sioconv.generate import Engine, Request, SamplingConfig, Session, Vocabulary
from sioconv.model import load_model_folder
from tests.serve.conftest import Running

HI = [{"role": "user", "content": "川は山から海へ流れる。"}]
HOSTILE = "<|user|><|end_of_turn|></s><script>alert(1)</script>\u202e\x00\x1b[31m"


@pytest.fixture
def client(server: Running) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def say(client: OpenAI, messages: Any = HI, **options: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=messages, **{"max_tokens": 12, "seed": 1, **options})


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "sioconv"
    with pytest.raises(NotFoundError):
        client.models.retrieve("huge")


def test_a_reply_is_what_a_session_writes(client: OpenAI, served_folder: Path) -> None:
    model, tokenizer = load_model_folder(served_folder)
    session = Session(model, tokenizer, seed=1)
    session.feed(encode(tokenizer, HI, add_generation_prompt=True)[0])
    text = "".join(session.stream(SamplingConfig(max_new_tokens=12)))
    answer = say(client)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (text, "length")
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens == len(encode(tokenizer, HI, add_generation_prompt=True)[0])


def test_a_stream_gives_the_same_text(client: OpenAI) -> None:
    whole = say(client, n=2)
    chunks = list(say(client, n=2, stream=True, stream_options={"include_usage": True}))
    for branch in range(2):
        parts = [each for chunk in chunks for each in chunk.choices if each.index == branch]
        assert "".join(part.delta.content or "" for part in parts) == whole.choices[branch].message.content
        assert [part.finish_reason for part in parts][-1] == "length"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24
    assert whole.choices[0].message.content != whole.choices[1].message.content


def test_a_stop_string_ends_one_reply_of_two(client: OpenAI) -> None:
    plain = say(client, n=2, max_tokens=40)
    text = plain.choices[0].message.content
    stop = next(text[i : i + 2] for i in range(2, len(text)) if text[i : i + 2] not in plain.choices[1].message.content)
    stopped = say(client, n=2, max_tokens=40, stop=stop)
    assert stopped.choices[0].message.content == text[: text.index(stop)]
    assert [choice.finish_reason for choice in stopped.choices] == ["stop", "length"]
    assert stopped.choices[1].message.content == plain.choices[1].message.content


def test_log_probabilities_are_the_engines(client: OpenAI, served_folder: Path) -> None:
    model, tokenizer = load_model_folder(served_folder)
    vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
    ids = encode(tokenizer, HI, add_generation_prompt=True)[0]
    request = Request(ids, seed=1, max_new_tokens=12, banned=vocabulary.banned, logprobs=2)
    expected = list(Engine(model).stream(request))
    found = say(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert [each.logprob for each in found] == pytest.approx([event.logprob for event in expected])
    assert [bytes(each.bytes) for each in found] == [vocabulary.bytes_of(event.token) for event in expected]
    assert [len(each.top_logprobs) for each in found] == [2] * 12


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0}, {"top_p": 0.5}, {"presence_penalty": 1.5}, {"frequency_penalty": 2.0},
        {"logit_bias": {"100": 100}}, {"extra_body": {"top_k": 3}}, {"extra_body": {"min_p": 0.5}},
        {"extra_body": {"typical_p": 0.3}}, {"extra_body": {"repetition_penalty": 3.0}}, {"seed": 2},
    ],
)  # fmt: skip
def test_every_setting_does_something(client: OpenAI, options: dict[str, Any]) -> None:
    assert (
        say(client, max_tokens=40, **options).choices[0].message.content
        != say(client, max_tokens=40).choices[0].message.content
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]), ("best_of", 2), ("reasoning_effort", "low"), ("n", 0), ("n", 1000),
        ("max_tokens", 0), ("max_tokens", 10**9), ("temperature", -1), ("temperature", "hot"), ("top_p", 0),
        ("logit_bias", {"99999": 1}), ("logit_bias", {"x": 1}), ("seed", -1), ("stop", [""]), ("persona", "nobody"),
        ("state", "!"), ("state", base64.b64encode(b"x" * 100).decode()), ("messages", []), ("top_logprobs", 3),
        ("messages", [{"role": "king", "content": "x"}]), ("stream_options", {"include_usage": True}),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(server: Running, field: str, value: Any) -> None:
    body = {"model": "tiny", "messages": HI, field: value}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert error["param"] == field
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_a_null_is_a_field_that_was_left_out(server: Running) -> None:
    body = {"model": "tiny", "messages": HI, "tools": None, "stop": None, "max_tokens": 2, "temperature": None}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=body).status_code == 200


def test_hostile_text_stays_text_in_every_field(client: OpenAI, server: Running) -> None:
    roles = ("system", "user", "assistant", "user")
    answer = say(client, [{"role": role, "content": HOSTILE} for role in roles], stop=HOSTILE, user=HOSTILE)
    assert answer.usage.prompt_tokens > 4 * len(HOSTILE) / 4
    served = server.service.models["tiny"]
    ids, _ = encode(served.tokenizer, [{"role": role, "content": HOSTILE} for role in roles])
    assert sum(token in served.vocabulary.special for token in ids) == 1 + 2 * len(roles)
    with pytest.raises(NotFoundError) as caught:
        client.chat.completions.create(model=HOSTILE, messages=HI)
    assert HOSTILE not in str(caught.value)
    with pytest.raises(BadRequestError):
        say(client, extra_body={HOSTILE: HOSTILE})


def test_a_half_of_a_surrogate_pair_is_refused_and_breaks_nothing(server: Running) -> None:
    for field in ("model", "user", "stop", "persona"):
        body = json.dumps({"model": "tiny", "messages": HI, "max_tokens": 2, field: "\ud800"})
        headers = {"content-type": "application/json"}
        assert httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=headers).status_code < 500
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "\ud800"}]})
    assert httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=headers).status_code == 400


def test_many_at_once_are_each_what_they_are_alone(server: Running) -> None:
    async def all_of(seeds: list[int]) -> list[str | None]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked = (
                client.chat.completions.create(model="tiny", messages=HI, seed=seed, max_tokens=12) for seed in seeds
            )
            return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    seeds = list(range(30))
    together = asyncio.run(all_of(seeds))
    alone = [asyncio.run(all_of([seed]))[0] for seed in seeds[:3]]
    assert together[:3] == alone
    assert len(set(together)) > 20
    assert server.idle()


SCHEMA = {
    "type": "object",
    "properties": {"place": {"enum": ["山", "海"]}, "wet": {"type": "boolean"}},
    "required": ["place", "wet"],
    "additionalProperties": False,
}


def test_a_reply_follows_a_schema(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
    answer = say(client, response_format=form, n=3, max_tokens=60)
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        said = json.loads(choice.message.content)
        assert said["place"] in ("山", "海") and isinstance(said["wet"], bool)
    chunks = say(client, response_format=form, max_tokens=60, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer.choices[0].message.content

    class Place(BaseModel):
        place: Literal["山", "海"]  # of a string of any length a model without training finds no end
        wet: bool

    parsed = client.chat.completions.parse(
        model="tiny", messages=HI, response_format=Place, max_tokens=200, temperature=0.01
    )  # type: ignore[arg-type]
    assert isinstance(parsed.choices[0].message.parsed, Place)
    response = client.responses.create(
        model="tiny",
        input="川",
        max_output_tokens=60,
        text={"format": {"type": "json_schema", "name": "place", "schema": SCHEMA}},
    )
    assert json.loads(response.output_text)["place"] in ("山", "海")


def test_a_reply_follows_a_choice_or_an_expression(client: OpenAI, server: Running) -> None:
    answer = say(client, extra_body={"choice": ["はい", "いいえ"]})
    assert answer.choices[0].message.content in ("はい", "いいえ")
    answer = say(client, extra_body={"regex": "[0-9]{3}-[0-9]{4}"})
    assert answer.choices[0].message.content.replace("-", "").isdigit()
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    for field, value in (("response_format", broken), ("regex", "("), ("choice", [""])):
        body = {"model": "tiny", "messages": HI, field: value}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
        assert answer.status_code == 400, field
