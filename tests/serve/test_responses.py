"""Responses, conversations, completions and the smaller routes, through OpenAI's own client."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import BadRequestError, NotFoundError, OpenAI

from sioconv.data.chat import encode
from sioconv.data.tokenizer.tokenizer import END_OF_TURN
from sioconv.generate import SamplingConfig, Session
from sioconv.generate.quantise import quantise_model
from sioconv.model import load_model_folder, save_initial_state, save_model_folder
from sioconv.model.folder import keep_generation
from sioconv.model.initial_state import initial_states
from tests.serve.conftest import Running, serving


@pytest.fixture
def client(server: Running) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def respond(client: OpenAI, text: Any, **options: Any) -> Any:
    extra = {"seed": 3, **options.pop("extra_body", {})}
    return client.responses.create(model="tiny", input=text, **{"max_output_tokens": 8, **options}, extra_body=extra)


def chat(client: OpenAI, messages: Any) -> str:
    answer = client.chat.completions.create(model="tiny", messages=messages, seed=3, max_tokens=8)
    return answer.choices[0].message.content or ""


def test_what_a_folder_says_of_sampling_is_the_default(served_folder: Path, tmp_path: Path) -> None:
    """As in `sioconv chat`: a tuned persona is served as it speaks there."""
    folder = tmp_path / "calm"
    shutil.copytree(served_folder, folder)
    keep_generation(folder, {"do_sample": True, "temperature": 0.25, "top_p": 0.5})
    with serving(f"tiny={folder}") as running:
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        calm = respond(client, "川は？")
        assert (calm.temperature, calm.top_p) == (0.25, 0.5)
        told = respond(client, "川は？", temperature=0.25, top_p=0.5)
        assert calm.output_text == told.output_text
        assert respond(client, "川は？", temperature=1.0).temperature == 1.0
        asked = {"model": "tiny", "input": "川は？", "temperature": None, "seed": 3, "max_output_tokens": 8}
        assert httpx.post(f"{running.url}/v1/responses", json=asked).json()["temperature"] == 0.25


def test_a_response_goes_on_from_the_one_before(client: OpenAI) -> None:
    one = respond(client, "川はどこへ？", instructions="短く。")
    assert (one.status, one.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    two = respond(client, "海は？", previous_response_id=one.id, instructions="短く。")
    turns: list[dict[str, str]] = [{"role": "system", "content": "短く。"}, {"role": "user", "content": "川はどこへ？"}]
    assert chat(client, turns) == one.output_text
    turns += [{"role": "assistant", "content": one.output_text}, {"role": "user", "content": "海は？"}]
    assert chat(client, turns) == two.output_text
    assert two.usage.input_tokens_details.cached_tokens >= one.usage.input_tokens
    other = respond(client, "山は？", previous_response_id=one.id)  # the first one is still there
    turns[-1] = {"role": "user", "content": "山は？"}
    assert chat(client, turns) == other.output_text
    assert client.responses.retrieve(two.id).output_text == two.output_text
    client.responses.delete(two.id)
    with pytest.raises(NotFoundError):
        respond(client, "x", previous_response_id=two.id)


def test_a_stream_has_the_events_of_openai(client: OpenAI) -> None:
    whole = respond(client, "川はどこへ？")
    events = list(respond(client, "川はどこへ？", stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert "".join(event.delta for event in events[4:-4]) == whole.output_text == events[-1].response.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    stored = client.responses.retrieve(events[-1].response.id)
    assert stored.output_text == whole.output_text


def test_a_response_that_ends_by_itself_is_completed(client: OpenAI, server: Running) -> None:
    bias = {"logit_bias": {str(server.service.models["tiny"].vocabulary.end_of_turn): 100}, "min_tokens": 3}
    with client.responses.stream(model="tiny", input="川", extra_body=bias) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert (kinds[-1], final.status) == ("response.completed", "completed")
    next_one = respond(client, "山", previous_response_id=final.id)
    turns = [{"role": "user", "content": "川"}, {"role": "assistant", "content": final.output_text}]
    assert chat(client, [*turns, {"role": "user", "content": "山"}]) == next_one.output_text


def test_items_and_log_probabilities(client: OpenAI) -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "川は"}, {"type": "input_text", "text": "？"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "海へ。"}]},
        {"role": "user", "content": "山は？"},
    ]
    answer = respond(client, items, include=["message.output_text.logprobs"], top_logprobs=2)
    assert len(answer.output[0].content[0].logprobs) == 8
    turns = [{"role": "user", "content": "川は？"}, {"role": "assistant", "content": "海へ。"}, items[2]]
    assert chat(client, turns) == answer.output_text
    for wrong in ([{"type": "function_call", "name": "x"}], [{"role": "user", "content": [{"type": "input_image"}]}]):
        with pytest.raises(BadRequestError):
            respond(client, wrong)


def test_a_conversation_keeps_its_responses_together(client: OpenAI) -> None:
    talk = client.conversations.create(items=[{"role": "system", "content": "短く。"}], metadata={"a": "b"})
    one = respond(client, "川は？", conversation=talk.id)
    two = respond(client, "海は？", conversation=talk.id)
    turns = [{"role": "system", "content": "短く。"}, {"role": "user", "content": "川は？"}]
    assert chat(client, turns) == one.output_text
    turns += [{"role": "assistant", "content": one.output_text}, {"role": "user", "content": "海は？"}]
    assert chat(client, turns) == two.output_text
    assert client.conversations.retrieve(talk.id).metadata == {"a": "b"}
    with pytest.raises(BadRequestError):
        respond(client, "x", conversation=talk.id, previous_response_id=one.id)
    client.conversations.delete(talk.id)
    with pytest.raises(NotFoundError):
        respond(client, "x", conversation=talk.id)


def test_a_response_can_be_cancelled_while_it_is_written(client: OpenAI, server: Running) -> None:
    stream = respond(client, "川は？", stream=True, max_output_tokens=4000)
    first = next(iter(stream))
    answer = httpx.post(f"{server.url}/v1/responses/{first.response.id}/cancel", json={})
    assert answer.json()["status"] == "cancelled"
    events = list(stream)
    assert (events[-1].type, events[-1].response.status) == ("response.incomplete", "cancelled")
    assert server.idle()
    with pytest.raises(NotFoundError):
        client.responses.retrieve(first.response.id)
    done = respond(client, "川は？")
    with pytest.raises(BadRequestError):
        client.responses.cancel(done.id)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "web_search"}]),
        ("background", True),
        ("reasoning", {"effort": "low"}),
        ("max_tool_calls", 1),
    ],
)
def test_what_is_not_supported_is_refused(server: Running, field: str, value: Any) -> None:
    answer = httpx.post(f"{server.url}/v1/responses", json={"model": "tiny", "input": "x", field: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_completions_go_on_with_texts(client: OpenAI) -> None:
    prompts = ["川は", "The river"]
    both = client.completions.create(model="tiny", prompt=prompts, max_tokens=6, seed=2, n=2, logprobs=1)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    for i, prompt in enumerate(prompts):
        one = client.completions.create(model="tiny", prompt=prompt, max_tokens=6, seed=2, n=2)
        assert [choice.text for choice in one.choices] == [choice.text for choice in both.choices[2 * i : 2 * i + 2]]
    assert len(both.choices[0].logprobs.token_logprobs) == 6  # type: ignore[union-attr, arg-type]
    chunks = client.completions.create(model="tiny", prompt="川は", max_tokens=6, seed=2, stream=True, echo=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "川は" + both.choices[0].text
    part = client.completions.create(
        model="tiny", prompt="川は", max_tokens=3, seed=2, extra_body={"return_state": True}
    )
    state = part.choices[0].state  # type: ignore[attr-defined]
    rest = client.completions.create(model="tiny", prompt="山", max_tokens=3, seed=2, extra_body={"state": state})
    whole = client.completions.create(model="tiny", prompt="川は" + part.choices[0].text + "山", max_tokens=3, seed=2)
    assert rest.choices[0].text == whole.choices[0].text


def test_tokens_and_back(server: Running) -> None:
    text = "川は<|user|>山"
    found = httpx.post(f"{server.url}/tokenize", json={"model": "tiny", "text": text}).json()
    assert found["count"] == len(found["tokens"])
    back = httpx.post(f"{server.url}/detokenize", json={"model": "tiny", "tokens": found["tokens"]}).json()
    assert back["text"] == text
    turns = [{"role": "user", "content": text}]
    chat_ids = httpx.post(f"{server.url}/tokenize", json={"model": "tiny", "messages": turns}).json()
    assert chat_ids["count"] == found["count"] + 4
    for wrong in ({"tokens": [10**6]}, {"tokens": [-1]}, {"tokens": "x"}):
        assert httpx.post(f"{server.url}/detokenize", json={"model": "tiny", **wrong}).status_code == 400


def test_metrics_and_memory(server: Running, client: OpenAI) -> None:
    respond(client, "川は？")
    page = httpx.get(f"{server.url}/metrics").text
    assert 'sioconv_requests_total{path="/v1/responses",status="200"}' in page
    assert 'sioconv_tokens_total{kind="written",model="tiny"}' in page
    found = httpx.get(f"{server.url}/memory", params={"model": "tiny"}).json()
    assert (found["state_bytes"], len(found["layers"])) == (256, 2)
    assert all(0 < life <= 1e6 for layer in found["layers"] for life in layer["half_lives"])
    assert found["tokens_per_second"] > 0


def test_two_models_and_a_persona(served_folder: Path, tmp_path: Path) -> None:
    model, _ = load_model_folder(served_folder)
    print_of_base = model.fingerprint()
    for value in initial_states(model).values():
        value.data += torch.randn(value.shape)
    save_initial_state(tmp_path / "kind.safetensors", model, print_of_base)
    file = tmp_path / "kind.safetensors"
    with serving(f"a={served_folder}", f"b={served_folder}", personas=[f"kind={file}"]) as running:
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none")
        assert [each.id for each in client.models.list()] == ["a", "b"]
        texts: dict[tuple[str, str | None], str | None] = {}

        def ask(name: str, persona: str | None) -> None:
            answer = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "川は？"}], seed=1, max_tokens=12,
                extra_body={} if persona is None else {"persona": persona},
            )  # fmt: skip
            texts[name, persona] = answer.choices[0].message.content

        for persona in (None, "kind"):
            for name in ("a", "b"):
                ask(name, persona)
        assert texts["a", None] == texts["b", None] != texts["a", "kind"] == texts["b", "kind"]
        ask("a", None)
        assert texts["a", None] == texts["b", None]  # the persona's snapshots aren't found
    model, tokenizer = load_model_folder(served_folder, state=file)
    session = Session(model, tokenizer, seed=1)
    session.feed(encode(tokenizer, [{"role": "user", "content": "川は？"}], add_generation_prompt=True)[0])
    assert "".join(session.stream(SamplingConfig(max_new_tokens=12))) == texts["a", "kind"]


def test_a_model_and_its_eight_bits_are_served_at_once(served_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model_folder(served_folder)
    quantise_model(model, 8)
    stop_ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    save_model_folder(model, tokenizer, tmp_path / "small", stop_ids)
    with serving(f"whole={served_folder}", f"small={tmp_path / 'small'}") as running:
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        states = {}
        for name, folder in (("whole", served_folder), ("small", tmp_path / "small")):
            answer = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "川は？"}], seed=1, max_tokens=12,
                extra_body={"return_state": True},
            )  # fmt: skip
            states[name] = answer.choices[0].state  # type: ignore[attr-defined]
            session = Session(*load_model_folder(folder), seed=1)
            session.feed(encode(tokenizer, [{"role": "user", "content": "川は？"}], add_generation_prompt=True)[0])
            assert "".join(session.stream(SamplingConfig(max_new_tokens=12))) == answer.choices[0].message.content
        with pytest.raises(BadRequestError, match="another model"):
            client.chat.completions.create(
                model="small", messages=[{"role": "user", "content": "山は？"}], extra_body={"state": states["whole"]}
            )


def test_two_who_ask_for_the_memory_at_once_get_each_layer_once(served_folder: Path) -> None:
    with serving(f"tiny={served_folder}") as running, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(httpx.get, f"{running.url}/memory", timeout=60) for _ in range(8)]
        assert {len(each.result().json()["layers"]) for each in asked} == {2}


def test_log_probabilities_of_a_text_say_where_each_token_begins(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": "tiny", "prompt": "川は", "max_tokens": 12, "seed": 2, "logprobs": 1}
    whole = client.completions.create(**options).choices[0]
    assert whole.logprobs is not None and whole.logprobs.text_offset is not None
    offsets, names = whole.logprobs.text_offset, whole.logprobs.tokens or []
    assert len(offsets) == 12 and offsets[0] == 0 and offsets == sorted(offsets)
    broken = ["\ufffd" in name for name in names]  # of a character that isn't whole
    plain = [i for i in range(12) if not any(broken[max(0, i - 1) : i + 1])]
    assert plain
    for i in plain:
        assert whole.text[offsets[i] :].startswith(names[i])
    parts = [chunk.choices[0].logprobs for chunk in client.completions.create(**options, stream=True)]
    assert [each for part in parts if part is not None for each in part.text_offset or []] == offsets


def test_a_saved_conversation_is_a_persona(served_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model_folder(served_folder)
    session = Session(model, tokenizer, seed=1)
    session.feed(encode(tokenizer, [{"role": "system", "content": "山の話だけをします。" * 40}])[0])
    session.save(tmp_path / "mountains.safetensors")
    session.feed(encode(tokenizer, [{"role": "user", "content": "川は？"}], add_generation_prompt=True)[0][1:])
    expected = "".join(session.stream(SamplingConfig(max_new_tokens=12)))
    with serving(f"tiny={served_folder}", personas=[f"mountains={tmp_path / 'mountains.safetensors'}"]) as running:
        client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        for _ in range(2):  # the second time from the store
            answer = client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "川は？"}], seed=1, max_tokens=12,
                extra_body={"persona": "mountains"},
            )  # fmt: skip
            assert answer.choices[0].message.content == expected
        assert httpx.get(f"{running.url}/v1/models").json()["data"][0]["sioconv"]["personas"] == ["mountains"]
