"""What is measured, part by part."""

import pytest

from sioconv.data.config import DataConfig, SourceConfig
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
    measure(ours, data, {"note": ["川が海へ流れる。" * 400]}, Settings(parts=("context", "copying")))
    assert "too short" not in capsys.readouterr().err
