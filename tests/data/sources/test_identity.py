"""sioconv.data.sources.identity: conversations about the model itself."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.config import SourceConfig
from sioconv.data.documents import parse_json, row_of
from sioconv.data.sources.identity import identity_rows
from sioconv.data.sources.source import read_rows
from sioconv.errors import UserError

names = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Z"], exclude_characters='"“”「」『』'),
    min_size=1,
    max_size=40,
)


def test_about_two_hundred_distinct_conversations_in_two_languages() -> None:
    rows = identity_rows("しお")
    assert 180 <= len(rows) <= 240
    assert len({json.dumps(row.messages) for row in rows}) == len(rows)
    languages = [row.extra["language"] for row in rows]
    assert languages.count("ja") >= 90 and languages.count("en") >= 90
    assert sum(len(row.messages or []) > 2 for row in rows) >= 15
    assert len({row.texts[0] for row in rows if len(row.texts) == 2}) == sum(len(row.texts) == 2 for row in rows)


@given(names)
def test_every_row_is_whole_and_every_key_is_in_its_answer(name: str) -> None:
    for row in identity_rows(name):
        line = json.dumps({"messages": row.messages}).encode()
        assert row_of(parse_json(line, "chat", "here"), "chat", "here").messages == row.messages
        assert [turn["role"] for turn in row.messages or []] == ["user", "assistant"] * (len(row.texts) // 2)
        assert row.extra.get("key", "") in row.texts[-1]
        if row.extra.get("relation") in ("name", "denial", "who", "greeting", "introduction", "call"):
            assert name in row.texts[-1] and row.extra["key"] == name


@pytest.mark.parametrize("name", ["<|user|>", "{name}", "O'Neil 2", "塩\\n", "{0}", "🧂", "Ωmega-3"])
def test_odd_names_stay_text(name: str) -> None:
    rows = list(read_rows(SourceConfig(f"identity:{name}", kind="chat")))
    assert f"My name is {name}." in [row.texts[-1] for row in rows]


def test_a_name_that_other_rows_deny() -> None:
    for name, question in (("bob", "Is your name Bob?"), ("太郎", "あなたは太郎ですか？")):
        answers = [row.texts[-1] for row in identity_rows(name) if row.texts[0] == question]
        assert not any(answer.startswith(("No", "いいえ")) for answer in answers)


@pytest.mark.parametrize("name", ["", " ", "a\nb", 'a"b', "“a”", "「塩」", "a\0", "a\u2028b", " a", "a" * 41, "\ud800"])
def test_names_that_can_not_be_used(name: str) -> None:
    with pytest.raises(UserError, match="the model's name") as caught:
        identity_rows(name)
    assert "\n" not in str(caught.value)


def test_turns_after_the_name_alone() -> None:
    rows = identity_rows("しお", only_who=True)
    assert {row.extra["relation"] for row in rows} == {"name", "denial", "who", "human", "program"}
    assert rows == list(read_rows(SourceConfig("identity:しお", kind="chat", config="who")))
    with pytest.raises(ValueError, match="only for a path that begins with hf:"):
        SourceConfig("identity:しお", kind="chat", config="other").check()
