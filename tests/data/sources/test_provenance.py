"""sioconv.data.sources.provenance: checksums are remembered as long as a file is the same."""

import os
from pathlib import Path

import pytest

from sioconv.data.config import SourceConfig
from sioconv.data.sources import provenance
from sioconv.data.sources.provenance import Checksums
from sioconv.data.sources.source import identify
from sioconv.errors import UserError
from sioconv.files import sha256_file


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counting(path: Path) -> str:
        read.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(provenance, "sha256_file", counting)
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"text": "x"}\n')

    def found() -> list[str]:
        checksums = Checksums(tmp_path / "memory.json")
        values = [part["sha256"] for part in identify(SourceConfig(str(tmp_path / "*.jsonl")), checksums)]
        checksums.save()
        return values

    first = found()
    assert found() == first and read == ["a.jsonl", "b.jsonl"]
    (tmp_path / "b.jsonl").write_text('{"text": "y"}\n')
    os.utime(tmp_path / "b.jsonl", (1, 1))
    assert found() == [first[0], sha256_file(tmp_path / "b.jsonl")] and found()[1] != first[1]
    assert read == ["a.jsonl", "b.jsonl", "b.jsonl"]
    (tmp_path / "memory.json").write_text("[broken")
    assert found()[0] == first[0] and len(read) == 5


def test_what_can_not_be_identified(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text found"):
        identify(SourceConfig(str(tmp_path / "no.jsonl")), Checksums(tmp_path / "memory.json"))
