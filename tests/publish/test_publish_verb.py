"""`sioconv publish`: what it refuses before any work, and a folder that is published already."""

import errno
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from sioconv.checksums import write_sums
from sioconv.cli import main as cli
from sioconv.cli.publishing.publish import PUBLISH
from tests.publish.conftest import SOURCES, MakeRun
from tests.publish.hub import WRITER, Hub


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["publish", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """What looks like a folder that the verb has written."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "provenance.json").write_text('{"format": "sioconv-published"}')
    (folder / "README.md").write_text("---\nlanguage: [ja]\nlicense: mit\nmodel-index: []\n---\n")
    write_sums(folder)
    return folder


def test_bad_arguments_are_one_line(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for arguments, why in (
        (["model"], "nowhere to publish to"),
        (["model", "--repo", "aoba/tiny"], "no token for the Hub"),
        ([str(published), "other"], "is published already"),
        ([str(published), "--repo", "aoba/tiny", "--dry-run", "--license", "mit"], "is published already"),
        (["nowhere", "out", "--license", "mit"], "no model folder at nowhere"),
    ):
        assert run(*arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and why in err, err
    for repo in ("a/b/c", "a b", "a//b", "/a"):
        assert run("nowhere", "--repo", repo, "--dry-run") == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "give NAME or OWNER/NAME" in err, err
    (published / "README.md").write_text("changed")
    assert run(str(published), "--repo", "aoba/tiny", "--dry-run") == 2
    assert "README.md isn't what was written" in capsys.readouterr().err


@pytest.mark.parametrize("at", [1, 4])
def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(
    at: int, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first of the folder's files, and before one in the middle."""
    left, copy = iter(range(at - 1, -1, -1)), shutil.copyfile
    run_folder = make_run()

    def copyfile(source: Path, target: Path) -> Path:
        if next(left) == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return copy(source, target)

    monkeypatch.setattr("shutil.copyfile", copyfile)
    capsys.readouterr()
    given = ["--license", "apache-2.0", "--author", "Aoba Lab"]
    assert run(str(run_folder / "model"), str(tmp_path / "hub" / "out"), *given) == 2
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert out == "" and "no disk space left: " in last and last.endswith(": free some space and run again"), err
    assert "Traceback" not in err and [*tmp_path.glob("hub/*"), *tmp_path.glob("hub/.*")] == []


def test_a_model_that_is_a_baseline_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_text("x")
    assert run(str(folder), str(tmp_path / "out"), "--license", "mit") == 2
    assert "holds a model of type 'llama'" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_published_folder_is_listed_and_pushed(
    hub: Hub, published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert run(str(published), "--repo", "aoba/tiny", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "README.md" in said and "nothing was pushed" in said and not hub.repositories
    assert run(str(published), "--repo", "aoba/tiny", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["repository"] == f"{hub.url}/aoba/tiny"
        and set(told["files"]) <= hub.repositories["aoba/tiny"].files.keys()
    )


GIVEN = ["--license", "apache-2.0", "--author", "Aoba Lab"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("out", [False, True])
def test_the_line_that_an_error_prints_goes_on_with_the_push(
    out: bool,
    hub: Hub,
    make_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without OUT the folder was a temporary one, with OUT it is in the way of the same line; the flags stay."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    model, folder = str(make_run() / "model"), str(tmp_path / "hub" / "my out")
    hub.fail["commit"] = [0] * 20
    line = [model, *([folder] if out else []), "--repo", "aoba/tiny", "--public", "--update", *GIVEN]
    for _ in range(2):  # also when the line that was printed is cut off
        assert run(*line) == 2
        said = capsys.readouterr().err
        found = re.search(r"was cut off .*: go on with sioconv publish (.*) \(what is there already", said)
        assert found, said
        line = shlex.split(found[1])
    sent = hub.count["put"]
    hub.fail = {}
    assert run(*line) == 0
    repository = hub.repositories["aoba/tiny"]
    assert not repository.private and len(repository.commits) == 1 and hub.count["put"] == sent
    assert (line[0] == folder) == out


@pytest.mark.usefixtures("quick")
def test_after_a_refusal_the_folder_that_was_written_is_named(
    hub: Hub, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    model, out = str(make_run() / "model"), str(tmp_path / "out")
    assert run(model, out, "--repo", "others/tiny", *GIVEN) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "may not write to others/tiny" in said and f"push it by sioconv publish {out} --repo others/tiny" in said
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert run(model, out + "2", "--repo", "aoba/tiny", *GIVEN) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"check the connection, then go on with sioconv publish {out}2 --repo aoba/tiny" in said


@pytest.mark.usefixtures("quick")
def test_a_licence_is_confirmed_by_the_option_alone(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the page and the error say it, before the folders and behind them."""
    model = str(make_run(SOURCES | {"rivers": SOURCES["rivers"] | {"licence": "CC-BY-SA-4.0"}}) / "model")
    assert run(model, str(tmp_path / "a"), *GIVEN) == 2
    assert "give --license-confirmed if you have the right" in capsys.readouterr().err
    assert run(model, str(tmp_path / "a"), *GIVEN, "--license-confirmed") == 0
    assert run("--license-confirmed", model, str(tmp_path / "b"), *GIVEN) == 0
    for out in ("a", "b"):
        assert "has confirmed the right" in (tmp_path / out / "README.md").read_text(encoding="utf-8")


def test_a_repository_with_other_content_is_left_alone_without_update(
    hub: Hub, published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert run(str(published), "--repo", "aoba/tiny") == 0
    files = hub.repositories["aoba/tiny"].files
    files |= {"README.md": b"mine", "other.txt": b"mine"}
    assert run(str(published), "--repo", "aoba/tiny") == 2
    assert "holds other content (README.md, other.txt)" in capsys.readouterr().err and files["other.txt"] == b"mine"
    assert run(str(published), "--repo", "aoba/tiny", "--update") == 0
    assert "other.txt" not in files and files["README.md"] == (published / "README.md").read_bytes()


def test_options_that_may_come_several_times_are_taken_once_or_more() -> None:
    given = ["model", "out", "--source_license", "rivers=MIT", "--variant", "q8=a", "--variant", "q4=b"]
    parsed = PUBLISH.parser().parse_args(given)
    assert parsed.source_license == ["rivers=MIT"]
    assert parsed.variant == ["q8=a", "q4=b"]
    assert parsed.state == []
