"""The licence that a page gives the weights: compared with the model's own card, and with what it has read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sioconv.cli import main as cli
from sioconv.model.in_package import packaged_model
from sioconv.publish.config import PublishConfig
from sioconv.publish.folder import publish_folder
from sioconv.publish.terms import front
from tests.publish.conftest import SOURCES, MakeRun

Export = Callable[..., tuple[int, str]]
SHARED = SOURCES["rivers"] | {"licence": "CC-BY-SA-4.0"}


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Export:
    """`export(model, *options)`: the exit code and what was said; the page is in `out`, without runtime and graph."""
    (tmp_path / "runtime").write_bytes(b"\0asm")
    monkeypatch.setattr("sioconv.publish.page.folder.find_runtime", lambda _: tmp_path / "runtime")
    monkeypatch.setattr("sioconv.publish.page.folder.write_graph", lambda *given: float(given[2].write_bytes(b"0") < 0))

    def run(model: Path, *options: str) -> tuple[int, str]:
        text = tmp_path / "text.txt"
        text.write_text("A river flows to the sea.\n" * 20)
        with pytest.raises(SystemExit) as ended:
            cli.main(["export", "page", str(model), str(tmp_path / "out"), "--text", str(text), *options])
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.fixture
def published(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a licence that no text speaks against, with its text."""
    monkeypatch.setattr("sioconv.publish.verify.verify_folder", lambda _: 0.0)
    (tmp_path / "own.txt").write_text("Do as you like.")
    given = PublishConfig(license="Own 1", license_file=str(tmp_path / "own.txt"), author="Aoba Lab")
    publish_folder(make_run(tuned=False) / "base", tmp_path / "published", given)
    return tmp_path / "published"


def test_another_licence_than_the_models_own_is_refused(export: Export, tmp_path: Path) -> None:
    """The package's model has read text of Wikipedia."""
    code, said = export(packaged_model(), "--license", "mit")
    assert code == 2 and "own card says cc-by-sa-4.0, not mit: leave --license out, or give --license-conf" in said
    assert not (tmp_path / "out").exists()
    code, said = export(packaged_model(), "--license", "nonsense-1.0")
    assert code == 2 and "nonsense-1.0 is no licence that the Hub knows" in said
    code, said = export(packaged_model(), "--license", "cc-by-sa-4.0", "--run", "runs/demo")
    assert code == 2 and "is published already, with its facts: leave --run out" in said


def test_what_was_confirmed_stands_in_the_card(export: Export, published: Path, tmp_path: Path) -> None:
    code, said = export(published, "--license", "mit", "--license-confirmed")
    assert code == 0 and "own card says own-1, not mit; confirmed by --license-confirmed" in said
    card = tmp_path / "out/README.md"
    assert front(card)["license"] == "mit" and "license_name" not in front(card)
    text = card.read_text(encoding="utf-8")
    assert "Who made this has confirmed the right to publish under this licence although its own card says" in text
    assert "これを作った人 は、このライセンスで公開する権利があることを確認しています（its own card says" in text
    assert not (tmp_path / "out/LICENSE").exists()


def test_the_models_own_licence_comes_with_its_text(export: Export, published: Path, tmp_path: Path) -> None:
    assert export(published)[0] == 0
    facts = front(tmp_path / "out/README.md")
    assert {key: facts[key] for key in facts if key.startswith("license")} == {
        "license": "other", "license_name": "own-1", "license_link": "LICENSE",
    }  # fmt: skip
    assert (tmp_path / "out/LICENSE").read_text() == "Do as you like."


@pytest.mark.parametrize("options", [[], ["--run", "runs/tiny"]])
def test_the_text_of_a_run_is_looked_at(
    export: Export, make_run: MakeRun, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: dict[str, dict[str, Any]] = {"rivers": SHARED, "books": SOURCES["books"] | {"licence": ""}}
    run = make_run(sources, tuned=False)
    monkeypatch.chdir(tmp_path)
    model = run / "base"
    if options:
        model = model.rename(tmp_path / "elsewhere")
    code, said = export(model, "--license", "mit", *options)
    assert code == 2 and "the licence of the text books (hf:owner/books) isn't known: give --source-license" in said
    more = [*options, "--source-license", "books=MIT"]
    code, said = export(model, "--license", "mit", *more)
    assert code == 2 and "rivers is CC-BY-SA-4.0: it demands a licence of its own kind" in said
    assert export(model, "--license", "cc-by-sa-4.0", *more)[0] == 0
    assert front(tmp_path / "out/README.md")["license"] == "cc-by-sa-4.0"


def test_a_model_of_no_run_is_warned_of(export: Export, tiny_model_folder: Path) -> None:
    code, said = export(tiny_model_folder, "--license", "mit")
    assert code == 0 and "is in no run, so that the licences of its text aren't known: no NOTICE is made" in said


def test_the_base_that_a_model_was_tuned_from_counts(export: Export, make_run: MakeRun) -> None:
    """Its text and its licence: here the package's model."""
    run = make_run()
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8")
    assert "\n  from: null\n" in recipe
    recipe = recipe.replace("\n  from: null\n", f"\n  from: {packaged_model()}\n")
    (run / "recipe.yaml").write_text(recipe, encoding="utf-8")
    code, said = export(run / "model", "--license", "apache-2.0")
    assert code == 2 and "sioconv-ja-en-7m is cc-by-sa-4.0: it demands a licence of its own kind" in said
