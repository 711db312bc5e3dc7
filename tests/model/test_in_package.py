"""The small model of the package: it is whole, small, and talks without being named."""

import json
from pathlib import Path

import pytest

from sioconv.checksums import check_sums
from sioconv.cli import main as cli
from sioconv.errors import UserError
from sioconv.model import in_package
from sioconv.model.in_package import packaged_model

MOST_BYTES = 8_000_000


def test_it_is_whole_and_small() -> None:
    folder = packaged_model()
    check_sums(folder)
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert {"README.md", "recipe.yaml", "provenance.json", "NOTICE", "model.safetensors"} <= files.keys()
    assert sum(files.values()) < MOST_BYTES
    assert not [name for name in files if name.endswith(".py")]


def test_chat_without_a_model_talks_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["chat", "-p", "あなたの名前は？", "-p", "Hello!", "--json", "--temperature", "0"])
    assert ended.value.code == 0
    name, hello = (json.loads(line)["reply"] for line in capsys.readouterr().out.splitlines())
    assert "シオ" in name
    assert hello.strip()


def test_a_copy_without_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(in_package, "__file__", str(tmp_path / "sioconv" / "model" / "in_package.py"))
    with pytest.raises(UserError, match=r"has no model .*: name a model folder or a Hub id"):
        packaged_model()
