"""Conversations become the ids that the chat template gives, and no text becomes a special token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from sioconv.data.chat import encode, encode_batch, encode_turn, end_of_turn_id
from sioconv.data.tokenizer import BOS, END_OF_TURN, ROLE_TOKENS, SPECIAL_TOKENS
from sioconv.errors import UserError

Messages = list[dict[str, str]]


def conversations(text: st.SearchStrategy[str]) -> st.SearchStrategy[Messages]:
    message = st.fixed_dictionaries({"role": st.sampled_from(sorted(ROLE_TOKENS)), "content": text})
    return st.lists(message, min_size=1, max_size=6)


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
        ([{"role": "tool", "content": "x"}], "unknown role: 'tool'"),
        ([{"content": "x"}], "unknown role: None"),
        ([{"role": "user"}], "NoneType"),
        ([{"role": "user", "content": ["x"]}], "list"),
        ([{"role": "user", "content": "\ud800"}], "surrogate"),
    ],
)
def test_bad_messages_are_refused(tokenizer: PreTrainedTokenizerFast, messages: Messages, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        encode(tokenizer, messages)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_the_tokens_is_refused() -> None:
    from tokenizers import Tokenizer, models

    stranger = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")))
    with pytest.raises(UserError, match="lacks"):
        encode(stranger, [{"role": "user", "content": "a"}])
