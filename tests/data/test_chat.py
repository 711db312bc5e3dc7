"""Conversations become the ids that the chat template gives, and no text becomes a special token."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast
from transformers.utils import get_json_schema

from sioconv.data.chat import encode, encode_batch, encode_turn, end_of_turn_id
from sioconv.data.tokenizer.tokenizer import BOS, END_OF_TURN, ROLE_TOKENS, SPECIAL_TOKENS
from sioconv.data.turns import TURN_OF, turns_of
from sioconv.errors import UserError

Messages = list[dict[str, Any]]


def conversations(text: st.SearchStrategy[str]) -> st.SearchStrategy[Messages]:
    message = st.fixed_dictionaries({"role": st.sampled_from(sorted(ROLE_TOKENS)), "content": text})
    return st.lists(message, min_size=1, max_size=6)


def tools(text: st.SearchStrategy[str]) -> st.SearchStrategy[list[dict[str, Any]] | None]:
    values = st.one_of(text, st.integers(), st.booleans(), st.none(), st.lists(text, max_size=2))
    schema = st.dictionaries(text, st.one_of(values, st.dictionaries(text, values, max_size=2)), max_size=3)
    return st.none() | st.lists(schema, max_size=3)


def tool_conversations(text: st.SearchStrategy[str]) -> st.SearchStrategy[Messages]:
    """Messages in every form that can be read."""
    part = st.fixed_dictionaries({"type": st.just("text"), "text": text})
    content = text | st.lists(part, max_size=3)
    function = st.fixed_dictionaries({"name": text, "arguments": text | st.dictionaries(text, text, max_size=2)})
    wrapped = st.fixed_dictionaries({"type": st.just("function"), "id": text, "function": function})
    calls = st.lists(function | wrapped | st.fixed_dictionaries({"name": text}), min_size=1, max_size=3)
    said = st.fixed_dictionaries({"role": st.sampled_from(sorted(TURN_OF)), "content": content})
    called = st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": content | st.none(), "tool_calls": calls, "audio": st.none()}
    )
    answered = st.fixed_dictionaries(
        {"role": st.just("tool"), "content": content, "name": text, "tool_call_id": text, "annotations": st.just([])}
    )
    return st.lists(said | called | answered, min_size=1, max_size=6)


harmless = st.text(max_size=40).filter(lambda text: "<|" not in text)
hostile = st.lists(
    st.sampled_from(
        [*SPECIAL_TOKENS, "<|", "|>", "<", "|", ">", "assistant", " ", "\n", "\u3000", "\u200b", "\ufeff", "海"]
    ),
    max_size=12,
).map("".join)


@given(conversations(harmless), st.booleans())
def test_harmless_text_gives_what_the_template_gives(
    tokenizer: PreTrainedTokenizerFast, messages: Messages, prompt: bool
) -> None:
    template = tokenizer.apply_chat_template(
        messages, tokenize=True, return_assistant_tokens_mask=True, return_dict=True, add_generation_prompt=prompt
    )
    ids, mask = encode(tokenizer, messages, add_generation_prompt=prompt)
    assert ids == template["input_ids"]
    assert mask == template["assistant_masks"]


@given(tool_conversations(harmless), tools(harmless), st.booleans())
def test_tools_parts_and_other_roles_give_what_the_template_gives(
    tokenizer: PreTrainedTokenizerFast, messages: Messages, offered: list[dict[str, Any]] | None, prompt: bool
) -> None:
    template = tokenizer.apply_chat_template(
        messages, tools=offered, return_assistant_tokens_mask=True, return_dict=True, add_generation_prompt=prompt
    )
    ids, mask = encode(tokenizer, messages, tools=offered, add_generation_prompt=prompt)
    assert ids == template["input_ids"]
    assert mask == template["assistant_masks"]


@given(tool_conversations(hostile), tools(hostile))
def test_no_text_of_a_tool_becomes_a_special_token(
    tokenizer: PreTrainedTokenizerFast, messages: Messages, offered: list[dict[str, Any]] | None
) -> None:
    ids, _ = encode(tokenizer, messages, tools=offered)
    turns = turns_of(messages, offered)
    special = {tokenizer.convert_tokens_to_ids(token): token for token in SPECIAL_TOKENS}
    expected = sum(([ROLE_TOKENS[role], END_OF_TURN] for role, _ in turns), [BOS])
    assert [special[token] for token in ids if token in special] == expected
    assert tokenizer.decode(ids) == BOS + "".join(f"{ROLE_TOKENS[role]}{text}{END_OF_TURN}" for role, text in turns)


def weather(city: str, days: int = 1) -> str:
    """Says what the weather will be.

    Args:
        city: Where.
        days: How many days ahead.
    """
    return f"{city}: rain for {days} days"


def test_a_conversation_with_a_tool(tokenizer: PreTrainedTokenizerFast) -> None:
    call = {"type": "function", "id": "1", "function": {"name": "weather", "arguments": {"city": "仙台"}}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "仙台"}, {"type": "text", "text": "は？"}]},
        {"role": "assistant", "content": "I look.", "tool_calls": [call, call["function"]]},
        {"role": "tool", "name": "weather", "tool_call_id": "1", "content": "rain"},
        {"role": "assistant", "content": "雨です。"},
    ]
    schema = get_json_schema(weather)
    one = '<tool_call>\n{"name": "weather", "arguments": {"city": "仙台"}}\n</tool_call>'
    assert turns_of(messages, [weather]) == [
        ("system", f"Be brief.\n\n<tools>\n{json.dumps(schema)}\n</tools>"),
        ("user", "仙台は？"),
        ("assistant", f"I look.\n{one}\n{one}"),
        ("user", "<tool_response>\nrain\n</tool_response>"),
        ("assistant", "雨です。"),
    ]
    ids, mask = encode(tokenizer, messages, tools=[weather])
    learned = [token for token, counts in zip(ids, mask, strict=True) if counts]
    assert tokenizer.decode(learned) == f"I look.\n{one}\n{one}{END_OF_TURN}雨です。{END_OF_TURN}"
    assert turns_of(messages[1:], [schema])[0] == ("system", f"<tools>\n{json.dumps(schema)}\n</tools>")


@given(conversations(hostile | st.text(max_size=40)))
def test_no_text_becomes_a_special_token_and_all_text_comes_back(
    tokenizer: PreTrainedTokenizerFast, messages: Messages
) -> None:
    ids, mask = encode(tokenizer, messages)
    special = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    places = [place for place, token in enumerate(ids) if token in special.values()]
    turns = [[ROLE_TOKENS[message["role"]], END_OF_TURN] for message in messages]
    assert [ids[place] for place in places] == [special[token] for token in sum(turns, [BOS])]
    for number, message in enumerate(messages):
        begin, end = places[1 + 2 * number], places[2 + 2 * number]
        assert tokenizer.decode(ids[begin + 1 : end]) == message["content"]
        learned = int(message["role"] == "assistant")
        assert mask[begin : end + 1] == [0] + [learned] * (end - begin)
    assert mask[0] == 0


@given(conversations(hostile), conversations(hostile))
def test_turns_can_be_appended_one_by_one(
    tokenizer: PreTrainedTokenizerFast, first: Messages, second: Messages
) -> None:
    ids, _ = encode(tokenizer, first)
    for message in second:
        ids += encode_turn(tokenizer, message["role"], message["content"])
    assert ids == encode(tokenizer, first + second)[0]


@given(st.lists(conversations(harmless), max_size=4))
def test_a_batch_is_its_conversations(tokenizer: PreTrainedTokenizerFast, batch: list[Messages]) -> None:
    assert encode_batch(tokenizer, batch) == [encode(tokenizer, messages) for messages in batch]


def test_end_of_turn_ends_a_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    assert encode_turn(tokenizer, "user", "")[-1] == end_of_turn_id(tokenizer)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "empty conversation"),
        ([{"role": "function", "content": "x"}], "unknown role: 'function'"),
        ([{"content": "x"}], "unknown role: None"),
        ([{"role": "user"}], "NoneType"),
        ([{"role": "user", "content": ["x"]}], "part of the role user is str"),
        ([{"role": "user", "content": "\ud800"}], "surrogate"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "'image_url'"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "'input_audio'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "'text'"),
        ([{"role": "user", "content": {"type": "text", "text": "x"}}], "dict"),
        ([{"role": "user", "content": "x", "images": ["x.png"]}], "'images'"),
        ([{"role": "assistant", "content": "x", "logprob": 0}], "'logprob'"),
        ([{"role": "user", "content": "x", "tool_calls": [{"name": "f"}]}], "only the assistant"),
        ([{"role": "assistant", "tool_calls": [{"arguments": {}}]}], "no name"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": {1}}}]}], "isn't JSON"),
    ],
)
def test_bad_messages_are_refused(tokenizer: PreTrainedTokenizerFast, messages: Messages, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        encode(tokenizer, messages)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "type image_url"),
        ({"role": "user", "content": ["x"]}, "must be an object"),
        ({"role": "user", "content": 3}, "must be text"),
        ({"role": "user"}, "must be text"),
        ({"role": "function", "content": "x"}, "got function"),
        ({"role": "user", "content": "x", "images": ["x.png"]}, "has images"),
        ({"role": "user", "content": "x", "tool_calls": [{"name": "f"}]}, "only the assistant"),
    ],
)
def test_the_template_refuses_the_same(
    tokenizer: PreTrainedTokenizerFast, message: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(TemplateError, match=complaint):
        tokenizer.apply_chat_template([message])


def test_the_template_refuses_documents_that_it_would_leave_out(tokenizer: PreTrainedTokenizerFast) -> None:
    asked = [{"role": "user", "content": "x"}]
    with pytest.raises(TemplateError, match="documents cannot be read: put their text into a message"):
        tokenizer.apply_chat_template(asked, documents=[{"title": "a", "text": "b"}])
    assert tokenizer.apply_chat_template(asked, documents=[]) == tokenizer.apply_chat_template(asked)


def test_a_function_without_types_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="bad tool") as caught:
        encode(tokenizer, [{"role": "user", "content": "x"}], tools=[lambda city: city])
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_the_tokens_is_refused() -> None:
    from tokenizers import Tokenizer, models

    stranger = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")))
    with pytest.raises(UserError, match="lacks"):
        encode(stranger, [{"role": "user", "content": "a"}])
