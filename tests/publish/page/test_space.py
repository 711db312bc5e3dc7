"""`sioconv publish PAGE --repo NAME`: a page becomes a static Space, by huggingface_hub's client."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from sioconv.checksums import SUMS
from sioconv.cli import main as cli
from sioconv.publish.config import PublishConfig
from sioconv.publish.page.folder import export_page
from tests.publish.hub import WRITER, Hub

GIVEN = {"sdk": "static", "title": "river", "app_file": "index.html", "license": "mit"}


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["publish", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def exported(page_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `sioconv export page` makes, but for the runtime, which isn't on every machine, and the slow graph."""
    place = tmp_path_factory.mktemp("space")
    (place / "runtime").write_bytes(b"\0asm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sioconv.publish.page.folder.find_runtime", lambda _: place / "runtime")
        patch.setattr(
            "sioconv.publish.page.folder.write_graph", lambda *given: float(given[2].write_bytes(bytes(1000)) < 0)
        )
        export_page(page_model, place / "page", options=PublishConfig(license="mit"))
    return place / "page"


@pytest.fixture
def page(exported: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(exported, tmp_path / "page"))


@pytest.fixture
def space_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The server, as the command line's own."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    return hub


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_page_becomes_a_private_space(page: Path, space_hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(page, "--repo", "aoba/river", "--dry-run") == 0
    said, files = capsys.readouterr().out, contents(page)
    assert all(f"{len(data):,}  {name}\n" in said for name, data in files.items())
    assert "nothing was pushed to aoba/river" in said and not space_hub.repositories
    space_hub.fail["commit"] = [0] * 20
    assert run(page, "--repo", "aoba/river") == 2  # cut off: its line names what goes on
    assert f"sioconv publish {page} --repo aoba/river" in capsys.readouterr().err
    space_hub.fail = {}
    assert run(page, "--repo", "aoba/river", "--json") == 0
    assert json.loads(capsys.readouterr().out)["repository"] == f"{space_hub.url}/spaces/aoba/river"
    space = space_hub.repositories["spaces/aoba/river"]
    assert list(space_hub.repositories) == ["spaces/aoba/river"] and space.private and space.sdk == "static"
    assert {name: data for name, data in space.files.items() if name != ".gitattributes"} == files
    front = yaml.safe_load(space.files["README.md"].decode().split("---\n")[1])
    assert front | GIVEN == front


def test_a_space_that_exists_is_left_alone_without_update(
    page: Path, space_hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(page, "--repo", "river", "--public") == 0
    space = space_hub.repositories["spaces/aoba/river"]
    assert not space.private
    space.files["index.html"] = b"mine"
    assert run(page, "--repo", "river", "--public") == 2
    assert "holds other content (index.html)" in capsys.readouterr().err
    assert run(page, "--repo", "river", "--public", "--update") == 0
    assert space.files["index.html"] == (page / "index.html").read_bytes()


def test_a_page_that_is_not_whole_is_one_line(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(why: str, *more: str) -> None:
        assert run(page, "--repo", "aoba/river", "--dry-run", *more) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and why in err, err

    refused("is a page: give it --repo OWNER/NAME alone", "--license", "mit")
    first = page / "model/model.onnx.0"
    data = first.read_bytes()
    first.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused("model.onnx.0 isn't what was written")
    (page / "model" / SUMS).unlink()  # the manifest knows the weights too
    refused("model.onnx.0 isn't what was written")
    first.unlink()
    refused("is a page without its model/model.onnx.0: make it again with sioconv export page")
    first.write_bytes(data)
    card = (page / "README.md").read_text(encoding="utf-8")
    (page / "README.md").write_text(card.replace("static", "docker"), encoding="utf-8")
    refused("README.md isn't what was written")
    (page / SUMS).unlink()
    refused("README.md is no card of a static Space")
    (page / "README.md").write_text(card.replace("license: mit", "license: mine"), encoding="utf-8")
    refused("mine is no licence that the Hub knows")
    (page / "README.md").write_text("# river\n", encoding="utf-8")
    refused("README.md is no card of a static Space")
    (page / "sw.js").unlink()
    refused("is a page without its sw.js")


def test_what_the_export_did_not_write_is_named(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (page / "notes.txt").write_text("mine")
    assert run(page, "--repo", "aoba/river", "--dry-run") == 0
    assert "sioconv export page didn't write notes.txt: it goes along" in " ".join(capsys.readouterr().err.split())
    card = (page / "README.md").read_text(encoding="utf-8")
    (page / "README.md").write_text(card.replace("license: mit\n", ""), encoding="utf-8")
    (page / SUMS).unlink()
    assert run(page, "--repo", "aoba/river", "--dry-run") == 0
    assert "names no licence of the weights" in " ".join(capsys.readouterr().err.split())
