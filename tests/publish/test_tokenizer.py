"""`sioconv publish TOKENIZER`: a tokenizer alone, its card, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import AutoTokenizer

from sioconv.checksums import check_sums, write_sealed
from sioconv.cli import main as cli
from sioconv.data.tokenizer.tokenizer import encode_texts, load_tokenizer
from tests.conftest import TEXTS
from tests.publish.conftest import MakeRun
from tests.publish.hub import WRITER, Hub

GIVEN = ["--license", "apache-2.0", "--author", "Aoba *Lab*"]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["publish", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def tokenizer(make_run: MakeRun, tiny_model_folder: Path) -> Path:
    """The tokenizer's folder of a run, with its report."""
    place = make_run().parent / "tiny" / "tokenizer"
    shutil.copytree(tiny_model_folder.parent / "tokenizer", place)
    write_sealed(place / "tokenizer_report.json", {"sources": {"rivers": {"bytes_per_token": 2.25}}})
    return place


def test_a_tokenizer_is_listed_pushed_and_loaded_by_a_stranger(
    hub: Hub, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert run(tokenizer, "--repo", "aoba/tokens", *GIVEN, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "tokenizer.json" in said and "nothing was pushed to aoba/tokens" in said and not hub.repositories
    assert run(tokenizer, "--repo", "aoba/tokens", *GIVEN) == 0
    assert hub.repositories["aoba/tokens"].private
    files = {name: data for name, data in hub.repositories["aoba/tokens"].files.items() if name[0] != "."}
    names = {"README.md", "NOTICE", "SHA256SUMS", "provenance.json"}
    assert set(files) == names | {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    place = tmp_path / "there"
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    check_sums(place)
    data = ModelCard.load(place / "README.md").data
    assert (data.language, data.license, data.library_name) == (["ja", "en"], "apache-2.0", "transformers")
    text = files["README.md"].decode()
    assert 'name = "aoba/tokens"\n' in text and "| rivers | 2.250 |" in text
    assert "384 トークン" in text and r"Aoba \*Lab\*" in text and "More Information Needed" not in text
    assert "books" in files["NOTICE"].decode() and "/home/someone" not in "".join(map(str, files.values()))
    ids = AutoTokenizer.from_pretrained(place)(TEXTS, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert ids == encode_texts(load_tokenizer(tokenizer), TEXTS)


def test_what_was_written_is_pushed_as_it_is(
    hub: Hub, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    for place in ("a", "b"):
        assert run(tokenizer, tmp_path / place / "out", *GIVEN) == 0
    contents = [{file.name: file.read_bytes() for file in (tmp_path / place / "out").iterdir()} for place in ("a", "b")]
    assert contents[0] == contents[1] and json.loads(contents[0]["provenance.json"])["kind"] == "tokenizer"
    assert run(tmp_path / "a" / "out", "--repo", "aoba/tokens") == 0
    there = hub.repositories["aoba/tokens"].files
    changed = {name for name, data in contents[0].items() if there[name] != data}
    assert set(there) - {".gitattributes"} == set(contents[0]) and changed == {"README.md", "SHA256SUMS"}
    assert b'name = "aoba/tokens"' in there["README.md"] and b'name = "out"' in contents[0]["README.md"]
    (tmp_path / "a" / "out" / "tokenizer.json").write_text("{}")
    assert run(tmp_path / "a" / "out", "--repo", "aoba/tokens") == 2


def test_what_is_refused_is_one_line_and_leaves_nothing(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hub" / "out"
    capsys.readouterr()

    def refused(why: str, *arguments: str) -> None:
        assert run(tokenizer, out, *arguments) == 2
        said, err = capsys.readouterr()
        assert said == "" and err.count("\n") == 1 and why in err, err
        assert not list(tmp_path.glob("hub/*")) and not list(tmp_path.glob("hub/.*"))

    refused("the licence of the tokenizer isn't known: give --license", "--author", "Aoba")
    refused("who publishes the tokenizer isn't known: give --author", "--license", "mit")
    refused("--state is of models", *GIVEN, "--state", "a=b")
    recipe = tokenizer.parent / "recipe.yaml"
    recipe.write_text(recipe.read_text("utf-8").replace("licence: MIT", "licence: CC-BY-NC-4.0"), "utf-8")
    refused("books is CC-BY-NC-4.0: it forbids commercial use", *GIVEN)
    data = (tokenizer / "tokenizer.json").read_bytes()
    (tokenizer / "tokenizer.json").write_bytes(data[:-1])
    refused("tokenizer.json isn't what was written", *GIVEN)
    (tokenizer / "tokenizer.json").unlink()
    refused("tokenizer.json isn't there: train one or check the path", *GIVEN)


def test_a_tokenizer_without_a_run_has_a_card_without_languages(tokenizer: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(tokenizer, tmp_path / "words"))
    (place / "tokenizer_report.json").unlink()
    assert run(place, tmp_path / "out", *GIVEN) == 0
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert text.count("# words") == 1 and "language:" not in text and "tokens, published by" in text
    assert not (tmp_path / "out" / "NOTICE").exists()
