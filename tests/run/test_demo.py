"""The whole way in small: `sioconv demo` on the bundled text, what it leaves and prints, and running it again."""

import contextlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sioconv.cli import main as cli
from sioconv.errors import UserError
from sioconv.model.folder_code import FILE
from sioconv.recipe.schema import as_values, load_recipe, save_recipe
from sioconv.run import demo
from sioconv.train.metrics import KEYS, read_jsonl

TINY = str(Path(__file__).parents[1] / "recipe" / "tiny.yaml")
MODEL_FILES = {
    *("config.json", "model.safetensors", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "SHA256SUMS"),
    FILE,
}


@dataclass
class Finished:
    """A demo that has run: its folder, what it printed, and what its second run, with --json, printed and changed."""

    run: Path
    out: str
    err: str
    as_json: str
    again: str
    changed: set[str]

    @property
    def summary(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.run / "report" / "summary.json").read_text(encoding="utf-8"))
        return values


def call(*arguments: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        cli.main(arguments)
    assert ended.value.code == 0
    return out.getvalue(), err.getvalue()


def files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("demo")
    threads = torch.get_num_threads()
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIOCONV_INSTALL_SECONDS", "90")
        out, err = call("demo", "--recipe", TINY, "--name", "みやぎ")
        before = files(folder)
        as_json, again = call("demo", "--recipe", TINY, "--name", "みやぎ", "--json")
        after = files(folder)
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        yield Finished(folder / "runs" / "tiny", out, err, as_json, again, changed)
    torch.set_num_threads(threads)


def test_the_run_folder_is_as_documented(finished: Finished) -> None:
    run = finished.run
    assert {path.name for path in run.iterdir()} == {
        *("recipe.yaml", "metrics.jsonl", "samples.jsonl", "tensorboard", "tokenizer", "data"),
        *("checkpoints", "base", "model", "report", "made.json", "SHA256SUMS"),
    }
    for name in ("base", "model"):
        assert {path.name for path in (run / name).iterdir()} == MODEL_FILES
    sources = {"sentences_ja", "gazetteer_ja", "sentences_en", "places", "identity"}
    assert {path.name for path in (run / "data").iterdir()} == sources
    for source in sources:
        names = {path.name for path in (run / "data" / source).iterdir()}
        assert names - {".inputs.json"} == {"train", "heldout", "statistics.json", "report.md"}
    for name in ("checkpoints", "tensorboard"):
        assert {path.name for path in (run / name).iterdir()} == {"pretrain", "finetune"}
    assert {"index.html", "report.md", "summary.json"} <= {path.name for path in (run / "report").iterdir()}
    assert not [path for path in run.rglob(".*") if path.name not in (".metadata", ".inputs.json")]


def test_the_recipe_is_the_resolved_one(finished: Finished) -> None:
    recipe = load_recipe([str(finished.run / "recipe.yaml")])
    given = load_recipe([TINY])
    given.finetune.data.sources["identity"].path = "identity:みやぎ"
    assert as_values(recipe) == as_values(given)


def test_metrics_of_both_stages(finished: Finished) -> None:
    rows = read_jsonl(finished.run / "metrics.jsonl")
    assert all(tuple(row) == KEYS for row in rows)
    last = {stage: [row for row in rows if row["stage"] == stage][-1] for stage in ("pretrain", "finetune")}
    assert last["pretrain"]["tokens"] == 20_480
    assert last["finetune"]["tokens"] == 10_240
    train = [row["loss"] for row in rows if row["stage"] == "pretrain" and row["split"] == "train"]
    assert train[-1] < train[0]


def test_the_summary_has_what_machines_read(finished: Finished) -> None:
    summary = finished.summary
    languages = {"ja", "en"}
    sources = {"sentences_ja", "gazetteer_ja", "sentences_en"}
    for key in ("bpb", "bpb_tuned"):
        assert set(summary[key]) == languages | {"sources"}
        assert set(summary[key]["sources"]) == sources
        assert all(0 < summary[key][language] < 9 for language in languages)
    # The templated gazetteer has its own line and is in no total.
    assert summary["bpb"]["ja"] == pytest.approx(summary["bpb"]["sources"]["sentences_ja"])
    assert summary["bpb"]["sources"]["gazetteer_ja"] != summary["bpb"]["ja"]
    for language in languages:
        assert set(summary["yardsticks"][language]) >= {"xz_primed", "ngram7"}
        assert all(0 < summary["yardsticks"][language][name] < 8 for name in ("xz_primed", "ngram7"))
    chat = summary["chat"]
    assert chat["loss_after"] < chat["loss_before"]
    for kind in ("seen", "unseen"):
        assert chat[kind]["questions"] == 3
        assert all(0 <= chat[kind][share] <= 1 for share in ("ended", "in_language", "no_repeat", "right"))
    assert summary["parameters"] > 50_000
    assert summary["state_bytes"] == 2 * 2 * 32 * 4  # c and the last z
    assert summary["tokens"] == 20_480
    assert summary["tokens_per_second"] > 0
    assert 0 < summary["minutes"]["train"] <= summary["minutes"]["total"]


def test_the_first_run_knows_the_time_of_the_installation(finished: Finished) -> None:
    assert finished.summary["minutes"]["install"] == 1.5
    assert re.search(r"1\.5\s+min\s+install", " ".join(finished.out.split()))


def test_it_prints_results_and_the_lines_that_come_next(finished: Finished) -> None:
    out = finished.out
    for expected in (
        "bits per byte",
        "xz -9e",
        "byte 7-gram",
        "ja",
        "en",
        "gazetteer_ja",
        "宮城県(",
        "The ",
        "tokens/s",
    ):
        assert expected in out
    assert f"chat {Path('runs') / 'tiny' / 'model'}" in out
    assert "sioconv generate" in out
    assert "index.html" in out
    assert "[pretrain, start] 宮城県(" in finished.err
    assert "[pretrain, end] The " in finished.err
    assert "Traceback" not in finished.err


def test_the_lines_that_it_prints_work(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.run.parent.parent)
    (line,) = [line for line in finished.out.splitlines() if line.startswith("continue:")]
    assert line.endswith('generate runs/tiny/model "宮城県("')
    out, _ = call("generate", "runs/tiny/model", "宮城県(", "--max-new-tokens", "4", "--seed", "1")
    assert out.startswith("宮城県(")


def test_the_lines_that_come_next_name_what_was_trained() -> None:
    recipe = load_recipe(["demo"])
    folder = recipe.folder
    assert demo.trained(recipe) == (folder / "model", "")
    recipe.finetune.train.only = "initial_state"
    assert demo.trained(recipe) == (folder / "base", f" --state {folder / 'state.safetensors'}")
    recipe.finetune.base = "runs/other/base"
    assert demo.trained(recipe) == (Path("runs/other/base"), f" --state {folder / 'state.safetensors'}")
    recipe.finetune.data.sources = {}
    assert demo.trained(recipe) == (folder / "base", "")


def test_a_second_run_trains_nothing(finished: Finished) -> None:
    assert "pretrain: runs/tiny/base is there already" in finished.again
    assert "finetune: runs/tiny/model is there already" in finished.again
    assert {name.split("/", 2)[2].split("/")[0] for name in finished.changed} <= {"report"}
    assert [path.name for path in finished.run.parent.iterdir()] == ["tiny"]


def test_json_is_the_summary_and_nothing_else(finished: Finished) -> None:
    assert finished.as_json.count("\n") == 1
    assert json.loads(finished.as_json) == finished.summary


def test_the_report_and_the_evaluation_of_the_run(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.run.parent.parent)
    out, _ = call("report", "runs/tiny", "--json")
    assert out.count("\n") == 1
    assert json.loads(out)["bpb"] == finished.summary["bpb"]
    out, _ = call("evaluate", "runs/tiny/base", "--json", "--parts=text")
    measured = json.loads(out)
    assert set(measured["sources"]) == {"sentences_ja", "gazetteer_ja", "sentences_en"}
    # All of the held-out text, where the report has read the beginning.
    assert measured["sources"]["sentences_ja"]["bytes"] > finished.summary["heldout_bytes"]["ja"]
    assert measured["languages"]["ja"]["bpb"] == pytest.approx(finished.summary["bpb"]["ja"], rel=0.1)


# --------------------------------------------------------------------------------------------------------- settings


def test_minutes_are_shared_out_as_in_the_recipe() -> None:
    recipe = load_recipe(["demo.yaml"])
    share = (recipe.train.minutes or 0) / ((recipe.train.minutes or 0) + (recipe.finetune.train.minutes or 0))
    adapted = demo.adapt(recipe, 2.0, "みやぎ")
    assert adapted.train.minutes == pytest.approx(2.0 * share)
    assert adapted.finetune.train.minutes == pytest.approx(2.0 * (1 - share))
    paths = [source.path for source in adapted.finetune.data.sources.values()]
    assert paths.count("identity:みやぎ") == 1
    assert not [path for path in paths if path.startswith("identity:") and path != "identity:みやぎ"]


def test_without_minutes_the_recipes_are_kept() -> None:
    recipe = load_recipe(["demo.yaml"])
    assert demo.adapt(load_recipe(["demo.yaml"]), None, "シオ").train == recipe.train


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(minutes: float) -> None:
    with pytest.raises(UserError, match="--minutes"):
        demo.adapt(load_recipe(["demo.yaml"]), minutes, "シオ")


def test_another_architecture_is_refused_before_it_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("llama.yaml").write_text("name: llama\narchitecture: llama\ntrain: {tokens: 512}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"demo knows .* sioconv, not llama: take `sioconv pretrain llama\.yaml`"):
        demo.run_demo("llama.yaml", None, "シオ")
    assert not Path("runs").exists()


def test_a_run_with_other_settings_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(["demo.yaml"])
    demo.set_aside(recipe)
    assert list(tmp_path.iterdir()) == []
    save_recipe(recipe, recipe.folder / "recipe.yaml")
    (recipe.folder / "kept").touch()
    demo.set_aside(recipe)
    assert [path.name for path in Path("runs").iterdir()] == ["demo"]
    demo.set_aside(replace(recipe, seed=5))
    (moved,) = Path("runs").iterdir()
    assert re.fullmatch(r"demo-\d{8}-\d{6}", moved.name)
    assert (moved / "kept").exists()
