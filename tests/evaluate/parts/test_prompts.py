"""The beginnings that a report continues: the recipe's, or the user's own."""

import json
from pathlib import Path

import pytest

from sioconv.data.config import DataConfig, SourceConfig
from sioconv.evaluate.config import EvaluateConfig
from sioconv.evaluate.parts.prompts import LONGEST, beginning, own_prompts, prompts_of_a_run

DEFAULT = EvaluateConfig().prompts
OWN = DataConfig({"diary": SourceConfig("diary.txt")})


def test_ones_own_text_gives_the_beginnings_where_the_recipe_leaves_the_default_ones() -> None:
    texts = {
        "diary": ["今日は海へ行った、そして泳いだ。", "二日目"],
        "notes": [],
        "letters": ["Dear Hanako, how are you?"],
    }
    assert own_prompts(DEFAULT, OWN, texts) == ["今日は海へ行った、", "Dear Hanako,"]
    assert own_prompts(["昔々"], OWN, texts) == ["昔々"]
    bundled = DataConfig({"a": SourceConfig("bundled:prose_en.jsonl.gz"), "b": SourceConfig("diary.txt")})
    assert own_prompts(DEFAULT, bundled, texts) == DEFAULT
    assert own_prompts(DEFAULT, OWN, {"diary": []}) == DEFAULT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("川は流れる。海へ。", "川は流れる。"),
        ("あ" * 60, "あ" * LONGEST),
        ("  はい、そうです", "はい、そうです"),
        ("The river runs from the hills", "The river runs from the"),
        ("二日目", "二日目"),
    ],
)
def test_a_beginning_ends_with_a_clause(text: str, expected: str) -> None:
    assert beginning(text) == expected


def test_a_tuning_continues_the_users_text_or_nothing(tmp_path: Path) -> None:
    diary, talks = tmp_path / "diary.jsonl", tmp_path / "talks.jsonl"
    rows = [json.dumps({"text": f"{n}日目は海へ行った、そして泳いだ。"}, ensure_ascii=False) for n in range(20)]
    diary.write_text("\n".join(rows) + "\n", encoding="utf-8")
    base = SourceConfig("bundled:sentences_ja.jsonl.gz")
    chat = DataConfig({"own1": SourceConfig(str(talks), kind="chat"), "base_sentences": base}, heldout=0.3)
    assert prompts_of_a_run(DEFAULT, DataConfig(), {}, chat) == []
    chat.sources["own2"] = SourceConfig(str(diary), heldout=0.3)
    [prompt] = prompts_of_a_run(DEFAULT, DataConfig(), {}, chat)
    assert prompt.endswith("日目は海へ行った、")
    assert prompts_of_a_run(["昔々"], DataConfig(), {}, chat) == ["昔々"]
    assert prompts_of_a_run(DEFAULT, OWN, {}, None) == DEFAULT
