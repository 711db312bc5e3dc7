"""What is measured, part by part."""

from pathlib import Path

import pytest
import yaml

from sioconv.data.config import DataConfig, SourceConfig
from sioconv.errors import UserError
from sioconv.evaluate.parts import measure as parts
from sioconv.evaluate.parts.measure import measure
from sioconv.evaluate.parts.settings import Settings
from sioconv.evaluate.subject import Subject


def test_a_part_that_a_short_text_has_nothing_for_says_so(ours: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    data = DataConfig(sources={"note": SourceConfig(path="note.txt", language="ja")})
    settings = Settings(parts=("text", "context", "copying"))
    found = measure(ours, data, {"note": ["川が海へ流れる。"]}, settings)
    said = capsys.readouterr().err.splitlines()
    assert found["sources"] and not found["context"] and not found["copying"]["distances"]
    assert [f"{part}: the text is too short to measure it on" in said for part in settings.parts] == [False, True, True]
    assert not measure(ours, data, {"note": ["川"]}, Settings(parts=("writing",), samples=1))["writing"]
    assert "writing: the text is too short to measure it on" in capsys.readouterr().err.splitlines()
    measure(ours, data, {"note": ["川が海へ流れる。" * 400]}, Settings(parts=("context", "copying")))
    assert "too short" not in capsys.readouterr().err


def test_a_window_that_is_too_short_for_a_part_is_said(stranger: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    data = DataConfig(sources={"note": SourceConfig(path="note.txt", language="ja")})
    found = measure(stranger, data, {"note": ["川が海へ流れる。" * 400]}, Settings(parts=("context", "copying")))
    assert not found["context"] and found["copying"]["distances"]
    said = " ".join(capsys.readouterr().err.split())
    assert "context: the model reads 64 tokens at once, which are too few" in said and "text is too short" not in said


@pytest.mark.parametrize("missing", ["task", "data", "pfgen"])
def test_what_cannot_be_measured_is_said_before_anything_is(
    ours: Subject, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "read_texts", lambda *_: pytest.fail("the model has read for minutes"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if missing == "pfgen":
        settings, reason = Settings(pfgen=str(tmp_path)), "no pfgen.py"
    else:
        pytest.importorskip("lm_eval")
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "gone.json")}}}
        task = {"task": "gone", **source, "test_split": "test", "doc_to_text": "{{a}}", "doc_to_target": "{{b}}"}
        (tmp_path / "gone.yaml").write_text(yaml.safe_dump(task))
        settings = Settings(tasks=("other" if missing == "task" else "gone",), include=str(tmp_path))
        reason = "no task 'other'" if missing == "task" else "can't evaluate on gone"
    data = DataConfig(sources={"note": SourceConfig(path="note.txt", language="ja")})
    with pytest.raises(UserError, match=reason):
        measure(ours, data, {"note": ["川が海へ流れる。"]}, settings)
