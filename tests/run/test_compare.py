"""Several runs beside each other: the same text for all, differences with intervals, a page in two languages."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from sioconv.cli import main as cli
from sioconv.errors import UserError
from sioconv.evaluate.comparison.figures import RunFigures
from sioconv.evaluate.comparison.pictures import _curve
from sioconv.language import columns
from sioconv.model import load_model_folder, save_model_folder
from sioconv.recipe.schema import load_recipe, save_recipe
from sioconv.run.compare import _doubts, _names, compare, differences
from sioconv.train.metrics import KEYS

PLACES = ("宮城県", "福島県", "山形県", "秋田県", "岩手県", "青森県")


def row(step: int, split: str, loss: float, bpb: float | None = None) -> dict[str, Any]:
    values = {"stage": "pretrain", "step": step, "tokens": step * 512, "split": split, "loss": loss, "bpb": bpb}
    return dict.fromkeys(KEYS) | values | {"seconds": float(step), "source": None if bpb is None else "rivers"}


@pytest.fixture
def runs(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two runs on the same text; the second one's weights are another draw, and its recipe has another rate."""
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"{place}の第{n}の川は、山から海へ流れる。"} for place in PLACES for n in range(10)]
    Path("rivers.jsonl").write_text("\n".join(json.dumps(each) for each in rows), encoding="utf-8")
    made = []
    for number, name in enumerate(("first", "二つ目")):
        settings = ["--data.sources.rivers.path=rivers.jsonl", "--data.heldout=0.3", f"--name={name}"]
        recipe = load_recipe([], [*settings, "--train.tokens=1024", f"--train.lr={1e-3 * (1 + number)}"])
        run = Path("runs") / name
        run.mkdir(parents=True)
        save_recipe(recipe, run / "recipe.yaml")
        shutil.copytree(tiny_model_folder, run / "base")
        if number:
            model, tokenizer = load_model_folder(run / "base")
            shutil.rmtree(run / "base")
            with torch.no_grad():
                model.lm_head.weight.mul_(1.5)
            save_model_folder(model, tokenizer, run / "base", [tokenizer.eos_token_id])
        metrics = [row(1, "train", 6.0), row(2, "train", 5.0 - number), row(2, "heldout", 3.0, 2.0 - number / 10)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in metrics), encoding="utf-8")
        sample = {"stage": "pretrain", "step": 2, "tokens": 1024, "seconds": 2.0, "label": "end"}
        texts = [sample | {"prompt": "宮城県(", "text": "みやぎけん)<b>は"}]
        (run / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in texts), encoding="utf-8")
        made.append(str(run))
    return made


def test_the_page_has_the_figures_in_both_languages(runs: list[str]) -> None:
    found = compare(runs, Path("page"), pairs=2)
    assert json.loads(Path("page/comparison.json").read_text(encoding="utf-8")) == found
    assert {path.name for path in Path("page").iterdir()} == {
        *("index.html", "index.ja.html", "comparison.json"),
        *("curves.svg", "curves.png", "timescales.svg", "timescales.png"),
    }
    first, second = found["runs"]
    assert (first["name"], second["name"]) == ("first", "二つ目")
    assert second["settings"] == {"train.lr": "0.002"}
    assert set(first["bits"]) == {"ja", "rivers"}
    for name in first["bits"]:
        one, two = first["bits"][name], second["bits"][name]
        assert one["change"] == 0
        assert two["change"] == pytest.approx(two["bpb"] - one["bpb"])
        assert two["change_interval"][0] <= two["change"] <= two["change_interval"][1]
        # Pairs of the same documents tell two models apart far better than their own intervals do.
        width = two["change_interval"][1] - two["change_interval"][0]
        assert width < two["interval"][1] - two["interval"][0]
    pages = [Path("page", name).read_text(encoding="utf-8") for name in ("index.html", "index.ja.html")]
    for page in pages:
        assert f"{second['bits']['ja']['change']:+.4f}" in page
        assert "&lt;b&gt;" in page
        assert "<b>" not in page
        assert page.count("data:image/svg+xml;base64,") == 4
    assert "Runs compared" in pages[0]
    assert "学習の比較" in pages[1]


def test_one_document_gives_a_change_without_an_interval_and_no_sentence_about_it(
    runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["compare", *runs, "--pairs", "1", "--bytes", "1"])
    assert "…" not in capsys.readouterr().out
    found = json.loads(Path("comparison/comparison.json").read_text(encoding="utf-8"))
    assert all(bits["change_interval"] is None for run in found["runs"] for bits in run["bits"].values())
    assert "choice of these documents" not in Path("comparison/index.html").read_text(encoding="utf-8")
    compare(runs, Path("page"), pairs=1)
    assert "choice of these documents" in Path("page/index.html").read_text(encoding="utf-8")


def test_the_command_shows_the_change_and_names_the_page(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *runs, "--pairs", "1"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "二つ目" in out
    assert "(" in out
    assert out.endswith("page:  comparison/index.html\n")


def test_japanese_names_take_the_room_that_they_have(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["compare", *runs, "--pairs", "1"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("  first", "  二つ目"))]
    assert {columns(line.partition(".")[0]) for line in lines} == {columns("  二つ目  0")}


def test_curves_of_many_runs_differ_and_have_means_of_the_same_text_only() -> None:
    rows = [row(2, "heldout", 3.0, 2.0), row(2, "heldout", 3.0, 1.0) | {"source": "towns"}, row(4, "heldout", 2.0, 0.5)]
    run = RunFigures("a", {}, 1, {}, {}, (), [*rows[:2], *rows], {})
    axes = Figure().subplots()
    for number in range(12):
        _curve(axes, run, number, "heldout", "tokens")
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 12
    # Rows of a step that came twice count once; the last step was cut before its second source.
    assert list(axes.lines[0].get_ydata()) == [1.5]


def test_runs_that_may_have_read_the_held_out_text_are_named(
    runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe([f"{runs[1]}/recipe.yaml"])
    recipe.data.heldout = 0.01
    save_recipe(recipe, Path(runs[1], "recipe.yaml"))
    found = compare(runs, Path("page"), pairs=1)
    assert "二つ目 holds out another part of the text" in found["warnings"][0]
    assert "二つ目 holds out another part of the text" in capsys.readouterr().err
    page = Path("page/index.ja.html").read_text(encoding="utf-8")
    assert "二つ目 は、文章の別の部分を評価用に取り分けています。" in page


def test_a_run_that_has_read_more_is_named_and_its_source_is_one_line(runs: list[str]) -> None:
    recipe = load_recipe([f"{runs[1]}/recipe.yaml"], ["--data.sources.more.path=more.jsonl"])
    save_recipe(recipe, Path(runs[1], "recipe.yaml"))
    found = compare(runs, Path("page"), pairs=1)
    assert found["warnings"] == [
        "二つ目 has also read more.jsonl: if that holds the held-out text of first, its figures are too good"
    ]
    assert set(found["runs"][1]["settings"]) == {"train.lr", "data.sources.more.weight"}


def test_the_first_run_is_named_too_where_it_has_read_more() -> None:
    less = load_recipe([], ["--data.sources.a.path=a.jsonl", "--train.tokens=1024"])
    more = load_recipe([], ["--data.sources.a.path=a.jsonl", "--data.sources.b.path=b.jsonl", "--train.tokens=1024"])
    assert [(each.kind, each.run, each.source) for each in _doubts(["x", "y"], [more, less])] == [
        ("more_text", "x", "b.jsonl")
    ]
    assert [each.run for each in _doubts(["x", "y"], [less, more])] == ["y"]


def test_runs_of_one_name_are_told_apart_by_the_ends_of_their_paths() -> None:
    recipe = load_recipe([], ["--name=demo", "--data.sources.a.path=a.jsonl", "--train.tokens=1024"])
    far = "/long/way/to/it"
    runs = [Path(far, end) for end in ("one/runs/demo", "two/runs/demo", "two/runs/again")]
    assert _names(runs, [recipe] * 3) == ["one/runs/demo", "two/runs/demo", "again"]
    assert _names(runs[:1], [recipe]) == ["demo"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda runs: runs[:1], "1 different runs are named: name two or more"),
        (lambda runs: [runs[0], runs[0]], "1 different runs are named: name two or more, each once"),
        (lambda runs: [runs[0], "runs"], "no run at runs, but below it"),
    ],
)
def test_what_can_t_be_compared_is_said(runs: list[str], change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(change(runs), Path("page"))
    assert not Path("page").exists()


def test_another_folder_is_not_overwritten(runs: list[str]) -> None:
    Path("mine").mkdir()
    Path("mine/diary.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="holds no comparison"):
        compare(runs, Path("mine"))


def test_only_what_differs_is_shown() -> None:
    one = {"name": "a", "seed": 0, "model": {"num_heads": 4, "preset": "x"}, "finetune": {"base": None}}
    two = copy.deepcopy(one) | {"name": "b", "model": {"num_heads": 8, "preset": "x", "trapezoid": True}}
    assert differences([one, two]) == [
        {"model.num_heads": "4", "model.trapezoid": "–"},
        {"model.num_heads": "8", "model.trapezoid": "True"},
    ]
