"""metrics.jsonl, samples.jsonl and TensorBoard: what is written, and what a resumed run finds."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sioconv.errors import UserError
from sioconv.train.metrics import KEYS, MetricsLog, TrainingBar, forget_after, read_jsonl

SAMPLE = {"tokens": 0, "seconds": 0.0, "label": "start", "prompt": "宮城県(", "text": "みやぎけん)"}


def scalars(run: Path, tag: str) -> list[tuple[int, float]]:
    board = EventAccumulator(str(run / "tensorboard" / "pretrain"))
    board.Reload()
    return [(event.step, round(event.value, 5)) for event in board.Scalars(tag)]


def write_steps(run: Path, start: int, steps: range, stage: str = "pretrain") -> None:
    log = MetricsLog(run, stage, start)
    if start == 0:
        log.write_sample({"step": 0} | SAMPLE)
    for step in steps:
        log.write(step=step, split="train", loss=1.0 / step, tokens=10 * step)
    log.close()


def test_the_keys_are_those_that_every_reader_knows(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, "pretrain", 0)
    log.write(step=1, tokens=32, split="train", loss=2.0, lr=0.1, grad_norm=3.0, tokens_per_second=9.0, seconds=1.0)
    log.write(step=1, tokens=32, split="heldout", source="川", loss=2.5, bpb=1.5, seconds=1.0)
    log.close()
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    wanted = "stage, step, tokens, split, source, loss, bpb, lr, grad_norm, tokens_per_second, seconds"
    assert ", ".join(KEYS) == wanted
    assert [tuple(row) for row in rows] == [KEYS, KEYS]
    assert rows[0]["stage"] == "pretrain"
    assert rows[0]["source"] is None
    assert rows[1]["bpb"] == 1.5
    assert rows[1]["lr"] is None


def test_an_unknown_figure_is_a_mistake(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, "pretrain", 0)
    with pytest.raises(TypeError, match="perplexity"):
        log.write(step=1, perplexity=3.0)
    log.close()
    assert read_jsonl(tmp_path / "metrics.jsonl") == []


def test_tensorboard_shows_the_same(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, "pretrain", 0)
    for step in (1, 2):
        log.write(step=step, split="train", loss=2.0 / step, lr=0.5)
    log.write(step=2, split="heldout", source="川", loss=2.5, bpb=1.25)
    log.write_sample({"step": 2} | SAMPLE)
    log.close()
    assert scalars(tmp_path, "loss/train") == [(1, 2.0), (2, 1.0)]
    assert scalars(tmp_path, "lr/train") == [(1, 0.5), (2, 0.5)]
    assert scalars(tmp_path, "bpb/heldout/川") == [(2, 1.25)]
    board = EventAccumulator(str(tmp_path / "tensorboard" / "pretrain"))
    board.Reload()
    (tag,) = board.Tags()["tensors"]
    assert board.Tensors(tag)[0].tensor_proto.string_val[0].decode() == "宮城県(みやぎけん)"


def test_a_resumed_run_forgets_what_it_will_write_again(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, range(1, 8))
    write_steps(tmp_path, 0, range(1, 3), "finetune")
    write_steps(tmp_path, 5, range(6, 10))
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if row["stage"] == "pretrain"] == list(range(1, 10))
    assert [row["step"] for row in rows if row["stage"] == "finetune"] == [1, 2]
    samples = read_jsonl(tmp_path / "samples.jsonl")
    assert [row["stage"] for row in samples] == ["pretrain", "finetune"]
    assert [step for step, _ in scalars(tmp_path, "loss/train")] == list(range(1, 10))


def test_a_stage_that_begins_anew_forgets_all_of_it(tmp_path: Path) -> None:
    write_steps(tmp_path, 0, range(1, 5))
    write_steps(tmp_path, 0, range(1, 3))
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]
    assert len(read_jsonl(tmp_path / "samples.jsonl")) == 1
    assert [step for step, _ in scalars(tmp_path, "loss/train")] == [1, 2]


ROWS = st.lists(st.fixed_dictionaries({"step": st.integers(0, 9), "text": st.text()}), max_size=5)


@given(rows=ROWS, lost=st.integers(0, 400))
def test_an_unfinished_last_line_is_left_out_wherever_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], lost: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "samples.jsonl"
    rows = [{"stage": "pretrain"} | row for row in rows]
    lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]
    data = b"".join(lines)
    data = data[: max(0, len(data) - lost)]
    path.write_bytes(data)
    whole = data.count(b"\n")
    assert read_jsonl(path) == rows[:whole]
    forget_after(path, "pretrain", 100)
    assert path.read_bytes() == b"".join(lines[:whole])


def test_there_are_no_rows_without_a_file(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path / "metrics.jsonl") == []
    forget_after(tmp_path / "metrics.jsonl", "pretrain", 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, "pretrain", 0)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"no disk space left.*metrics\.jsonl"):
        log.write(step=1, split="train", loss=1.0)
    log.close()


def test_without_a_terminal_the_bar_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingBar("pretrain", 3, 1) as bar:
        bar.update(2, "loss 2.000")
        bar.update(3, "loss 1.000")
    assert capsys.readouterr().err.splitlines() == ["pretrain 3/3 steps · loss 1.000 · 0 s left"]


def test_mirrors_to_weights_and_biases_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb isn't installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log = MetricsLog(tmp_path, "pretrain", 0, wandb=True)
    log.write(step=1, tokens=10, split="train", loss=2.5, lr=0.1)
    log.write(step=1, tokens=10, split="heldout", source="rivers", loss=3.5, bpb=1.25)
    assert wandb.run.name == f"{tmp_path.name}-pretrain"
    log.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    end = time.monotonic() + 300  # a service of its own writes it
    while b"bpb/heldout" not in (written := file.read_bytes()) and time.monotonic() < end:
        time.sleep(0.05)
    for tag, value in (
        ("loss/train", 2.5),
        ("lr/train", 0.1),
        ("loss/heldout/rivers", 3.5),
        ("bpb/heldout/rivers", 1.25),
    ):
        assert tag.encode() in written
        assert str(value).encode() in written


def test_wandb_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"train\.wandb: wandb isn't installed"):
        MetricsLog(tmp_path, "pretrain", 0, wandb=True)
