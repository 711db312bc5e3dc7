"""The training step against its definition, and runs that are stopped and go on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sioconv.data.batches.loader import Batch
from sioconv.errors import UserError
from sioconv.model import SioConvForCausalLM
from sioconv.train import loop
from sioconv.train.budget import write_budget
from sioconv.train.checkpoint import checkpoints
from sioconv.train.loop import Trainer, is_due
from sioconv.train.metrics import KEYS, read_jsonl
from sioconv.train.validation import Validation
from tests.train import small

MakeTrainer = Callable[..., Trainer]
MakeModel = Callable[..., SioConvForCausalLM]
TIMES = ("seconds", "tokens_per_second")


class KilledError(Exception):
    """Stands for the end of the process in the middle of a step."""


def kill_at(step: int, batch_size: int = 4) -> Callable[[int], None]:
    """Ends the process while it fetches the windows of `step` (counted from 1)."""

    def on_batch(first: int) -> None:
        if first == (step - 1) * batch_size:
            raise KilledError

    return on_batch


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.stepper.model.state_dict().items()}


def gradients(trainer: Trainer, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    trainer.stepper.clear()
    loss = trainer.stepper.gradients(batch)
    found = {name: value.grad for name, value in trainer.stepper.model.named_parameters()}
    return loss, {name: torch.zeros(()) if grad is None else grad.clone() for name, grad in found.items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def rows(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Rows without what depends on the clock."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in read_jsonl(run / name)]


@pytest.fixture
def uneven(make_trainer: MakeTrainer) -> Batch:
    """Four windows with different numbers of tokens that count; none counts in the second."""
    batch = make_trainer().windows.batch(0, 4)
    batch.targets[1] = -100
    batch.targets[2, :9] = -100
    return batch


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_the_loss_is_the_mean_over_the_tokens_that_count(
    make_trainer: MakeTrainer, make_model: MakeModel, uneven: Batch, accumulation: int
) -> None:
    model = make_model()
    logits = model(uneven.input_ids, reset=uneven.reset, use_cache=False).logits
    assert len({int((row != -100).sum()) for row in uneven.targets}) >= 3
    wanted = F.cross_entropy(logits.flatten(0, 1), uneven.targets.flatten(), ignore_index=-100)
    wanted.backward()
    loss, grads = gradients(make_trainer(accumulation=accumulation), uneven)
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_accumulation_does_not_change_the_result(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    one, four = (make_trainer(run=tmp_path / str(n), accumulation=n) for n in (1, 4))
    one.train()
    four.train()
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(four)[name], value, rtol=1e-3, atol=1e-4)


def test_windows_without_anything_to_learn_change_nothing(make_trainer: MakeTrainer, uneven: Batch) -> None:
    uneven.targets[:] = -100
    trainer = make_trainer(accumulation=2)
    loss, grads = gradients(trainer, uneven)
    assert loss == 0.0
    assert all(float(grad.abs().max()) == 0.0 for grad in grads.values())


@pytest.mark.parametrize(
    ("options", "only"), [({}, "all"), ({"conv_width": 2, "gate": "channel"}, "all"), ({}, "initial_state")]
)
def test_recomputing_the_blocks_gives_the_same_gradients(
    make_trainer: MakeTrainer, make_model: MakeModel, uneven: Batch, options: dict[str, Any], only: str
) -> None:
    results = [
        gradients(make_trainer(model=make_model(**options), activation_checkpointing=on, only=only), uneven)
        for on in (False, True)
    ]
    assert results[0][0] == results[1][0]
    assert_same(results[0][1], results[1][1])


def test_state_tuning_says_how_much_is_trained_and_learns(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(steps=40, only="initial_state", lr=0.3, checkpoint_every=0)
    trainer.train()
    said = capsys.readouterr().err
    assert f"{trainer.stepper.parameters:,} parameters, 64 of them trained" in " ".join(said.split())
    assert trainer.stepper.operations_per_token == 4 * trainer.stepper.matrix_parameters
    losses = [row["loss"] for row in rows(trainer.run_folder) if row["split"] == "train"]
    assert losses[-1] < losses[0]


def test_bf16_stays_near_fp32(make_trainer: MakeTrainer, uneven: Batch) -> None:
    trainer = make_trainer()
    exact = trainer.stepper.gradients(uneven)
    half = make_trainer(precision="bf16")
    assert half.stepper.gradients(uneven) == pytest.approx(exact, rel=2e-2)
    assert half.stepper.gradients(uneven) != exact
    assert all(value.dtype == torch.float32 for value in half.stepper.model.parameters())


def test_clipping_bounds_the_step_and_the_norm_is_that_before(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    norms = []
    for clip in (1e-3, 1e3):
        trainer = make_trainer(steps=1, run=tmp_path / str(clip), clip=clip)
        trainer.train()
        norms.append(rows(trainer.run_folder)[0]["grad_norm"])
    assert norms[0] == norms[1] > 1e-3


def test_it_learns(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=60, checkpoint_every=0, validate_every=0)
    progress = trainer.train()
    losses = [row["loss"] for row in rows(trainer.run_folder) if row["split"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    assert (progress.step, progress.tokens, progress.threads) == (60, 60 * 48, 1)
    assert progress.seconds > 0


def test_calibration_leaves_the_weights_as_they_were(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CALIBRATION_SECONDS", 0.0)
    trainer = make_trainer(steps=None, minutes=0.02, sample_seconds=[0.2, 0.6, 1e6])
    before = weights(trainer)
    plan = trainer.budget()
    assert_same(weights(trainer), before)
    assert not any(optimizer.state for optimizer in trainer.stepper.optimizers)
    assert all(parameter.grad is None for parameter in trainer.stepper.model.parameters())
    labels = list(plan.samples.values())
    assert labels[0] == "start"
    assert labels[-1] == "end"
    assert set(labels) <= {"start", "0.2 s", "0.6 s", "end"}
    assert list(plan.samples)[-1] == plan.steps
    # The plan is kept: measuring again would give another number of steps.
    path = trainer.folder / "plan.json"
    write_budget(replace(plan, steps=12345), path)
    assert make_trainer(steps=None, minutes=0.02).budget().steps == 12345


def test_minutes_become_steps_of_the_measured_speed(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_seconds_per_step", lambda *_: 0.5)
    plan = make_trainer(steps=None, minutes=2.0, sample_seconds=[30.0, 100.0, 120.0]).budget()
    assert plan.steps == 240
    assert plan.samples == {0: "start", 60: "30 s", 200: "100 s", 240: "end"}


def test_a_calibrated_run_equals_one_that_was_not(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CALIBRATION_SECONDS", 0.0)
    plain = make_trainer(run=tmp_path / "plain")
    calibrated = make_trainer(run=tmp_path / "calibrated", sample_seconds=[1e6])
    plain.train()
    calibrated.train()
    assert_same(weights(plain), weights(calibrated))


@pytest.mark.parametrize(("killed", "only"), [(2, "all"), (4, "all"), (5, "all"), (8, "all"), (5, "initial_state")])
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    make_trainer: MakeTrainer, tmp_path: Path, killed: int, only: str
) -> None:
    settings = {"validate_every": 4, "sample_seconds": [], "only": only}
    whole = make_trainer(run=tmp_path / "whole", **settings)
    whole.train()
    for on_batch in (kill_at(killed), kill_at(killed)):  # the second process comes no further
        with pytest.raises(KilledError):
            make_trainer(run=tmp_path / "killed", on_batch=on_batch, **settings).train()
    resumed = make_trainer(run=tmp_path / "killed", **settings)
    progress = resumed.train()
    assert (progress.step, progress.tokens) == (8, 8 * 48)
    assert_same(weights(whole), weights(resumed))
    assert rows(whole.run_folder) == rows(resumed.run_folder)
    assert rows(whole.run_folder, "samples.jsonl") == rows(resumed.run_folder, "samples.jsonl")


@pytest.mark.parametrize("name", ["llama", "lstm", "lstm, carried", "mingru", "mamba2"])
def test_a_killed_run_of_another_architecture(make_trainer: MakeTrainer, tmp_path: Path, name: str) -> None:
    """What an LSTM carries is in the checkpoint."""
    name, _, carried = name.partition(", ")

    def make(run: str, **options: Any) -> Trainer:
        return make_trainer(model=small.make_baseline(name), run=tmp_path / run, carry_state=bool(carried), **options)

    whole = make("whole")
    whole.train()
    with pytest.raises(KilledError):
        make("killed", on_batch=kill_at(6)).train()
    resumed = make("killed")
    resumed.train()
    assert_same(weights(whole), weights(resumed))
    assert rows(whole.run_folder) == rows(resumed.run_folder)


def test_two_kills_in_different_places(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole = make_trainer(run=tmp_path / "whole", steps=10)
    whole.train()
    for step in (5, 8):
        with pytest.raises(KilledError):
            make_trainer(run=tmp_path / "killed", steps=10, on_batch=kill_at(step)).train()
    resumed = make_trainer(run=tmp_path / "killed", steps=10)
    resumed.train()
    assert_same(weights(whole), weights(resumed))
    assert rows(whole.run_folder) == rows(resumed.run_folder)


def test_running_it_again_after_the_end_changes_nothing(make_trainer: MakeTrainer) -> None:
    first = make_trainer()
    first.train()
    files = {name: (first.run_folder / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl")}
    again = make_trainer(on_batch=lambda _: pytest.fail("a step was computed"))
    assert again.train().step == 8
    assert_same(weights(first), weights(again))
    assert {name: (first.run_folder / name).read_bytes() for name in files} == files


def test_another_number_of_threads_is_said(make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KilledError):
        make_trainer(on_batch=kill_at(5), threads=1).train()
    resumed = make_trainer(threads=2)
    resumed.train()
    assert "2 threads now, 1 before: equal to rounding" in capsys.readouterr().err
    (last,) = checkpoints(resumed.folder)[-1:]
    assert json.loads((last / "progress.json").read_text())["threads"] == 2


def poison(trainer: Trainer, where: str, step: int) -> dict[str, dict[str, Tensor]]:
    """In step `step`, counted from 1, the loss or only the gradient isn't finite; returns where the weights will be."""
    seen: dict[str, dict[str, Tensor]] = {}
    calls = [0]
    head = trainer.stepper.model.lm_head

    def count(*_: object) -> None:
        calls[0] += 1
        if calls[0] == step:
            seen["before"] = weights(trainer)
            if where == "loss":
                head.register_forward_hook(lambda *call: call[-1] * torch.inf)
            else:
                head.weight.register_hook(lambda grad: grad * torch.nan)

    head.register_forward_pre_hook(count)
    return seen


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_before_the_step(make_trainer: MakeTrainer, where: str) -> None:
    trainer = make_trainer()
    seen = poison(trainer, where, 5)
    with pytest.raises(UserError) as stopped:
        trainer.train()
    message = str(stopped.value)
    assert f"the {where} is not finite at step 5 of pretrain (windows 16 to 19)" in message
    assert "step-00000003" in message
    assert "\n" not in message
    assert_same(weights(trainer), seen["before"])
    assert [path.name for path in checkpoints(trainer.folder)] == ["step-00000003"]
    healthy = make_trainer()
    assert healthy.train().step == 8


def test_it_says_when_there_is_no_checkpoint_yet(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    poison(trainer, "loss", 1)
    with pytest.raises(UserError, match=r"step 1 of pretrain.*last good checkpoint: none"):
        trainer.train()


def test_checkpoints_are_written_and_pruned(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=10, keep_checkpoints=2)
    trainer.train()
    assert [path.name for path in checkpoints(trainer.folder)] == ["step-00000009", "step-00000010"]
    assert sorted(path.name for path in trainer.folder.iterdir()) == ["plan.json", "step-00000009", "step-00000010"]


def test_rows_of_metrics(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(steps=8, log_every=4, checkpoint_every=0, validate_every=3)
    trainer.train()
    found = read_jsonl(trainer.run_folder / "metrics.jsonl")
    assert all(tuple(row) == KEYS for row in found)
    assert [(row["split"], row["source"], row["step"]) for row in found] == [
        ("heldout", "rivers", 3),
        ("heldout", "talks", 3),
        ("train", None, 4),
        ("heldout", "rivers", 6),
        ("heldout", "talks", 6),
        ("train", None, 8),
        ("heldout", "rivers", 8),
        ("heldout", "talks", 8),
    ]
    assert [row["tokens"] for row in found if row["split"] == "train"] == [4 * 48, 8 * 48]
    assert [row["bpb"] for row in found if row["source"]] == [2.5, None] * 3
    assert all(row["tokens_per_second"] > 0 and row["lr"] > 0 for row in found if row["split"] == "train")
    assert trainer.stepper.model.training


def test_samples_are_written_at_the_start_and_at_the_end(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(sample_prompts=["川", "The "])
    trainer.train()
    found = read_jsonl(trainer.run_folder / "samples.jsonl")
    assert [(row["label"], row["step"], row["prompt"]) for row in found] == [
        ("start", 0, "川"),
        ("start", 0, "The "),
        ("end", 8, "川"),
        ("end", 8, "The "),
    ]
    assert all(row["text"].startswith(f"{row['prompt']}は流れる\n") for row in found)


def test_samples_every_so_many_steps(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(sample_every=3)
    trainer.train()
    found = read_jsonl(trainer.run_folder / "samples.jsonl")
    assert [(row["label"], row["step"]) for row in found] == [("start", 0), ("step 3", 3), ("step 6", 6), ("end", 8)]


def test_the_best_checkpoint_is_kept(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        steps=12, validate_every=2, checkpoint_every=0, keep_checkpoints=1, keep_best=True, keep_every=4
    )
    losses = iter([3.0, 2.0, 1.0, 2.5, 1.5, 4.0])
    trainer._watch._validate = lambda _: [Validation("rivers", next(losses), None)]
    progress = trainer.train()
    assert progress.best == 1.0
    # Saved where it was better than ever before, at steps 2, 4 and 6, and at the end.
    assert [path.name[-2:] for path in checkpoints(trainer.folder)] == ["04", "06", "12"]


def test_falls_back_to_the_checkpoint_before_a_damaged_one(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole = make_trainer(run=tmp_path / "whole")
    whole.train()
    with pytest.raises(KilledError):
        make_trainer(run=tmp_path / "killed", on_batch=kill_at(8)).train()
    newest = tmp_path / "killed/checkpoints/pretrain/step-00000006"
    next(newest.glob("*.distcp")).write_bytes(b"")
    resumed = make_trainer(run=tmp_path / "killed")
    resumed.train()
    assert_same(weights(whole), weights(resumed))
    assert rows(whole.run_folder) == rows(resumed.run_folder)


def test_fp16_goes_on_after_a_step_that_overflows(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(precision="fp16")
    trainer.stepper.scale.value = 2.0**20
    progress = trainer.train()
    assert progress.step == 8
    assert 0 < progress.skipped < 8
    assert trainer.stepper.scale.value == 2.0 ** (20 - progress.skipped)


def test_stages_lie_beside_each_other(make_trainer: MakeTrainer) -> None:
    first = make_trainer()
    first.train()
    second = make_trainer(stage="finetune", model=first.stepper.model)
    second.train()
    assert {row["stage"] for row in rows(first.run_folder)} == {"pretrain", "finetune"}
    names = {path.name for path in (first.run_folder / "checkpoints").iterdir()}
    assert names == {path.name for path in (first.run_folder / "tensorboard").iterdir()} == {"pretrain", "finetune"}


def test_is_due() -> None:
    assert [step for step in range(1, 10) if is_due(step, 3)] == [3, 6, 9]
    assert not any(is_due(step, 0) for step in range(10))
