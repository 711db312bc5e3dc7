"""On which text a model is measured where none is named."""

import shutil
from pathlib import Path

import pytest

from sioconv.data.cleaning.splits import read_split
from sioconv.data.config import DataConfig, SourceConfig
from sioconv.data.documents import split_of
from sioconv.evaluate.parts.settings import Settings
from sioconv.recipe.schema import load_recipe, save_recipe
from sioconv.run.measure import evaluate

PUBLISHED = Path(__file__).parents[2] / "src/sioconv/models/sioconv-ja-en-7m"
TEXT = Settings(parts=("text",))


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder that belongs to no run; one source of the package is all that it could be measured on."""
    shutil.copytree(tiny_model_folder, tmp_path / "mine")
    source = SourceConfig("bundled:sentences_ja")
    monkeypatch.setattr("sioconv.run.measure.bundled_data", lambda: DataConfig({"sentences": source}, heldout=0.05))
    return tmp_path / "mine"


def heldout(share: float) -> set[str]:
    return {row.text or "" for row in read_split(SourceConfig("bundled:sentences_ja"), "heldout", share)}


def documents(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    seen: set[str] = set()
    monkeypatch.setattr("sioconv.evaluate.run.measure", lambda _, __, texts, ___: seen.update(*texts.values()) or {})
    evaluate(str(folder), None, "cpu", settings=TEXT)
    return seen


def test_a_model_is_not_measured_on_text_that_its_own_recipe_trained_it_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "bundled:sentences_ja.jsonl.gz"
    tuning = ["--finetune.train.tokens=1024", f"--finetune.data.sources.t.path={path}"]
    settings = [f"--data.sources.s.path={path}", "--data.heldout=0.03", "--train.tokens=1024"]
    for more, share in (
        ([], 0.03),
        ([*tuning, "--finetune.data.heldout=0.02"], 0.02),  # tuning reads a part of what pretraining holds out
        ([*tuning, "--finetune.data.heldout=0.02", "--data.sources.s.heldout=0.01"], 0.01),
    ):
        save_recipe(load_recipe([], [*settings, *more]), folder / "recipe.yaml")
        assert documents(folder, monkeypatch) == heldout(share) < heldout(0.05)
        assert "measured on text of the package that its recipe.yaml leaves out of training" in capsys.readouterr().err


def test_the_packages_model_is_measured_on_none_of_its_training_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(PUBLISHED / "recipe.yaml", folder)
    read = load_recipe([str(PUBLISHED / "recipe.yaml")]).data
    rows = list(read_split(read.sources["sentences_ja"], "heldout", 0.05))
    kept = {row.text for row in rows if split_of(row, read.heldout) == "heldout"}
    assert documents(folder, monkeypatch) == kept
    assert 0 < len(kept) < len(rows)


def test_where_nothing_says_what_a_model_learned_the_line_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert documents(folder, monkeypatch) == heldout(0.05)
    said = " ".join(capsys.readouterr().err.split())
    assert f"nothing says what {folder} learned from" in said
    assert "which it may have read" in said
    (folder / "recipe.yaml").write_text("merge_method: slerp\n", encoding="utf-8")  # another program's
    assert documents(folder, monkeypatch) == heldout(0.05)
    assert "which it may have read" in " ".join(capsys.readouterr().err.split())
