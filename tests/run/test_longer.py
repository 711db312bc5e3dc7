"""A finished run goes on: to the bit where that is promised, and otherwise it says so."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sioconv.cli.main import run as command
from sioconv.errors import UserError
from sioconv.model.folder import weights_sum
from sioconv.recipe.files import read_yaml
from sioconv.run import longer, stages
from sioconv.run.longer import More, take_more
from sioconv.train.checkpoint import checkpoints
from sioconv.train.config import TrainConfig
from sioconv.train.metrics import read_jsonl
from sioconv.train.optimizer import learning_rate, steps_before_fall
from tests.run.test_stages import load, state_of, write_workplace  # noqa: F401 - load is a fixture

RUN = Path("runs/rivers")
ALONE = ("--finetune.data.sources=null", "--data.sources.hills=null")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the texts of the recipe, without tuning."""
    monkeypatch.chdir(tmp_path)
    write_workplace(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", id)


def pretrain(*words: str) -> None:
    command(["pretrain", *words])


def weights(run: Path = RUN) -> str:
    return weights_sum(run / "base")


def rows(run: Path) -> list[dict[str, object]]:
    timed = ("seconds", "tokens_per_second")
    return [{key: row[key] for key in row if key not in timed} for row in read_jsonl(run / "metrics.jsonl")]


def test_a_longer_run_is_the_one_that_was_long_at_once_bit_for_bit(capsys: pytest.CaptureFixture[str]) -> None:
    pretrain("recipe.yaml")
    first = weights()
    assert [path.name for path in checkpoints(RUN / "checkpoints/pretrain")] == [
        f"step-{step:08d}" for step in (9, 10, 12)
    ]
    capsys.readouterr()
    pretrain("rivers", "--train.tokens", "+2048")  # 8 steps more
    said = capsys.readouterr().err
    assert "8 steps more, 20 in all; it goes on from step 9: 11 steps" in said
    assert "not the same" not in said
    assert weights() != first
    shutil.move("runs/rivers", "runs/longer")
    pretrain("longer/recipe.yaml".replace("longer", "runs/longer"), "--name=once")
    assert weights(Path("runs/once")) == weights(Path("runs/longer"))
    assert rows(Path("runs/once"))[-2:] == rows(Path("runs/longer"))[-2:]


def test_without_a_checkpoint_before_the_fall_it_goes_on_from_the_end_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain("recipe.yaml", "--train.keep_before_decay=false", "--train.keep_checkpoints=1")
    capsys.readouterr()
    monkeypatch.setattr(longer, "seconds_per_step", lambda path: 0.1)  # noqa: ARG005
    pretrain("runs/rivers", "--train.minutes=+0.01")
    said = capsys.readouterr().err
    assert "it goes on from step 12" in said
    assert "no checkpoint from before the learning rate fell is kept" in said
    assert rows(RUN)[-1]["step"] == read_yaml(RUN / "recipe.yaml")["train"]["tokens"] // 256 > 12


def test_asked_again_while_it_is_not_finished_the_same_longer_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain("recipe.yaml")
    whole, save = weights(), stages._save

    def fails(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(stages, "_save", fails)
    with pytest.raises(UserError, match="full"):
        pretrain("rivers", "--train.tokens=+2048")
    assert weights() == whole  # until the longer one is there
    with pytest.raises(UserError, match="at step 20 of 20: run sioconv pretrain runs/rivers to its end first"):
        pretrain("rivers", "--train.tokens=+1024")
    monkeypatch.setattr(stages, "_save", save)
    before = state_of(RUN / "checkpoints")
    pretrain("rivers", "--train.tokens=+2048")
    assert state_of(RUN / "checkpoints") == before
    assert weights() != whole
    assert weights_sum(RUN / "base") == weights_sum(RUN / "model") or (RUN / "model").exists() is False
    pretrain("rivers")  # is done: nothing more happens
    assert state_of(RUN / "checkpoints") == before


@pytest.mark.parametrize("written", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_crash_while_the_run_is_made_longer_is_mended(monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    """After the budget, and after the recipe too."""
    pretrain("recipe.yaml")
    name = "save_recipe" if written == 1 else "note_made"

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(longer, name, crash)
        with pytest.raises(KeyboardInterrupt):
            pretrain("rivers", "--train.tokens=+2048")
    pretrain("rivers")
    assert read_yaml(RUN / "recipe.yaml")["train"]["tokens"] == 3072 + 2048
    assert rows(RUN)[-1]["step"] == 20


def test_tuning_goes_on_and_other_conversations_get_a_run_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    command(["finetune", "recipe.yaml"])
    base, model = weights(), weights_sum(RUN / "model")
    command(["finetune", "rivers", "--finetune.train.tokens=+1024"])
    assert (weights(), weights_sum(RUN / "model") != model) == (base, True)
    assert [row["step"] for row in rows(RUN) if row["stage"] == "finetune"][-1] == 16
    Path("talks.yaml").write_text("finetune: {train: {lr: 0.001}}\n", encoding="utf-8")
    with pytest.raises(UserError, match="choose another --name"):
        command(["finetune", "rivers", "talks.yaml"])
    command(["finetune", "rivers", "talks.yaml", "--name=other"])
    assert not Path("runs/other/base").exists()
    assert read_yaml(Path("runs/other/recipe.yaml"))["finetune"]["from"] == "runs/rivers/base"
    assert weights_sum(Path("runs/other/model")) not in (model, base)
    capsys.readouterr()
    pretrain("rivers", "--train.tokens=+1024")
    command(["finetune", "rivers"])
    assert "since then the base model has changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--train.minutes=+3"], "no run at nowhere"),
        (["runs/empty", "--train.minutes=+3"], "has no checkpoint of pretrain to go on from: run sioconv pretrain"),
        (["rivers", "--train.minutes=+x"], "is no amount to add"),
        (["rivers", "--train.minutes=+-3"], "is no amount to add"),
        (["rivers", "--finetune.train.minutes=+3"], "write --train.minutes"),
        (["rivers", "--train.minutes=+3", "--train.tokens", "+3"], "two amounts"),
        (["--train.minutes=+3"], "no recipe"),
        (["recipe.yaml", "--train.minutes=+3"], "no run at recipe.yaml"),
    ],
)
def test_what_is_no_finished_run_is_refused_in_a_line(words: list[str], said: str) -> None:
    Path("runs/empty").mkdir(parents=True)
    shutil.copy("recipe.yaml", "runs/empty/recipe.yaml")
    with pytest.raises(UserError, match=said) as caught:
        pretrain(*words)
    assert "\n" not in str(caught.value)


def test_less_than_a_step_is_refused() -> None:
    pretrain("recipe.yaml")
    before = state_of(RUN)
    with pytest.raises(UserError, match="less than a step of pretrain, which has 256 tokens"):
        pretrain("rivers", "--train.tokens=+255")
    assert state_of(RUN) == before


def test_a_plus_is_taken_wherever_it_stands() -> None:
    assert take_more("pretrain", ["x", "--train.tokens", "+1e6", "--seed=1"]) == (
        More(1e6, "tokens"),
        ["x", "--seed=1"],
    )
    assert take_more("finetune", ["x", "--train.tokens", "1e6"]) == (None, ["x", "--train.tokens", "1e6"])


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 0.5), st.floats(0, 0.5), st.sampled_from(["wsd", "cosine"])
)
def test_before_the_fall_the_rates_are_those_of_a_longer_run(
    steps: int, more: int, warmup: float, decay: float, schedule: str
) -> None:
    config = TrainConfig(warmup=warmup, decay=decay, schedule=schedule)  # type: ignore[arg-type]
    changed = TrainConfig(warmup=longer._same_warmup(config, steps, steps + more), decay=decay, schedule="wsd")
    before = steps_before_fall(steps, config)
    assert 0 <= before <= steps
    for step in range(before):
        assert learning_rate(step, steps, config) == pytest.approx(
            learning_rate(step, steps + more, changed), rel=1e-12
        )
    if before < steps and schedule == "wsd":
        assert learning_rate(before, steps, config) < config.lr


def test_what_is_read_too_often_is_told_once_and_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(["data", "recipe.yaml"])
    command(["plan", "recipe.yaml"])
    assert "warning" not in capsys.readouterr().out
    command(["plan", "recipe.yaml", "--train.tokens=1e6"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert "this budget reads some text over 4 times: rivers " in line
    monkeypatch.setattr("sioconv.data.batches.repeats.MOST_TIMES", 0.01)
    pretrain("recipe.yaml")
    said = capsys.readouterr().err
    assert said.count("warning: this budget reads some text") == 1
    assert said.index("this budget reads") < said.index("12/12")
