"""`sioconv quantize`: a folder from a folder, with its figures."""

import json
from pathlib import Path

import pytest

from sioconv.cli.main import run
from sioconv.errors import UserError
from sioconv.model import load_model_folder
from sioconv.run.quantise import quantise
from tests.conftest import TEXTS


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXTS * 3), encoding="utf-8")
    return path


def test_the_figures_are_printed_and_stored(
    tiny_model_folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "few"
    run(["quantize", str(tiny_model_folder), str(out), "--text", str(text), "--json"])
    done = json.loads(capsys.readouterr().out)
    kept = json.loads((out / "config.json").read_text())["quantization_config"]
    assert kept["bits"] == 8 and kept["bits_per_byte"] == done["bits_per_byte"]
    assert done["weight_bytes"] < done["weight_bytes_before"] / 2
    assert abs(done["change"]) < 0.01
    assert done["change"] == pytest.approx(done["bits_per_byte"] / done["bits_per_byte_before"] - 1)
    assert {file.name for file in out.iterdir()} == {file.name for file in tiny_model_folder.iterdir()}
    assert load_model_folder(out)[0].generation_config.eos_token_id is not None
    run(["evaluate", str(out), "--text", str(text), "--json", "--parts=text"])
    assert json.loads(capsys.readouterr().out)["sources"][str(text)]["bpb"] == pytest.approx(done["bits_per_byte"])
    with pytest.raises(UserError, match="quantised already"):
        quantise(str(out), tmp_path / "fewer", "int8", str(text))


def test_nothing_is_written_where_it_can_t_be_done(tiny_model_folder: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for out, to, given, message in (
        ("there", "int8", str(text), "already there"),
        ("new", "int4", str(text), "use --to int8"),
        ("new", "int8", None, "give --text"),
        ("text.txt/new", "int8", str(text), "a file is in the way"),
    ):
        with pytest.raises(UserError, match=message):
            quantise(str(tiny_model_folder), tmp_path / out, to, given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "there"]
