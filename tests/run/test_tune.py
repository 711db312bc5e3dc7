"""sioconv.run.tune: own files on top of a base by the stages of a run, asked before and after."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from sioconv.checksums import check_sums
from sioconv.cli import main as cli
from sioconv.errors import UserError
from sioconv.importing.options import ImportOptions
from sioconv.model.in_package import packaged_model
from sioconv.recipe.schema import load_recipe
from sioconv.run import stages
from sioconv.run.tune import ANSWERS, PACKAGED, TuneOptions, find_base, tune
from tests.test_docs_commands import DEMO, SMALL

SET = [
    f"finetune.train.{key}={value}"
    for key, value in (("tokens", 1024), ("sequence_length", 64), ("batch_size", 4), ("device", "cpu"), ("threads", 1))
]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run `demo` of a tiny model, and files of one's own."""
    monkeypatch.chdir(tmp_path)
    rivers = [{"text": f"第{n}の川は、山から海へ流れる。海の水は空へ昇り、雨になって山へ帰る。"} for n in range(40)]
    talks = [
        {"messages": [{"role": "user", "content": f"第{n}の川は？"}, {"role": "assistant", "content": "海じゃ。"}]}
        for n in range(40)
    ]
    for name, rows in (("rivers", rivers), ("talks", talks)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("demo.yaml").write_text(DEMO, encoding="utf-8")
    stages.finetune(load_recipe(["demo.yaml"], [f"--{key}={value}" for key, value in SMALL.items()]))
    lines = [f"10:{n:02}\t{('太郎', '花子')[n % 2]}\t第{n}の話じゃ\n" for n in range(40)]
    days = [f"2024/01/{n // 2 + 1:02}(月)\n{lines[n]}{lines[n + 1]}" for n in range(0, 40, 2)]
    Path("line.txt").write_text("[LINE] 太郎とのトーク履歴\n" + "".join(days), encoding="utf-8")
    Path("diary.txt").write_text("今日は川へ行った。\n" * 50, encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("base")
def test_conversations_text_and_persona_are_tuned_on_the_bases_own() -> None:
    options = TuneOptions("花子", persona="わしは花子じゃ。", questions=2)
    done = tune(["line.txt", "talks.jsonl", "diary.txt"], options, ImportOptions(["花子"]), SET)
    recipe = load_recipe([f"{done.run}/recipe.yaml"])
    sources = recipe.finetune.data.sources
    assert set(sources) == {"own1", "own2", "own3", "identity", "persona", "base_rivers", "base_talks"}
    assert sum(source.weight for source in sources.values()) == pytest.approx(1)
    assert sources["base_rivers"].weight + sources["base_talks"].weight == pytest.approx(0.3)
    assert recipe.finetune.base == "runs/demo/model"
    assert sources["own2"].path == "talks.jsonl" and sources["own3"].kind == "text"
    for name in ("own1", "own3", "persona"):
        assert Path(sources[name].path).stat().st_mode & 0o777 == 0o600
    assert Path(done.model, "model.safetensors").is_file()
    assert sources["identity"].config == "who"
    defaults = json.loads(Path(done.model, "generation_config.json").read_text(encoding="utf-8"))
    assert (defaults["do_sample"], defaults["temperature"]) == (True, 0.5)
    check_sums(Path(done.model))
    assert len(done.answers) == 2 and all(answer.question and answer.own for answer in done.answers)
    assert done.loss[0] is not None and done.loss[1] is not None
    assert json.loads(Path("runs/花子/answers.json").read_text(encoding="utf-8"))["model"] == done.model

    weights = Path(done.model, "model.safetensors").read_bytes()
    again = tune(["line.txt", "talks.jsonl", "diary.txt"], options, ImportOptions(["花子"]), SET)
    assert [answer.after for answer in again.answers] == [answer.after for answer in done.answers]
    assert Path(done.model, "model.safetensors").read_bytes() == weights

    Path("diary.txt").write_text("今日は山へ行った。\n" * 50, encoding="utf-8")
    tune(["line.txt", "talks.jsonl", "diary.txt"], options, ImportOptions(["花子"]), SET)
    assert len(list(Path("runs").glob("花子-*"))) == 1  # what was made of other files is kept


@pytest.mark.usefixtures("base")
def test_the_verb_ends_with_the_line_that_starts_a_chat(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "talks.jsonl", "--name", "ゲン", "--questions", "1", *(f"--set={each}" for each in SET)]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "\n1. 第" in said and "   before" in said and "   after" in said and "   yours   海じゃ。" in said
    assert said.rstrip().endswith("chat 'runs/ゲン/model'") or said.rstrip().endswith("chat runs/ゲン/model")


@pytest.mark.usefixtures("base")
def test_a_recipe_is_tuned_by_and_asked_after() -> None:
    tuning = (
        "finetune:\n  from: runs/demo/base\n  data: {heldout: 0.2, sources: {talks: {path: talks.jsonl, kind: chat}}}\n"
    )
    Path("mine.yaml").write_text(tuning, encoding="utf-8")
    done = tune(["mine.yaml"], TuneOptions("mine", questions=1), ImportOptions(), SET)
    assert done.base == "runs/demo/base" and done.answers[0].own == "海じゃ。"


def test_what_cant_be_a_base_is_refused(base: Path) -> None:
    assert find_base(None, "x")[0] == Path("runs/demo/model")
    assert find_base("runs/demo/base", "x")[1] is not None
    for given, name, problem in (
        ("runs/demo", "demo", "into itself"), ("runs/none", "x", "no base at runs/none"),
        (str(base), "x", "holds no model"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=problem):
            find_base(given, name)
    for options in (
        TuneOptions("x", replay=2),
        TuneOptions("x", passes=0),
        TuneOptions(""),
        TuneOptions("x", questions=-1),
    ):
        with pytest.raises(UserError):
            tune(["talks.jsonl"], options, ImportOptions())


def test_without_a_run_the_packages_model_is_the_base(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (base / "runs" / "demo" / ANSWERS).write_text("{}")  # a persona is no base for another one
    place, recipe = find_base(None, "x")
    assert place == packaged_model() and "the model of the package, as there is no run here" in capsys.readouterr().err
    assert recipe is not None and find_base(PACKAGED, "x")[0] == place
    sources = [*recipe.data.sources.values(), *recipe.finetune.data.sources.values()]
    assert sources and all(source.origin in ("bundled", "identity") for source in sources)
    monkeypatch.chdir(base / "runs")
    assert find_base(None, "x")[0] == place


@pytest.mark.usefixtures("base")
def test_own_conversations_are_copied_to_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    seen: list[Path] = []

    def imports(_files: Sequence[Path], out: Path, _: ImportOptions) -> None:
        assert out.parent.parent == Path("runs") and out.parent.stat().st_mode & 0o777 == 0o700
        seen.extend(elsewhere.iterdir())
        raise UserError("killed here")

    monkeypatch.setattr("sioconv.run.tune.import_files", imports)
    with pytest.raises(UserError, match="killed here"):
        tune(["line.txt"], TuneOptions("花子"), ImportOptions(["花子"]), SET)
    assert seen == [] and [path.name for path in Path("runs").iterdir()] == ["demo"]
