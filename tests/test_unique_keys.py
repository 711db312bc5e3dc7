"""A key that comes twice in an object of JSON: a part of what somebody wrote would be forgotten without a word."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.cli.generate import _prompts_of
from sioconv.data.config import SourceConfig
from sioconv.data.documents import BadInput
from sioconv.data.sources.readers import Share, read_json
from sioconv.errors import UserError
from sioconv.generate.constraint import Form
from sioconv.unique_keys import RepeatedKeyError, loads

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(VALUES)
def test_what_has_no_key_twice_is_read_as_ever(value: object) -> None:
    assert loads(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '[{"b": [{"a": {}, "b": 1, "a": []}]}]', '{"\\u0061": 1, "a": 2}']
)
def test_a_key_that_comes_twice_is_named_at_any_depth(text: str) -> None:
    with pytest.raises(RepeatedKeyError, match="the key 'a' comes twice"):
        loads(text)


TWICE = '{"text": "川は海へ。", "text": "山は高い。"}'
GOOD = '{"text": "海は広い。"}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", f"{GOOD}\n{TWICE}\n{GOOD}\n"),
        ("a.json", f"[{GOOD},\n{TWICE},\n{GOOD}]"),
        ("b.json", f"[{GOOD}, {TWICE}, {GOOD}]"),
    ],
)
def test_a_row_with_a_key_twice_is_a_bad_row_and_the_others_are_read(tmp_path: Path, name: str, content: str) -> None:
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    found = [record for _, record in read_json(file, SourceConfig(str(file)), Share())]
    assert [type(record) for record in found] == [dict, BadInput, dict]
    assert isinstance(found[1], BadInput) and f"{name}:2" in str(found[1]) and "'text' comes twice" in str(found[1])


def test_an_array_longer_than_what_is_read_at_once_names_its_row(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("[" + ",".join([GOOD] * 20_000 + [TWICE] + [GOOD] * 5) + "]", encoding="utf-8")
    bad = [
        number for number, record in read_json(file, SourceConfig(str(file)), Share()) if not isinstance(record, dict)
    ]
    assert bad == [20_001]


def test_prompts_and_schemas_with_a_key_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text('{"prompt": "川", "prompt": "海"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="'prompt' comes twice"):
        _prompts_of(str(tmp_path / "prompts"))
    with pytest.raises(UserError, match="'type' comes twice"):
        Form.of(schema='{"type": "string", "type": "integer"}')
