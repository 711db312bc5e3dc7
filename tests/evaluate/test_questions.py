"""sioconv.evaluate.questions: seen ones are in the training rows, unseen ones aren't."""

import json
from pathlib import Path
from typing import Any

import pytest

from sioconv.data.cleaning.splits import read_split
from sioconv.data.config import SourceConfig
from sioconv.data.documents import Row
from sioconv.data.sources.source import read_rows
from sioconv.evaluate.questions import Question, build_questions, is_right

HELDOUT = 0.03
NAME = "しお"
SOURCES = {
    name: SourceConfig(f"bundled:chat_{name}", kind="chat")
    for name in ("places_ja", "smalltalk_ja", "smalltalk_en", "translation")
} | {"identity": SourceConfig(f"identity:{NAME}", kind="chat")}


@pytest.fixture(scope="module")
def training() -> list[Row]:
    return [row for source in SOURCES.values() for row in read_split(source, "train", HELDOUT)]


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return build_questions(SOURCES, HELDOUT, NAME)


def test_as_many_as_asked_for(questions: list[Question]) -> None:
    assert [question.kind for question in questions] == ["seen"] * 20 + ["unseen"] * 20
    assert len({question.question for question in questions}) == 40
    assert len(build_questions(SOURCES, HELDOUT, NAME, n=3)) == 6
    assert build_questions(SOURCES, HELDOUT, NAME, n=0) == []


def test_the_users_own_come_first(tmp_path: Path) -> None:
    """What is held out of their files is asked before what the package's text gives."""
    rows = [
        {"messages": [{"role": "user", "content": f"第{n}の川は？"}, {"role": "assistant", "content": "海じゃ。"}]}
        for n in range(40)
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = build_questions(SOURCES | {"own": SourceConfig(str(path), kind="chat", heldout=0.3)}, HELDOUT, NAME, n=4)
    unseen = [question.why for question in found if question.kind == "unseen"]
    assert unseen == ["held-out question"] * 4
    seen = [question for question in found if question.kind == "seen"]
    assert [question.answer == "海じゃ。" for question in seen] == [True, True, False, False]
    assert not {question.question for question in seen} & {q.question for q in found if q.kind == "unseen"}


def test_seen_ones_stand_in_the_training_rows(questions: list[Question], training: list[Row]) -> None:
    pairs = {tuple(row.texts) for row in training}
    seen = [question for question in questions if question.kind == "seen"]
    assert all((question.question, question.answer) in pairs for question in seen)
    assert {(question.why, question.language) for question in seen} == {
        ("trained place", "ja"), ("identity", "ja"), ("identity", "en")
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_unseen_ones_do_not(training: list[Row], seed: int) -> None:
    texts = {text for row in training for text in row.texts}
    unseen = [question for question in build_questions(SOURCES, HELDOUT, NAME, 200, seed) if question.kind == "unseen"]
    assert [question.question for question in unseen if question.question in texts] == []
    whys = {(question.why, question.language) for question in unseen}
    assert whys == {
        ("paraphrase", "ja"), ("unseen place", "ja"), ("identity paraphrase", "ja"), ("identity paraphrase", "en")
    }  # fmt: skip


def test_no_row_at_all_holds_a_wording_that_counts_as_unseen() -> None:
    texts = {text for source in SOURCES.values() for row in read_rows(source) for text in row.texts}
    unseen = [question for question in build_questions(SOURCES, HELDOUT, NAME, 400) if question.kind == "unseen"]
    assert [q.question for q in unseen if q.why != "unseen place" and q.question in texts] == []


def test_unseen_places_are_named_nowhere_and_their_answers_are_true(training: list[Row]) -> None:
    everything = "\n".join(text for row in training for text in row.texts)
    entries = {row.texts[0].split("(")[0]: row.texts[0] for row in read_rows(SourceConfig("bundled:gazetteer_ja"))}
    places = [q for q in build_questions(SOURCES, HELDOUT, NAME, 400) if q.why == "unseen place"]
    assert len(places) >= 40
    for question in places:
        [city] = [name for name in entries if question.answer.startswith(f"{name}は") and name in question.question]
        assert city not in everything and question.key[0] in entries[city].split("\n")[0]


def test_every_reference_answer_is_right_and_an_empty_one_is_not(questions: list[Question]) -> None:
    assert all(is_right(question, question.answer) and not is_right(question, "") for question in questions)


def test_right_is_one_key_in_compatibility_form() -> None:
    question = Question("?", "", ("ＡＢ市", "ガ"), "ja", "seen", "")
    assert is_right(question, "それはAB市です。") and is_right(question, "ｶﾞ") and is_right(question, "カ\u3099です")
    assert not is_right(question, "ab市") and not is_right(question, "A B市")


def test_the_same_again(questions: list[Question]) -> None:
    assert build_questions(SOURCES, HELDOUT, NAME) == questions
    assert build_questions(SOURCES, HELDOUT, NAME, seed=1) != questions


def source(path: Path, *rows: dict[str, Any]) -> dict[str, SourceConfig]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"own": SourceConfig(str(path), kind="chat")}


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def test_conversations_of_ones_own(tmp_path: Path) -> None:
    rows = [
        {"messages": turns("2+2?", "4."), "key": "4", "language": "en"},
        {"messages": turns("a?", "b."), "key": 7},
        {"messages": turns("c?", "d."), "key": ["", "d"]},
        {"messages": turns("e?", "f.", "g?", "h."), "key": "h"},
        {"messages": turns("i?", "j.")},
    ]
    *own, question = build_questions(source(tmp_path / "a.jsonl", *rows), 0, NAME)
    assert question == Question("2+2?", "4.", ("4",), "en", "seen", "trained question")
    # What a right answer to them holds isn't known.
    assert {(each.question, each.answer, each.key) for each in own} == {("a?", "b.", ()), ("i?", "j.", ())}


def test_no_conversations() -> None:
    assert build_questions({}, HELDOUT, NAME) == []
