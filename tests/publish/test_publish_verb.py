"""`sioconv publish`: what it refuses before any work, and a folder that is published already."""

import errno
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from sioconv.checksums import check_sums, write_sums
from sioconv.cli import main as cli
from sioconv.cli.publishing.publish import PUBLISH
from sioconv.errors import UserError
from sioconv.model.in_package import packaged_model
from sioconv.publish.config import PublishConfig
from sioconv.publish.copies import THIS_COPY
from sioconv.publish.folder import publish_folder
from tests.publish.conftest import SOURCES, MakeRun
from tests.publish.hub import WRITER, Hub


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["publish", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def published(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the verb has written; pushing it starts no new process."""
    monkeypatch.setattr("sioconv.publish.verify.verify_folder", lambda _: 0.0)
    publish_folder(make_run() / "model", tmp_path / "out", PublishConfig(license="mit", author="Aoba Lab"))
    return tmp_path / "out"


def test_bad_arguments_are_one_line(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for arguments, why in (
        (["model"], "nowhere to publish to"),
        (["model", "--repo", "aoba/tiny"], "no token for the Hub"),
        ([str(published), "other", "--author", "Me"], "is published already"),
        ([str(published), str(published)], "is there already"),
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
    (published / "README.md").unlink()
    (published / "SHA256SUMS").unlink()
    assert run(str(published), "--repo", "aoba/tiny", "--dry-run") == 2
    assert "has no README.md: publish the model again" in capsys.readouterr().err


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
    assert "other.txt" not in files and b'name = "aoba/tiny"' in files["README.md"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_card_that_is_pushed_names_its_repository(online: Hub, published: Path, tmp_path: Path) -> None:
    """Whatever the folder is called, and with one's own name before a short one; the folder itself stays."""
    before = contents(published)
    assert b'name = "out"' in before["README.md"]
    (published / ".cache").mkdir()  # as a folder has it that was downloaded
    (published / ".cache" / "note").write_text("mine")
    for given, full in (("aoba/tiny", "aoba/tiny"), ("short", "aoba/short")):
        for _ in range(2):  # the second time nothing is sent
            assert run(str(published), "--repo", given) == 0
        repository = online.repositories[full]
        assert len(repository.commits) == 1 and f'name = "{full}"'.encode() in repository.files["README.md"]
        (tmp_path / given).mkdir(parents=True)
        for name in ("README.md", "SHA256SUMS", "model.safetensors", "config.json"):
            (tmp_path / given / name).write_bytes(repository.files[name])
        sums = (tmp_path / given / "SHA256SUMS").read_text().splitlines()
        kept = [line for line in sums if (tmp_path / given / line.split("  ")[1]).exists()]
        (tmp_path / given / "SHA256SUMS").write_text("\n".join(kept) + "\n")
        check_sums(tmp_path / given)
        assert len(sums) == len(before) - 1 and not any(name.startswith(".cache") for name in repository.files)
    shutil.rmtree(published / ".cache")
    assert contents(published) == before


def test_what_is_pushed_was_loaded_before_as_a_stranger_does(
    online: Hub, published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(folder: Path) -> float:
        assert (folder / "modeling_sioconv.py").is_file()
        raise UserError("it can't be loaded without the package: broken")

    monkeypatch.setattr("sioconv.publish.verify.verify_folder", refuse)
    assert run(str(published), "--repo", "aoba/tiny") == 2
    assert "can't be loaded without the package" in capsys.readouterr().err and not online.repositories


@pytest.mark.usefixtures("quick")
def test_results_for_a_benchmark_are_under_checksums(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy's too, also of a folder whose version wrote none for them."""
    options = PublishConfig(license="mit", author="Aoba Lab", benchmark="aoba/bench")
    publish_folder(make_run() / "model", tmp_path / "out", options)
    (tmp_path / "out" / ".eval_results" / "SHA256SUMS").rename(tmp_path / "sums")
    assert run(str(tmp_path / "out"), str(tmp_path / "old")) == 0
    (tmp_path / "sums").rename(tmp_path / "out" / ".eval_results" / "SHA256SUMS")
    capsys.readouterr()
    for folder in (tmp_path / "out", tmp_path / "old"):
        assert run(str(folder), "--repo", "aoba/tiny", "--dry-run") == 0
        assert "warning" not in capsys.readouterr().err
        with (folder / ".eval_results" / "bits_per_byte.yaml").open("a") as file:
            file.write("- garbage: 1\n")
        assert run(str(folder), "--repo", "aoba/tiny", "--dry-run") == 2
        assert "bits_per_byte.yaml isn't what was written" in capsys.readouterr().err


def test_files_that_the_command_did_not_write_are_named(
    online: Hub, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(published), "--repo", "aoba/tiny", "--dry-run") == 0
    assert "warning" not in capsys.readouterr().err
    (published / "秘密.txt").write_text("mine")
    (published / ".hidden").write_text("stays here")
    shutil.copytree(published, tmp_path / "copy")
    (tmp_path / "copy").rename(published / "sub")  # another published folder, with checksums of its own
    assert run(str(published), "--repo", "aoba/tiny", "--dry-run") == 0
    said = capsys.readouterr().err
    assert "warning: no SHA256SUMS that sioconv publish has written names sub/LICENSE-code, sub/NOTICE, " in said
    shutil.rmtree(published / "sub")
    (published / "notes").mkdir()
    (published / "notes" / "a.txt").write_text("mine")
    assert run(str(published), str(tmp_path / "copy")) == 0
    assert "has written names notes/a.txt, 秘密.txt: it goes along as it is" in capsys.readouterr().err
    assert run(str(published), "--repo", "aoba/tiny") == 0
    assert "has written names notes/a.txt, 秘密.txt" in capsys.readouterr().err
    assert "秘密.txt" in online.repositories["aoba/tiny"].files


def test_a_copy_inside_of_what_is_copied_is_refused(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(published)
    for model, out in ((str(published), str(published / "sub")), (".", "deep/sub"), (".", "../out/sub")):
        assert run(model, out) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f"{out} is inside {model}, whose next copy would hold it" in said
    assert not [path for path in published.iterdir() if path.is_dir()]
    assert run(".", "../beside") == 0


def test_other_weights_than_the_provenance_names_are_refused(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray((published / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (published / "model.safetensors").write_bytes(data)
    write_sums(published)
    assert run(str(published), "--repo", "aoba/tiny", "--dry-run") == 2
    assert "holds other weights than its provenance.json names" in capsys.readouterr().err


@pytest.mark.slow
def test_the_model_of_the_package_is_published_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It lies there without code; what is published of it is loaded in a new process."""
    assert run(str(packaged_model()), str(tmp_path / "own")) == 0
    assert "it computes the same there" in capsys.readouterr().err
    check_sums(tmp_path / "own")
    card = (tmp_path / "own" / "README.md").read_text(encoding="utf-8")
    assert 'name = "own"' in card and "no code in the folder" not in card and card.count(THIS_COPY) == 1
    assert all((tmp_path / "own" / name).is_file() for name in re.findall(r"!\[.*\]\((.*)\)", card))
    origin = json.loads((tmp_path / "own" / "provenance.json").read_text(encoding="utf-8"))
    lines = (tmp_path / "own" / "SHA256SUMS").read_text().splitlines()
    assert f"{origin['weights_sha256']['model.safetensors']}  model.safetensors" in lines
    assert origin["quantised_from_sha256"] != origin["weights_sha256"]


@pytest.mark.usefixtures("quick")
def test_the_model_of_the_package_is_pushed_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(packaged_model())
    assert run(str(packaged_model()), "--repo", "aoba/own", "--dry-run", "--json") == 0
    assert {"modeling_sioconv.py", "LICENSE-code"} <= json.loads(capsys.readouterr().out)["files"].keys()
    assert contents(packaged_model()) == before


def test_options_that_may_come_several_times_are_taken_once_or_more() -> None:
    given = ["model", "out", "--source_license", "rivers=MIT", "--variant", "q8=a", "--variant", "q4=b"]
    parsed = PUBLISH.parser().parse_args(given)
    assert parsed.source_license == ["rivers=MIT"]
    assert parsed.variant == ["q8=a", "q4=b"]
    assert parsed.state == []
