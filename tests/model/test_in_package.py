"""The small model of the package: it is whole, small, and talks without being named."""

import json
from pathlib import Path

import pytest
import torch

from sioconv.checksums import check_sums
from sioconv.cli import main as cli
from sioconv.errors import UserError
from sioconv.evaluate.subject import load_subject
from sioconv.model import in_package, load_model_folder
from sioconv.model.in_package import NAME, packaged_model

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


def test_it_is_found_by_its_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the server and the cards call it; a folder here of that name goes first."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate", NAME, "宮城県(", "--max-new-tokens", "4"])
    assert ended.value.code == 0 and "宮城県(" in capsys.readouterr().out
    assert load_subject(NAME, torch.device("cpu")).model.config.quantization_config is not None
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="not a whole model folder"):
        load_model_folder(NAME)


def test_a_copy_without_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(in_package, "__file__", str(tmp_path / "sioconv" / "model" / "in_package.py"))
    with pytest.raises(UserError, match=r"has no model .*: name a model folder or a Hub id"):
        packaged_model()
