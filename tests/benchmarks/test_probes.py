"""The probes' answers are known, and their trainings run whole at a small size."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.probes import training
from benchmarks.probes.tasks import FIRST, MARK, SYMBOLS, TASKS, TICK, batch
from benchmarks.probes.training import ARMS, Probe, ask, best_of, build, run_probe
from sioconv.data.batches.loader import IGNORED

ROOT = Path(__file__).parents[2]
each_task = pytest.mark.parametrize("task", TASKS)


def sequences(task: str, length: int, size: int, rows: int = 20) -> list[tuple[list[int], dict[int, int]]]:
    """Ids, and the answers by their places."""
    made = batch(task, np.random.default_rng(0), rows, length, size)
    return [
        (ids, {place: value for place, value in enumerate(answers) if value != IGNORED})
        for ids, answers in zip(made.input_ids.tolist(), made.targets.tolist(), strict=True)
    ]


@pytest.mark.parametrize("length", [12, 40])
def test_a_key_that_comes_again_asks_for_its_value(length: int) -> None:
    for ids, answers in sequences("recall", length, 4):
        values = dict(zip(ids[:8:2], ids[1:8:2], strict=True))
        assert len(values) == 4 and {place: values[ids[place]] for place in answers} == answers
        assert sorted(ids[place] for place in answers) == sorted(values) and min(answers) >= 8


@pytest.mark.parametrize("length", [9, 40])
@pytest.mark.parametrize("task", ["copying", "selective copying"])
def test_symbols_are_wanted_again_in_their_order(task: str, length: int) -> None:
    for ids, answers in sequences(task, length, 4):
        symbols = [i for i in ids[: length - 4] if i >= FIRST]
        assert list(answers) == list(range(length - 4, length)) and list(answers.values()) == symbols
        assert ids[length - 4] == MARK and ids[length - 3 :] == symbols[:-1]
        assert task != "copying" or ids[:4] == symbols


@pytest.mark.parametrize("length", [7, 40])
def test_ticks_are_counted(length: int) -> None:
    found = sequences("counting", length, 6, rows=200)
    assert all(answers == {length - 1: FIRST + ids.count(TICK)} and ids[-1] == MARK for ids, answers in found)
    assert {next(iter(answers.values())) - FIRST for _, answers in found} == set(range(7))


@each_task
def test_what_doesnt_fit_is_refused(task: str) -> None:
    least = TASKS[task].least(5)
    batch(task, np.random.default_rng(0), 1, least, 5)
    for length, size in ((least - 1, 5), (1000, SYMBOLS + 1), (1000, 0)):
        with pytest.raises(ValueError, match="a size of"):
            batch(task, np.random.default_rng(0), 1, length, size)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_runs(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "ASKED", 4)
    row = run_probe(Probe(arm, "recall", 2, 8, width=32, layers=1, heads=2, steps=2, rows=4))
    assert list(row["accuracy"]) == ["8", "16", "32", "64", "128", "256"] and row["chance"] == 1 / SYMBOLS
    assert json.dumps(row) and (row["state_bytes"] is None or row["state_bytes"] > 0)


def test_a_mixed_training_takes_sizes_in_turns() -> None:
    probe = Probe("sioconv", "recall", 20, 80, rows=8, mixed=True)
    assert [probe.sequences(step) for step in range(4)] == [(32, 16, 4), (16, 32, 8), (8, 64, 16), (8, 80, 20)]
    assert probe.sequences(5) == probe.sequences(1)
    assert replace(probe, mixed=False).sequences(0) == (8, 80, 20)
    batch("recall", np.random.default_rng(0), 1, *replace(probe, length=60).sequences(0)[1:])  # it still fits


def test_a_row_of_before_there_was_a_field_is_of_its_default() -> None:
    probe = Probe("sioconv", "recall", 2, 8)
    row = {key: value for key, value in vars(probe).items() if key != "mixed"}
    assert probe.is_answered_by(row) and not replace(probe, mixed=True).is_answered_by(row)


def test_an_answer_is_what_the_model_finds_likeliest() -> None:
    probe = Probe("sioconv", "counting", 3, 8, width=32, layers=1, heads=2)
    model = build(probe)
    with torch.no_grad():
        model.get_output_embeddings().bias[FIRST + 2] = 1000  # type: ignore[no-untyped-call]
    assert 0.05 < ask(model, probe, 8) < 0.5  # about a quarter of the sequences have two ticks


def test_the_best_learning_rate_is_that_of_all_seeds() -> None:
    def row(lr: float, seed: int, right: float) -> dict[str, object]:
        return {**vars(Probe("llama", "recall", 2, 8, lr=lr, seed=seed)), "accuracy": {"8": right}}

    rows = [row(0.1, 0, 0.9), row(0.1, 1, 0.1), row(0.2, 0, 0.6), row(0.2, 1, 0.7)]
    assert best_of(rows) == rows[2:]


def test_a_small_model_learns_to_count_to_one() -> None:
    row = run_probe(Probe("sioconv-2026", "counting", 1, 6, width=32, layers=1, heads=2, steps=60, rows=16, lr=1e-2))
    assert row["accuracy"]["6"] > 0.9


def test_the_command_goes_on_where_it_was(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.probes", "--tasks", "counting", "--arms", "sioconv", "--sizes", "2"]
    command += ["--lr", "1e-3", "--steps", "1", "--rows", "2", "--widths", "32", "--layers", "1", "--threads", "1"]
    command += ["--results", str(tmp_path / "probes.jsonl")]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["rows"] == 1
    assert len((tmp_path / "probes.jsonl").read_text().splitlines()) == 1 and "32×" in done.stdout


@pytest.mark.parametrize(("setting", "reason"), [("timescale_max=long", "expected float"), ("conv_width=1", "none of")])
def test_a_wrong_field_is_refused_in_a_line(tmp_path: Path, setting: str, reason: str) -> None:
    command = [sys.executable, "-m", "benchmarks.probes", "--tasks", "counting", "--arms", "sioconv", "--set", setting]
    command += ["--results", str(tmp_path / "probes.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "error: " in last and reason in last and setting.partition("=")[0] in last
