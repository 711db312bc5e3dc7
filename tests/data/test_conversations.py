"""Every published form of a conversation gives the same turns, and nothing of one is lost in silence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from sioconv.data.chat import encode
from sioconv.data.config import SourceConfig
from sioconv.data.conversations import CALL, ROLE_OF, conversation_of, texts_beside
from sioconv.data.documents import ROLES
from sioconv.data.sources.source import read_rows
from sioconv.data.tally import Tally
from sioconv.data.tokenizer.tokenizer import BOS, END_OF_TURN, ROLE_TOKENS, SPECIAL_TOKENS
from sioconv.data.turns import TURN_OF
from sioconv.errors import UserError

Turns = list[dict[str, Any]]
SHARE_GPT = {"system": "system", "user": "human", "assistant": "gpt"}


def share_gpt(turns: Turns) -> list[dict[str, str]]:
    return [{"from": SHARE_GPT[turn["role"]], "value": turn["content"]} for turn in turns]


def columns(turns: list[dict[str, str]]) -> dict[str, list[str]]:
    return {key: [turn[key] for turn in turns] for key in turns[0]}


# Forms that hold any turns.
FORMS: dict[str, Callable[[Turns], dict[str, Any]]] = {
    "messages": lambda turns: {"messages": turns},
    "messages as JSON in a table": lambda turns: {"messages": json.dumps(turns)},
    "dialogue": lambda turns: {"dialogue": turns},
    "ultrachat_200k": lambda turns: {"prompt": turns[0]["content"], "prompt_id": "f0e3", "messages": turns},
    "messages of a table": lambda turns: {"messages": [{**turn, "tool_calls": None} for turn in turns]},
    "parts": lambda turns: {
        "messages": [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    },
    "ja_conv_wikipedia": lambda turns: {"id": "1", "conversations": share_gpt(turns)},
    "oasst1-21k-ja": lambda turns: {"ID": "ja-1", "conversations": share_gpt(turns)},
    "columns": lambda turns: {"conversations": columns(share_gpt(turns))},
    "conversation": lambda turns: {"conversation": turns},
    "prompt and completion as turns": lambda turns: {"prompt": turns[:1], "completion": turns[1:]},
}
texts = st.text(min_size=1, max_size=20)


def with_an_answer(turns: Turns) -> bool:
    return any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns)


turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": texts}), min_size=2, max_size=5
).filter(with_an_answer)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@given(turns)
def test_forms_of_any_turns(form: str, turns: Turns) -> None:
    assert conversation_of(FORMS[form](turns))[0] == turns


@given(texts, texts, texts, texts.filter(str.strip))
def test_forms_of_a_question_and_an_answer(system: str, question: str, more: str, answer: str) -> None:
    told = {"role": "system", "content": system}
    asked = {"role": "user", "content": question}
    both = {"role": "user", "content": f"{question}\n\n{more}"}
    answered = {"role": "assistant", "content": answer}
    for record, expected in (
        ({"prompt": question, "completion": answer}, [asked, answered]),
        ({"instruction": question, "output": answer}, [asked, answered]),
        ({"instruction": question, "input": "", "output": answer}, [asked, answered]),
        ({"instruction": question, "input": None, "output": answer}, [asked, answered]),
        ({"instruction": question, "input": more, "output": answer}, [both, answered]),
        ({"system": system, "instruction": question, "output": answer}, [told, asked, answered]),
        ({"system": system, "prompt": question, "completion": answer}, [told, asked, answered]),
        ({"system": system, "conversations": share_gpt([asked, answered])}, [told, asked, answered]),
        ({"system": "", "conversations": share_gpt([asked, answered])}, [asked, answered]),
        # Dolly, OpenOrca, MetaMath, a preference pair in its three forms, and a table that holds null for what isn't.
        ({"instruction": question, "context": more, "response": answer}, [both, answered]),
        ({"system_prompt": system, "question": question, "response": answer}, [told, asked, answered]),
        ({"query": question, "response": answer, "images": None, "tools": [], "history": []}, [asked, answered]),
        ({"prompt": question, "chosen": answer, "rejected": more}, [asked, answered]),
        ({"prompt": [asked], "chosen": [answered], "rejected": [answered]}, [asked, answered]),
        ({"prompt": question, "chosen": [asked, answered]}, [asked, answered]),
        ({"chosen": [asked, answered]}, [asked, answered]),
        ({"system": system, "messages": [asked, answered]}, [told, asked, answered]),
        ({"system": system, "messages": [told, asked, answered]}, [told, asked, answered]),
        ({"messages": [{"role": "system", "content": ""}, asked, answered]}, [asked, answered]),
        ({"history": [[more, system]], "instruction": question, "output": answer},
         [{"role": "user", "content": more}, {"role": "assistant", "content": system}, asked, answered]),
        ({"history": [told], "instruction": question, "output": answer}, [told, asked, answered]),
    ):  # fmt: skip
        found, rest = conversation_of(record)
        assert found == expected
        assert set(rest) <= {"rejected", "images"}


def test_what_tools_say_and_are_asked_is_kept() -> None:
    tool = {"name": "f", "parameters": {}}
    call = {"name": "f", "arguments": {"x": 1}}
    called = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    expected = [
        {"role": "system", "content": f"<tools>\n{json.dumps(tool)}\n</tools>"},
        {"role": "user", "content": "川"},
        {"role": "assistant", "content": called},
        {"role": "user", "content": "<tool_response>\n1\n</tool_response>"},
        {"role": "assistant", "content": "海"},
    ]
    openai = [
        {"role": "user", "content": "川"},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "id": "a", "function": call}]},
        {"role": "tool", "tool_call_id": "a", "name": "f", "content": "1"},
        {"role": "assistant", "content": "海"},
    ]
    asks: dict[str, Any] = {"role": "assistant", "content": "", CALL: call}
    older = [openai[0], asks, {"role": "function", "content": "1"}, openai[3]]
    share_gpt = [
        {"from": "human", "value": "川"},
        {"from": CALL, "value": json.dumps(call)},
        {"from": "observation", "value": "1"},
        {"from": "gpt", "value": "海"},
    ]
    for record in (
        {"messages": openai, "tools": [tool]},
        {"messages": older, "functions": [json.dumps(tool)]},
        {"conversations": share_gpt, "tools": json.dumps([tool])},
    ):
        assert conversation_of(record) == (expected, {})


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}, {"loss": False}])
def test_turns_of_the_assistant_that_arent_learned(tokenizer: PreTrainedTokenizerFast, flag: dict[str, Any]) -> None:
    def said(*, flagged: bool) -> Turns:
        turns = [{"role": "user", "content": "川"}, {"role": "assistant", "content": "山"}]
        return [*turns[:1], turns[1] | (flag if flagged else {}), *turns]

    messages, _ = conversation_of({"messages": said(flagged=True)})
    (ids, mask), (plain_ids, plain_mask) = encode(tokenizer, messages), encode(tokenizer, said(flagged=False))
    assert ids == plain_ids
    half = len(ids) - len(encode(tokenizer, said(flagged=False)[2:])[0]) + 1
    assert not any(mask[:half]) and mask[half:] == plain_mask[half:] and any(mask)
    with pytest.raises(ValueError, match="nothing that is to be learned"):
        conversation_of({"messages": messages[:2]})


def test_what_a_record_says_besides_is_kept() -> None:
    said = [{"role": "user", "content": "川"}, {"role": "assistant", "content": "海"}]
    record = {"id": 7, "conversations": share_gpt(said), "source": "wiki"}
    assert conversation_of(record) == (said, {"id": 7, "source": "wiki"})


def test_roles_are_the_projects() -> None:
    assert set(ROLE_OF.values()) == {*ROLES, "tool"}
    found, _ = conversation_of({"messages": [{"role": role, "content": "x"} for role in ROLE_OF]})
    assert [turn["role"] for turn in found] == [TURN_OF[role] for role in ROLE_OF.values()]


GOOD = {"from": "human", "value": "x"}
ANSWER = {"role": "assistant", "content": "y"}
TALK = [{"role": "user", "content": "x"}, ANSWER]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({}, "none of the keys"),
        ({"text": "x"}, "none of the keys"),
        ({"messages": None, "conversations": [GOOD]}, 'missing or empty "messages"'),
        ({"conversations": []}, 'missing or empty "conversations"'),
        ({"conversations": {}}, "columns of different lengths"),
        ({"conversations": {"from": ["human"], "value": []}}, "columns of different lengths"),
        ({"conversations": {"from": "human", "value": 1}}, "columns of different lengths"),
        ({"conversations": [GOOD, {"from": "gpt"}]}, "message 2 must have"),
        ({"conversations": [{**GOOD, "weight": 0}]}, "message 1 must have"),
        ({"conversations": [{"from": "narrator", "value": "x"}]}, "message 1 has the role 'narrator'"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, "message 1 has the role"),
        ({"conversations": [{"from": "gpt", "value": ""}]}, '"value" of message 1'),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "parts that aren't text"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, '"content" of message 1'),
        ({"messages": [{"role": "user", "content": []}]}, '"content" of message 1'),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "lone surrogate"),
        ({"instruction": "x"}, '"output"'),
        ({"instruction": "x", "input": 5, "output": "y"}, '"input"'),
        ({"prompt": "x"}, '"completion"'),
        ({"prompt": "x", "completion": [GOOD]}, '"completion"'),
        ({"prompt": [GOOD], "completion": "x"}, '"completion"'),
        ({"prompt": "x", "completion": "y", "system": 3}, '"system"'),
        # In which the assistant says nothing, or nothing that is learned.
        ({"messages": [{"role": "system", "content": "短く。"}, {"role": "user", "content": "x"}]}, "says nothing"),
        ({"conversations": [GOOD]}, "the assistant says nothing"),
        ({"messages": [TALK[0], {**ANSWER, "content": " "}]}, "the assistant says nothing"),
        ({"messages": [TALK[0], {**ANSWER, "content": None}]}, '"content" of message 2|message 2 must have'),
        # What belongs to a conversation and can't be used is named.
        ({"messages": TALK, "images": ["a.png"]}, '"images"'),
        ({"messages": TALK, "documents": [{"text": "z"}]}, '"documents"'),
        ({"messages": TALK, "context": "z"}, '"context"'),
        ({"messages": TALK, "completion": "z"}, '"completion"'),
        ({"messages": TALK, "conversations": [GOOD, {"from": "gpt", "value": "z"}]}, '"conversations"'),
        ({"messages": TALK, "tools": "look it up"}, '"tools" is a text that isn\'t JSON'),
        ({"messages": TALK, "tools": {"name": "f"}}, '"tools" is no list'),
        ({"messages": [{"role": "system", "content": "a"}, *TALK], "system": "b"}, '"system" beside another'),
        ({"messages": TALK, "system": "a", "system_prompt": "b"}, "two texts of the system"),
        ({"messages": [{"role": "system", "content": "a"}, *TALK], "history": [["a", "b"]]}, '"history" beside'),
        ({"messages": TALK, "history": [["a"]]}, '1 of "history" is no pair'),
        ({"messages": TALK, "history": "before"}, '"history" is a text'),
        ({"instruction": "x", "output": "y", "response": "z"}, "two answers: output and response"),
        ({"messages": [TALK[0], {**ANSWER, "reasoning_content": "z"}]}, "nothing else, but has reasoning_content"),
        ({"messages": [TALK[0], {**ANSWER, "weight": 0.5}]}, '"weight" of message 2 is 0.5'),
        ({"messages": [{**TALK[0], "tool_calls": [{"name": "f"}]}, ANSWER]}, "only the assistant calls tools"),
        ({"conversations": [GOOD, {"from": "function_call", "value": "f()"}]}, '"function_call" is a text'),
        ({"prompt": {"text": "x", "replies": []}}, "a tree of replies"),
        ({"text": "x", "role": "prompter", "parent_id": None}, "one message of a tree"),
    ],
)
def test_what_isnt_a_conversation_is_refused(tmp_path: Path, record: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        conversation_of(record)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": TALK}) + "\n" + json.dumps(record) + "\n")
    rows = read_rows(SourceConfig(str(path), kind="chat"))
    assert next(rows).messages == TALK
    with pytest.raises(UserError, match=problem) as caught:
        next(rows)
    assert str(caught.value).startswith(f"bad row: {path}:2: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"context": "z"}, "context"),
        ({"input": "z"}, "input"),
        ({"answer": 42}, "answer"),
        ({"images": ["a.png"]}, "images"),
        ({"label": False}, "label"),
        ({"is_correct": False}, "is_correct"),
        ({"system": "a", "system_prompt": "b"}, "system_prompt"),
        ({"messages": [{"role": "system", "content": "a"}, *TALK], "system": "b"}, "system"),
        ({"messages": [{"role": "system", "content": "a"}, *TALK], "history": [["a", "b"]]}, "history"),
    ],
)
def test_a_column_that_cant_be_used_is_named_and_can_be_left_out(
    tmp_path: Path, more: dict[str, Any], key: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": TALK, **more}) + "\n")
    with pytest.raises(UserError, match=rf'"?{key}"?.*name it in the source\'s ignore_columns: \[{key}\]'):
        list(read_rows(SourceConfig(str(path), kind="chat")))
    [row] = read_rows(SourceConfig(str(path), kind="chat", ignore_columns=[key, "another"]))
    assert row.messages is not None and row.messages[-2:] == TALK and key not in row.extra


def test_the_second_of_two_answers_can_be_left_out() -> None:
    record = {"instruction": "x", "output": "y", "response": "z"}
    with pytest.raises(ValueError, match="ignore_columns: \\[response\\] to learn the first"):
        conversation_of(record)
    assert conversation_of(record, ["response"]) == (TALK, {})
    assert conversation_of(record, ["output"])[0][1]["content"] == "z"


def test_what_is_known_of_a_conversation_beside_its_turns_is_no_fault() -> None:
    beside = {
        "id": 1, "source": "wiki", "lang": "ja", "license": "CC0", "score": 0.5, "tags": ["a"], "model": "m",
        "metadata": {"turns": 1}, "category": "qa", "num_turns": 2, "rejected": [ANSWER], "timestamp": None,
    }  # fmt: skip
    assert conversation_of({"messages": TALK, **beside}) == (TALK, beside)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("persona", "俳人です"),
        ("rationale", "because it flows"),
        ("evidence", ["海へ", {"passage": "a river"}]),
        ("思考", {"steps": ["まず川を見る"]}),
        ("Dokument", "ein Fluss"),
    ],
)
def test_text_under_a_name_that_nobody_knows_is_named(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"messages": TALK, key: value}, {"messages": TALK}, {"messages": TALK, key: value}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tally = Tally("read")
    read = list(read_rows(SourceConfig(str(path), kind="chat"), tally=tally))
    assert [row.messages for row in read] == [TALK] * 3 and tally.bad == 0
    assert {name: counted.count for name, counted in tally.beside.items()} == {key: 2}
    assert tally.beside[key].examples[0][0] == f"{path}:1"
    for source in (
        SourceConfig(str(path), kind="chat", ignore_columns=[key]),
        SourceConfig(str(path), kind="chat", id_column=key),
    ):
        silent = Tally("read")
        list(read_rows(source, tally=silent))
        assert silent.beside == {}


def test_what_describes_a_row_or_is_said_in_it_isnt_named() -> None:
    beside = {
        "id": "a1", "conversation_id": "x", "Source": "wiki", "tags": ["a"], "metadata": {"by": "me"}, "score": 0.5,
        "created_at": "2024-01-01", "model_name": "m", "note": TALK[0]["content"], "more": ["", None, 3], "even": {},
    }  # fmt: skip
    assert texts_beside(beside, TALK) == []


def test_columns_of_documents_arent_left_out() -> None:
    with pytest.raises(ValueError, match="ignore_columns: only for conversations"):
        SourceConfig("a.jsonl", ignore_columns=["id"]).check()


hostile = st.lists(st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "assistant", "\n", "海"]), min_size=1, max_size=8).map(
    "".join
)


@pytest.mark.parametrize("form", FORMS)
@given(
    st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": hostile}), min_size=2, max_size=4
    ).filter(with_an_answer)
)  # fmt: skip
def test_attack_text_that_spells_special_tokens_stays_text(
    tokenizer: PreTrainedTokenizerFast, form: str, turns: Turns
) -> None:
    messages, _ = conversation_of(json.loads(json.dumps(FORMS[form](turns))))
    ids, mask = encode(tokenizer, messages)
    special = set(tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS))
    expected = [BOS]
    for turn in turns:
        expected += [ROLE_TOKENS[turn["role"]], END_OF_TURN]
    assert tokenizer.convert_ids_to_tokens([token for token in ids if token in special]) == expected
    learned = [token for token, kept in zip(ids, mask, strict=True) if kept and token not in special]
    assert tokenizer.decode(learned) == "".join(turn["content"] for turn in turns if turn["role"] == "assistant")


CARD = """\
---
configs:
- config_name: default
  data_files:
  - split: train_sft
    path: data/train_sft-*
  - split: test_sft
    path: data/test_sft-*
---
"""


def test_tables_of_the_hubs_schemas(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    talks: list[Turns] = [
        [{"content": f"川{number}は？", "role": "user"}, {"content": "海へ。", "role": "assistant"}] * (1 + number % 2)
        for number in range(6)
    ]
    string = pa.string()
    ultrachat = pa.schema(
        {"prompt": string, "prompt_id": string, "messages": pa.list_(pa.struct({"content": string, "role": string}))}
    )
    wikipedia = pa.schema({"id": string, "conversations": pa.list_(pa.struct({"from": string, "value": string}))})
    rows = [{"prompt": talk[0]["content"], "prompt_id": str(i), "messages": talk} for i, talk in enumerate(talks)]
    (tmp_path / "ultrachat" / "data").mkdir(parents=True)
    (tmp_path / "ultrachat" / "README.md").write_text(CARD)
    for split in ("train_sft", "test_sft"):
        file = tmp_path / "ultrachat" / "data" / f"{split}-00000-of-00001.parquet"
        parquet.write_table(pa.Table.from_pylist(rows, ultrachat), file)
    rows = [{"id": str(i), "conversations": share_gpt(talk)} for i, talk in enumerate(talks)]
    parquet.write_table(pa.Table.from_pylist(rows, wikipedia), tmp_path / "wikipedia.parquet")
    for path, split in (
        ("hf:" + str(tmp_path / "ultrachat"), "train_sft"),
        (str(tmp_path / "ultrachat" / "data"), "train"),
        (str(tmp_path / "wikipedia.parquet"), "train"),
    ):
        found = [row.messages for row in read_rows(SourceConfig(path, kind="chat", split=split))]
        assert found == talks * (1 + path.endswith("data"))
