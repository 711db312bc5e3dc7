"""sioconv.data.bundled: the text that ships with the package is whole and small."""

import bz2
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from sioconv.data.bundled import bundled_names, bundled_path
from sioconv.data.cleaning.splits import read_split
from sioconv.data.config import SourceConfig
from sioconv.data.documents import Row
from sioconv.data.sources.source import read_rows
from sioconv.errors import UserError

TEXT = [
    *("dictionary_en", "gazetteer_ja", "manuals_ja", "prose_en"),
    *("sentences_en", "sentences_ja", "sentences_more_en", "sentences_more_ja"),
]
CHAT = ["chat_places_ja", "chat_smalltalk_en", "chat_smalltalk_ja", "chat_translation"]


def rows_of(name: str) -> list[Row]:
    return list(read_rows(SourceConfig(f"bundled:{name}", kind="chat" if name in CHAT else "text")))


def test_what_is_bundled() -> None:
    assert bundled_names() == sorted(TEXT + CHAT)
    assert sum(bundled_path(name).stat().st_size for name in bundled_names()) < 6_000_000


def test_a_name_with_or_without_its_suffix() -> None:
    assert bundled_path("prose_en") == bundled_path("prose_en.jsonl.bz2")
    assert bundled_path("prose_en") == bundled_path("prose_en.jsonl.gz")  # as older recipes say
    for name in ("../rows.py", "prose", "", "identity.jsonl"):
        with pytest.raises(UserError, match="no bundled text"):
            bundled_path(name)


@pytest.mark.parametrize("name", TEXT + CHAT)
def test_every_row_is_usable_and_both_splits_have_some(name: str) -> None:
    source = SourceConfig(f"bundled:{name}", kind="chat" if name in CHAT else "text")
    assert all(row.extra["source"] for row in read_rows(source))
    assert all(any(read_split(source, split, 0.03)) for split in ("train", "heldout"))


@pytest.mark.parametrize("language", ["ja", "en"])
def test_no_sentence_of_more_text_is_near_to_a_held_out_one(language: str) -> None:
    heldout = {
        "".join(filter(str.isalnum, sentence.lower()))
        for row in read_split(SourceConfig(f"bundled:sentences_{language}"), "heldout", 0.05)
        for sentence in (row.text or "").split("\n")
    }
    more = {
        "".join(filter(str.isalnum, sentence.lower()))
        for row in rows_of(f"sentences_more_{language}")
        for sentence in (row.text or "").split("\n")
    }
    assert len(heldout) > 800 and len(more) > 100_000
    for sentence in heldout:
        # One letter left out or put at the end.
        shorter = {sentence[:at] + sentence[at + 1 :] for at in range(len(sentence)) if len(sentence) > 8}
        assert not ({sentence} | shorter) & more


@pytest.mark.parametrize("name", TEXT + CHAT)
def test_the_archive_holds_no_time_and_no_file_name(name: str) -> None:
    assert bundled_path(name).read_bytes()[:4] == b"BZh9"  # bzip2 has room for neither


@pytest.mark.parametrize("name", CHAT)
def test_conversations_alternate_and_have_a_language(name: str) -> None:
    for row in rows_of(name):
        assert [turn["role"] for turn in row.messages or []] == ["user", "assistant"] * (len(row.texts) // 2)
        assert row.extra["language"] in ("ja", "en")
        assert all(text == text.strip() for text in row.texts)


@pytest.mark.parametrize("name", CHAT)
def test_no_question_has_two_answers(name: str) -> None:
    asked = Counter(tuple(row.texts[:-1]) for row in rows_of(name))
    assert [question for question, count in asked.items() if count > 1] == []


def test_places_agree_with_the_gazetteer() -> None:
    entries = {row.texts[0].split("(")[0]: row.texts[0] for row in rows_of("gazetteer_ja")}
    facts = Counter()
    for row in rows_of("chat_places_ja"):
        key, about = row.extra["key"], row.extra["about"]
        relation, entry = row.extra.get("relation"), entries[about]
        facts[about, relation] += 1
        keys = [key] if isinstance(key, str) else key
        assert all(part in row.texts[-1] and part in entry for part in keys)
        if relation == "prefecture":
            assert entry.split("\n")[0].endswith(f"は、{key}にある市である。")
        if relation == "reading":
            assert entry.startswith(f"{about}({key})は、")
    prefectures = {about for about, relation in facts if relation == "towns"}
    cities = {about for about, relation in facts if relation == "prefecture"}
    assert len(prefectures) == 47 and len(cities) == 60 and not prefectures & cities
    assert min(count for (_, relation), count in facts.items() if relation) >= 3


def test_small_talk_is_in_its_language() -> None:
    for row in rows_of("chat_smalltalk_ja"):
        assert all(re.search(r"[ぁ-んァ-ン一-龥0-9]", text) for text in row.texts)
    for row in rows_of("chat_smalltalk_en"):
        assert re.match(r"[A-Z\"「]", row.texts[-1])


def test_notice_names_every_text() -> None:
    notice = (Path(__file__).parents[2] / "NOTICE").read_text(encoding="utf-8")
    assert [name for name in TEXT + CHAT if name not in notice] == []


def test_the_files_are_plain_json_lines() -> None:
    with bz2.open(bundled_path("chat_smalltalk_ja"), "rt", encoding="utf-8") as stream:
        assert "こんにちは" in json.loads(next(stream))["messages"][0]["content"]
