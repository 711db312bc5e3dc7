"""Checkpoints are whole or not there, and give back every bit."""

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystem

from sioconv.errors import UserError
from sioconv.model import SioConvForCausalLM
from sioconv.train.checkpoint import Progress, checkpoints, load_checkpoint, save_checkpoint
from sioconv.train.config import TrainConfig
from sioconv.train.optimizer import build_optimizer

Trained = tuple[SioConvForCausalLM, torch.optim.AdamW]
CONFIG = TrainConfig(tokens=1)


@pytest.fixture
def trained(make_model: Callable[..., SioConvForCausalLM]) -> Trained:
    """A model after two steps, so that the optimizer has moments."""
    model = make_model()
    optimizer = build_optimizer(model, CONFIG)
    for seed in (0, 1):
        ids = torch.randint(0, model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(seed))
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def tensors_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    found = {f"model.{name}": value.clone() for name, value in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{name}": value.clone() for name, value in state.items()}
    return found


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True, "conv_width": 2}])
def test_gives_back_every_bit(
    tmp_path: Path, make_model: Callable[..., SioConvForCausalLM], options: dict[str, Any]
) -> None:
    model = make_model(**options)
    optimizer = build_optimizer(model, CONFIG)
    ids = torch.arange(12)[None]
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    progress = Progress(step=7, tokens=123, seconds=4.5, threads=2)
    path = save_checkpoint(tmp_path / "pretrain", model, optimizer, progress, keep=2)
    assert path == tmp_path / "pretrain" / "step-00000007"
    other = make_model(**options)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    other_optimizer = build_optimizer(other, CONFIG)
    assert load_checkpoint(path, other, other_optimizer) == progress
    assert_same(tensors_of(model, optimizer), tensors_of(other, other_optimizer))


def test_saving_changes_nothing(tmp_path: Path, trained: Trained) -> None:
    before = tensors_of(*trained)
    save_checkpoint(tmp_path, *trained, Progress(step=1), keep=1)
    assert_same(before, tensors_of(*trained))


def test_the_newest_are_kept(tmp_path: Path, trained: Trained) -> None:
    for step in (5, 10, 15, 100_000_000):
        save_checkpoint(tmp_path, *trained, Progress(step=step), keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000015", "step-100000000"]
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000015", "step-100000000"}


def test_an_unfinished_one_is_ignored_and_then_removed(tmp_path: Path, trained: Trained) -> None:
    good = save_checkpoint(tmp_path, *trained, Progress(step=5), keep=2)
    shutil.copytree(good, tmp_path / ".step-00000006.abcd")  # what a process that was killed leaves
    shutil.copytree(good, tmp_path / "step-00000007")
    (tmp_path / "step-00000007" / "progress.json").unlink()
    assert checkpoints(tmp_path) == [good]
    save_checkpoint(tmp_path, *trained, Progress(step=7), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000005", "step-00000007"]


def test_there_is_none_where_there_is_no_folder(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "nothing") == []


def cut_short(path: Path) -> None:
    with next(path.glob("*.distcp")).open("r+b") as stream:
        stream.truncate(1000)


def lose_the_index(path: Path) -> None:
    (path / ".metadata").unlink()


def cut_progress(path: Path) -> None:
    (path / "progress.json").write_text("")


@pytest.mark.parametrize("damage", [cut_short, lose_the_index, cut_progress])
def test_a_damaged_one_is_named(tmp_path: Path, trained: Trained, damage: Callable[[Path], None]) -> None:
    path = save_checkpoint(tmp_path, *trained, Progress(step=3), keep=2)
    damage(path)
    with pytest.raises(UserError, match="step-00000003") as refused:
        load_checkpoint(path, *trained)
    assert "\n" not in str(refused.value)


def test_one_of_another_model_is_refused(
    tmp_path: Path, trained: Trained, make_model: Callable[..., SioConvForCausalLM]
) -> None:
    path = save_checkpoint(tmp_path, *trained, Progress(step=3), keep=2)
    other = make_model(conv_width=2)
    with pytest.raises(UserError, match="step-00000003"):
        load_checkpoint(path, other, build_optimizer(other, CONFIG))


class FullDisk:
    """A file on a disk with room for `room` more bytes."""

    def __init__(self, stream: Any, room: int) -> None:
        self._stream, self._room = stream, room

    def write(self, data: Any) -> int:
        self._room -= memoryview(data).nbytes
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._stream.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.mark.parametrize("room", [0, 5_000, 100_000])
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    good = save_checkpoint(tmp_path, *trained, Progress(step=3), keep=1)
    whole = FileSystem.create_stream

    @contextmanager
    def create_stream(self: FileSystem, path: Any, mode: str) -> Iterator[Any]:
        with whole(self, path, mode) as stream:
            yield FullDisk(stream, room) if "w" in mode else stream

    monkeypatch.setattr(FileSystem, "create_stream", create_stream)
    with pytest.raises(UserError, match=r"no disk space left.*step-00000006") as refused:
        save_checkpoint(tmp_path, *trained, Progress(step=6), keep=1)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [good]
    monkeypatch.undo()
    assert load_checkpoint(good, *trained).step == 3


def test_other_errors_of_the_writer_stay_what_they_are(
    tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create_stream(*_: Any) -> Any:
        raise ZeroDivisionError("a mistake in the program")

    monkeypatch.setattr(FileSystem, "create_stream", create_stream)
    with pytest.raises(ZeroDivisionError):
        save_checkpoint(tmp_path, *trained, Progress(step=6), keep=1)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_plain_json(tmp_path: Path, trained: Trained) -> None:
    path = save_checkpoint(tmp_path, *trained, Progress(step=2, tokens=8, seconds=0.5, threads=1), keep=1)
    values = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    assert values == {"step": 2, "tokens": 8, "seconds": 0.5, "threads": 1}
