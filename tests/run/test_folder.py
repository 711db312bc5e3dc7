"""A run's folder: who works in it, what a killed command has left there, links in it."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sioconv.errors import UserError
from sioconv.files import Whereabouts
from sioconv.model import load_model_folder
from sioconv.recipe.schema import Recipe, load_recipe
from sioconv.run import stages
from sioconv.run.folder import MADE, at_work, made_by, only_one, why_no_run
from sioconv.train import loop
from sioconv.train.metrics import METRICS, MetricsLog
from tests.faults.workplace import RUN, hidden, result, write_workplace

Load = Callable[..., Recipe]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """`load(*files and overrides)`: a small recipe, in a folder that has its texts."""
    monkeypatch.chdir(write_workplace(tmp_path / "work"))
    monkeypatch.setattr(loop, "matrix_speed", lambda *_: 1e9)  # what is shown on the terminal, and nothing else
    threads = torch.get_num_threads()
    yield lambda *overrides: load_recipe(["recipe.yaml"], overrides)
    torch.set_num_threads(threads)


def weights(name: str) -> torch.Tensor:
    found: torch.Tensor = load_model_folder(RUN / name)[0].state_dict()["lm_head.weight"]
    return found


def test_a_folder_is_worked_in_by_one_and_free_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    with only_one(folder), pytest.raises(UserError, match="another process is working in") as refused, only_one(folder):
        pass
    assert str(folder) in str(refused.value)
    with only_one(folder), only_one(tmp_path / "runs" / "other"):
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("verb", ["make_tokenizer", "make_data", "pretrain", "finetune"])
def test_every_stage_is_refused_while_another_works(load: Load, verb: str) -> None:
    recipe = load()
    with only_one(recipe.folder), pytest.raises(UserError, match="another process is working in runs/small"):
        getattr(stages, verb)(recipe)
    assert list(recipe.folder.iterdir()) == []


def test_a_report_is_refused_while_another_works(load: Load) -> None:
    recipe = load()
    with only_one(recipe.folder), pytest.raises(UserError, match="another process is working in runs/small"):
        stages.report(recipe, recipe.folder)


def test_what_a_killed_command_has_left_goes_and_the_users_own_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    half = [
        *(".model.0a1b2c3d", ".base.abcd_f01", ".report.12345678", ".tokenizer.12345678.old", ".recipe.yaml.12345678"),
        *("data/a/.statistics.json.12345678", "data/a/train/.00000.ds.mask.12345678", "tokenizer/.SHA256SUMS.12345678"),
        *("checkpoints/pretrain/.plan.json.12345678", "checkpoints/pretrain/.step-00000002.12345678"),
    ]
    own = [".gitignore", ".cache.settings", ".model", "data/.a.12345678", "notes/.model.12345678", "model.12345678"]
    for name in half + own:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("half", encoding="utf-8")
    for name in (".model.11111111", "checkpoints/pretrain/.step-00000009.aaaaaaaa"):
        (run / name / "deep").mkdir(parents=True)
    (run / "tokenizer").rename(run / "tokenizer-was")
    (run / "tokenizer-was").rename(run / "tokenizer")
    with at_work(run):
        pass
    kept = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert kept == {*own}


def test_what_was_moved_aside_comes_back_where_nothing_took_its_place(tmp_path: Path) -> None:
    (tmp_path / ".model.12345678.old").mkdir(parents=True)
    (tmp_path / ".model.12345678.old" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / ".model.12345678").mkdir()
    with at_work(tmp_path):
        assert (tmp_path / "model" / "config.json").read_text(encoding="utf-8") == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_that_was_only_pretrained_is_tuned_and_not_taken_for_the_tuned_one(load: Load) -> None:
    """As docs/data.md has it: `pretrain mine.yaml`, then `finetune mine.yaml talks.yaml`."""
    alone = load()
    alone.finetune.data.sources = {}
    stages.pretrain(alone)
    assert torch.equal(weights("model"), weights("base"))
    assert made_by(RUN)["model"]["stage"] == "pretrain"
    stages.finetune(load())
    assert not torch.equal(weights("model"), weights("base"))
    assert made_by(RUN)["model"]["stage"] == "finetune"
    assert not hidden(RUN)


def test_so_is_that_of_a_run_of_an_older_version(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """Which doesn't say what made its models."""
    alone = load()
    alone.finetune.data.sources = {}
    stages.pretrain(alone)
    for name in (MADE, "SHA256SUMS", "base/SHA256SUMS", "model/SHA256SUMS"):
        (RUN / name).unlink()
    stages.finetune(load())
    assert not torch.equal(weights("model"), weights("base"))
    (RUN / MADE).unlink()
    shutil.rmtree(RUN / "checkpoints")
    capsys.readouterr()
    stages.finetune(load())
    assert "finetune: runs/small/model is there already" in capsys.readouterr().err


def test_a_finished_stage_is_refused_for_another_recipe_also_without_its_checkpoints(load: Load) -> None:
    stages.finetune(load())
    shutil.rmtree(RUN / "checkpoints")
    for override in ("--train.lr=1e-4", "--finetune.train.lr=1e-4"):
        with pytest.raises(UserError, match=r"runs/small was made with another recipe: .*lr"):
            stages.finetune(load(override))


def test_a_model_that_is_missing_beside_its_base_is_put_there(load: Load) -> None:
    alone = load()
    alone.finetune.data.sources = {}
    stages.pretrain(alone)
    before = result(RUN)
    shutil.rmtree(RUN / "model")
    stages.pretrain(alone)
    assert result(RUN) == before


def test_text_that_has_changed_is_named_when_a_stage_goes_on(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    stages.finetune(load())
    shutil.rmtree(RUN / "model")
    newest = sorted((RUN / "checkpoints" / "finetune").glob("step-*"))[-1]
    shutil.rmtree(newest)
    with Path("talks.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(Path("talks.jsonl").read_text(encoding="utf-8").replace("第", "全く別の第"))
    with Path("rivers.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"text": "全く別の文書"}\n' * 9)
    capsys.readouterr()
    stages.finetune(load())
    said = " ".join(capsys.readouterr().err.split())
    assert "pretrain: runs/small/base is there already; since then the text of rivers has changed" in said
    assert "finetune: the text of talks has changed since this stage began" in said


@pytest.mark.parametrize("what", ["renamed", "removed", "replaced"])
def test_a_folder_that_goes_while_it_is_worked_in_is_said_in_one_line(tmp_path: Path, what: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    place, log = Whereabouts(run), MetricsLog(run, "pretrain", 0)
    place.check()
    if what == "removed":
        shutil.rmtree(run)
    else:
        run.rename(tmp_path / "elsewhere")
    if what == "replaced":
        run.mkdir()
    else:
        with pytest.raises(UserError, match=r"run is no longer there: it was renamed or removed"):
            log.write(step=1, tokens=1, split="train", loss=1.0)
        assert not run.exists()
    with pytest.raises(UserError, match=r"run is no longer there: it was renamed or removed"):
        place.check()
    log.close()


def test_a_run_whose_folder_is_renamed_stops_and_goes_on_under_the_new_name(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.finetune(load("--name=whole"))
    step, count = loop.Trainer._step, [0]

    def renaming(self: loop.Trainer, *arguments: object) -> object:
        count[0] += 1
        if count[0] == 3:
            RUN.rename("runs/other")
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Trainer, "_step", renaming)
    with pytest.raises(UserError, match="runs/small is no longer there"):
        stages.finetune(load())
    assert not RUN.exists()
    Path("runs/other").rename(RUN)
    stages.finetune(load())
    assert torch.equal(weights("model"), load_model_folder("runs/whole/model")[0].state_dict()["lm_head.weight"])
    assert not hidden(RUN)


def link_away(path: Path) -> Path:
    """Moves something elsewhere and leaves a link in its place; returns where it is now."""
    away = Path("elsewhere").absolute() / path.name
    away.parent.mkdir(exist_ok=True)
    path.rename(away)
    path.symlink_to(away)
    return away


@pytest.mark.parametrize(
    "name", ["runs", "runs/small", "runs/small/model", "runs/small/checkpoints", "runs/small/data"]
)
def test_a_link_in_the_place_of_a_folder_is_all_the_same(load: Load, name: str) -> None:
    alone = load()
    alone.finetune.data.sources = {}
    stages.pretrain(alone)
    away = link_away(Path(name))
    before = {path: path.read_bytes() for path in away.rglob("*.safetensors")}
    stages.finetune(load())
    assert not torch.equal(weights("model"), weights("base"))
    assert Path(name).is_symlink() == (name != "runs/small/model")
    if name == "runs/small/model":  # the link gave way; what it led to is as it was
        assert {path: path.read_bytes() for path in away.rglob("*.safetensors")} == before
    assert not hidden(RUN)


@pytest.mark.parametrize(
    "name",
    [
        *("recipe.yaml", "metrics.jsonl", "samples.jsonl", "made.json", "SHA256SUMS", "model", "base", "tokenizer"),
        *("checkpoints/finetune/step-00000002", "checkpoints/finetune/plan.json", "data/talks/train", "report"),
        *("data/talks/statistics.json", "data/talks/train/manifest.json", "tensorboard", ".model.12345678"),
    ],
)
@pytest.mark.parametrize("leads", ["nowhere", "to itself"])
def test_a_link_that_leads_nowhere_is_never_a_traceback(load: Load, name: str, leads: str) -> None:
    stages.make_data(load())
    path = RUN / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.name if leads == "to itself" else "nowhere")
    try:
        stages.finetune(load())
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert not hidden(RUN)


def test_metrics_are_one_file_whoever_looks(tmp_path: Path) -> None:
    """Its checksum follows it row by row, and what a crash leaves after it is no damage."""
    from sioconv.train.metrics import read_jsonl

    log = MetricsLog(tmp_path, "pretrain", 0)
    for step in (1, 2):
        log.write(step=step, tokens=step, split="train", loss=1.0)
    log.close()
    path = tmp_path / METRICS
    assert len(read_jsonl(path)) == 2
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2 + 9])
    assert len(read_jsonl(path)) == 3
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"metrics\.jsonl isn't what was written"):
            read_jsonl(path)
    log = MetricsLog(tmp_path, "pretrain", 1)
    log.close()
    assert read_jsonl(path) == [] and (tmp_path / f"damaged-{METRICS}").is_file()


def test_a_path_that_is_no_run_says_which_run_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a/recipe.yaml", "runs/b/recipe.yaml", "runs/.c/recipe.yaml", "runs/b/model/config.json"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("name: a\n")
    for path, said in (
        ("runs", "below it: give runs/a or runs/b"),
        (".", "below it: give runs/a or runs/b"),
        ("runs/b/model", "it is in one: give runs/b"),
        ("runs/b/recipe.yaml", "it is in one: give runs/b"),
        ("runs/bb", "there is no bb in .*did you mean b"),
        ("\0", "there is no"),
    ):
        assert re.search(said, why_no_run(Path(path))), (path, why_no_run(Path(path)))
    (tmp_path / "empty").mkdir()
    assert "it holds no recipe.yaml: give a folder that `sioconv pretrain` made" in why_no_run(Path("empty"))


def test_what_a_killed_tuning_has_left_goes_with_the_next_command(load: Load) -> None:
    left = Path("runs/.tuning.0123abcd")
    left.mkdir(parents=True)
    (left / "own1.jsonl").write_text("{}", encoding="utf-8")
    stages.make_tokenizer(load())
    assert [path.name for path in Path("runs").iterdir()] == ["small"]


def test_a_source_that_is_not_there_is_told_before_anything_is_made(load: Load) -> None:
    Path("talks.jsonl").rename("elsewhere.jsonl")
    with pytest.raises(UserError, match=r"there is no talks\.jsonl"):
        stages.make_data(load())
    assert [path.name for path in RUN.iterdir()] == []
