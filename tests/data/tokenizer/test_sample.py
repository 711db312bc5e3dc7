"""A sample is spread over its source, keeps to its budget, and depends on nothing but the text."""

import json
import random
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.config import DataConfig, SourceConfig
from sioconv.data.documents import Row, split_of
from sioconv.data.tokenizer.sample import MEASURED, REACH, pieces, tokenizer_samples

texts = st.text(st.characters(exclude_categories=["Cs"]) | st.just("\n"), max_size=200)


@given(texts, st.integers(1, 30))
def test_pieces_are_the_text(text: str, size: int) -> None:
    found = list(pieces(text, size))
    assert "".join(found) == text
    assert all(0 < len(piece) <= size for piece in found)
    for piece in found[:-1]:  # cut in a line only where the line leaves no choice
        assert piece.endswith("\n") or ("\n" not in piece and len(piece) == size)


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows), encoding="utf-8")
    return path


ROWS = [f"{number:05d} 川は山から海へ流れる。" for number in range(4000)]  # each 40 bytes or so
SIZE = len(ROWS[0].encode())


def sample(path: Path, sample_bytes: int, heldout: float = 0.2) -> tuple[list[str], list[str]]:
    found = tokenizer_samples(DataConfig({"x": SourceConfig(str(path))}, heldout=heldout), sample_bytes)["x"]
    return found.train, found.heldout


def test_a_sample_is_spread_over_its_source(tmp_path: Path) -> None:
    train, heldout = sample(write(tmp_path / "a.jsonl", ROWS), 400 * SIZE)
    assert len(train) == 400 and len(heldout) == 400 * MEASURED
    for part in (train, heldout):
        numbers = [int(text[:5]) for text in part]
        assert len(set(numbers)) == len(part)
        for quarter in range(4):  # the standard deviation is under 9 of 100, and of 25 under 5
            share = sum(quarter * 1000 <= number < (quarter + 1) * 1000 for number in numbers) / len(numbers)
            assert 0.05 < share < 0.45
    assert {split_of(Row("", text=text), 0.2) for text in train} == {"train"}
    assert {split_of(Row("", text=text), 0.2) for text in heldout} == {"heldout"}


def test_order_and_files_dont_matter(tmp_path: Path) -> None:
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    whole = sample(write(tmp_path / "a.jsonl", ROWS), 300 * SIZE)
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "1.jsonl", shuffled[:1500])
    write(tmp_path / "parts" / "2.jsonl", shuffled[1500:])
    assert sample(tmp_path / "parts", 300 * SIZE) == whole


def test_a_source_that_is_smaller_than_its_budget_is_taken_whole(tmp_path: Path) -> None:
    train, heldout = sample(write(tmp_path / "a.jsonl", [*ROWS, *ROWS[:5]]), 10**9)
    assert sorted(train + heldout) == sorted([*ROWS, *ROWS[:5]])


def test_budgets_follow_the_weights(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", ROWS))
    sources = {"a": SourceConfig(path, weight=3), "b": SourceConfig(path, language="en", weight=1)}
    sources["none"] = SourceConfig("nowhere", weight=0)
    found = tokenizer_samples(DataConfig(sources, heldout=0), 800 * SIZE)
    assert {name: len(one.train) for name, one in found.items()} == {"a": 600, "b": 200}
    assert [one.heldout for one in found.values()] == [[], []]
    assert [one.language for one in found.values()] == ["ja", "en"]


def test_a_giant_document_doesnt_push_the_others_out(tmp_path: Path) -> None:
    giant = "\n".join(f"巨大 {number}" for number in range(100_000))
    path = write(tmp_path / "a.jsonl", [giant, *ROWS])
    train, _ = sample(path, 100_000, heldout=0)
    assert any(text in ROWS for text in train)
    assert any("巨大" in text for text in train)
    assert sum(len(text.encode()) for text in train) < 100_000 + 40_000


def test_only_the_beginning_of_a_very_large_source_is_read(tmp_path: Path) -> None:
    train, _ = sample(write(tmp_path / "a.jsonl", ROWS), 2 * SIZE, heldout=0)
    assert len(train) == 2
    assert all(int(text[:5]) <= 2 * REACH for text in train)
