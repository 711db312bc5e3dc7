"""The beginnings that a report continues: the recipe's, or the user's own."""

import pytest

from sioconv.data.config import DataConfig, SourceConfig
from sioconv.evaluate.config import EvaluateConfig
from sioconv.evaluate.parts.prompts import LONGEST, beginning, own_prompts

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
