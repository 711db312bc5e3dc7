"""Checkpoints are whole or not there, give back every bit, and a damaged one is found out."""

import errno
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from sioconv.errors import UserError
from sioconv.model import SioConvForCausalLM
from sioconv.train import checkpoint
from sioconv.train.checkpoint import Checkpointer, Keep, Progress, checkpoints, load_checkpoint, newest_good
from sioconv.train.distributed import World
from sioconv.train.step import Stepper

WORLD = World(torch.device("cpu"))
MakeModel = Callable[..., SioConvForCausalLM]
MakeStepper = Callable[..., Stepper]


def save(folder: Path, stepper: Stepper, *progress: Progress, keep: Keep = Keep(2)) -> Path:  # noqa: B008
    """Writes checkpoints one after the other and returns the path of the last."""
    with closing(Checkpointer(folder, WORLD, keep)) as checkpointer:
        for each in progress:
            checkpointer.save(stepper, each)
        checkpointer.wait()
    return folder / f"step-{progress[-1].step:08d}"


def tensors_of(stepper: Stepper) -> dict[str, torch.Tensor]:
    found = {f"model.{name}": value.clone() for name, value in stepper.model.state_dict().items()}
    for which, optimizer in enumerate(stepper.optimizers):
        for number, state in optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{which}.{number}.{name}": value.clone() for name, value in state.items()}
    if stepper.carry is not None:
        found |= {f"carry.{name}": value.clone() for name, value in stepper.carry.state_dict(WORLD).items()}
    return found


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {}),
        ({"tie_word_embeddings": True, "conv_width": 2}, {}),
        ({}, {"optimizer": "muon"}),
        ({"conv_width": 3}, {"carry_state": True, "accumulation": 2}),
        ({"bigram_rows": 2}, {"carry_state": True, "accumulation": 2}),
    ],
)
def test_gives_back_every_bit(
    tmp_path: Path, make_model: MakeModel, make_stepper: MakeStepper, options: dict[str, Any], settings: dict[str, Any]
) -> None:
    stepper = make_stepper(make_model(**options), **settings)
    stepper.scale.value, stepper.scale.good_steps = 4.0, 2
    progress = Progress(step=7, tokens=123, seconds=4.5, threads=2, heldout=1.25)
    path = save(tmp_path / "pretrain", stepper, progress)
    assert path == tmp_path / "pretrain" / "step-00000007"
    other = make_stepper(make_model(**options), steps=0, **settings)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(1.0)
    assert newest_good(tmp_path / "pretrain", WORLD) == path
    assert load_checkpoint(path, other, WORLD) == replace(progress, scale=4.0, good_steps=2)
    assert_same(tensors_of(stepper), tensors_of(other))
    assert any(name.startswith("carry.") for name in tensors_of(other)) == bool(settings.get("carry_state"))
    assert other.scale.value == 4.0


@pytest.mark.parametrize("tied", [False, True])
def test_of_state_tuning_it_holds_what_is_trained(
    tmp_path: Path, make_model: MakeModel, make_stepper: MakeStepper, tied: bool
) -> None:
    options, settings = {"tie_word_embeddings": tied}, {"only": "initial_state"}
    stepper = make_stepper(make_model(**options), **settings)
    path = save(tmp_path, stepper, Progress(step=2))
    held = FileSystemReader(path).read_metadata().state_dict_metadata
    states = {f"model.model.layers.{i}.mixer.initial_state" for i in range(2)}
    assert {name for name in held if name.startswith("model.")} == states
    sizes = [entry.size.numel() for entry in held.values() if isinstance(entry, TensorStorageMetadata)]
    assert sum(sizes) == 3 * stepper.trained + 2  # weights, two moments, and a count of steps for each layer
    other = make_stepper(make_model(**options), steps=0, **settings)
    assert load_checkpoint(path, other, WORLD).step == 2
    assert_same(tensors_of(stepper), tensors_of(other))


def test_of_state_tuning_it_belongs_to_its_base(
    tmp_path: Path, make_model: MakeModel, make_stepper: MakeStepper
) -> None:
    path = save(tmp_path, make_stepper(only="initial_state"), Progress(step=2))
    other = make_model()
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1.0
    with pytest.raises(UserError, match="step-00000002 was trained on another base model"):
        load_checkpoint(path, make_stepper(other, steps=0, only="initial_state"), WORLD)


def test_saving_changes_nothing(tmp_path: Path, make_stepper: MakeStepper) -> None:
    stepper = make_stepper()
    before = tensors_of(stepper)
    save(tmp_path, stepper, Progress(step=1))
    assert_same(before, tensors_of(stepper))


def test_what_is_written_is_the_state_at_the_moment_of_saving(
    tmp_path: Path, make_stepper: MakeStepper, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, whole = threading.Event(), checkpoint._save

    def wait_first(*arguments: Any) -> None:
        assert go_on.wait(60)
        whole(*arguments)

    monkeypatch.setattr(checkpoint, "_save", wait_first)
    stepper = make_stepper()
    before = tensors_of(stepper)
    with closing(Checkpointer(tmp_path, WORLD, Keep(1))) as checkpointer:
        checkpointer.save(stepper, Progress(step=1))
        with torch.no_grad():  # training goes on while it is written
            for parameter in stepper.model.parameters():
                parameter.add_(1.0)
        assert checkpoints(tmp_path) == []
        go_on.set()
        checkpointer.wait()
    load_checkpoint(tmp_path / "step-00000001", stepper, WORLD)
    assert_same(before, tensors_of(stepper))


def test_the_newest_are_kept(tmp_path: Path, make_stepper: MakeStepper) -> None:
    save(tmp_path, make_stepper(), *(Progress(step=step) for step in (5, 10, 15, 100_000_000)))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000015", "step-100000000"]
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000015", "step-100000000"}


def test_so_are_every_nth_and_the_best(tmp_path: Path, make_stepper: MakeStepper) -> None:
    losses = {2: 3.0, 4: 1.0, 6: None, 8: 2.0, 10: 1.5, 12: None}
    progress = (Progress(step=step, heldout=loss) for step, loss in losses.items())
    save(tmp_path, make_stepper(), *progress, keep=Keep(last=1, every=6, best=True))
    assert [int(path.name[-2:]) for path in checkpoints(tmp_path)] == [4, 6, 12]


def test_an_unfinished_one_is_ignored_and_then_removed(tmp_path: Path, make_stepper: MakeStepper) -> None:
    stepper = make_stepper()
    good = save(tmp_path, stepper, Progress(step=5))
    shutil.copytree(good, tmp_path / ".step-00000006.abcd")  # what a process that was killed leaves
    shutil.copytree(good, tmp_path / "step-00000007")
    (tmp_path / "step-00000007" / "progress.json").unlink()
    assert checkpoints(tmp_path) == [good]
    save(tmp_path, stepper, Progress(step=7))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000005", "step-00000007"]


def test_there_is_none_where_there_is_no_folder(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "nothing") == []
    assert newest_good(tmp_path / "nothing", WORLD) is None


def cut_short(path: Path) -> None:
    with next(path.glob("*.distcp")).open("r+b") as stream:
        stream.truncate(1000)


def flip_a_bit(path: Path) -> None:
    with next(path.glob("*.distcp")).open("r+b") as stream:
        stream.seek(5000)
        byte = stream.read(1)[0]
        stream.seek(5000)
        stream.write(bytes([byte ^ 1]))


def lose_the_index(path: Path) -> None:
    (path / ".metadata").unlink()


def cut_progress(path: Path) -> None:
    (path / "progress.json").write_text("")


def garble_progress(path: Path) -> None:
    (path / "progress.json").write_text('{"files": [1]}')


DAMAGES = {
    cut_short: "bytes of",
    flip_a_bit: "other bytes",
    lose_the_index: ".metadata is missing",
    cut_progress: "can't be read",
    garble_progress: "can't be read",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_told_moved_aside_and_the_one_before_it_taken(
    tmp_path: Path, make_stepper: MakeStepper, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    stepper = make_stepper()
    newest = save(tmp_path, stepper, Progress(step=3), Progress(step=6))
    damage(newest)
    assert newest_good(tmp_path, WORLD) == tmp_path / "step-00000003"
    said = capsys.readouterr().err
    assert "step-00000006 is damaged" in said
    assert DAMAGES[damage] in said
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000003", "damaged-step-00000006"}
    damage(tmp_path / "step-00000003")
    assert newest_good(tmp_path, WORLD) is None


def test_one_that_cannot_be_read_is_named(tmp_path: Path, make_stepper: MakeStepper) -> None:
    stepper = make_stepper()
    path = save(tmp_path, stepper, Progress(step=3))
    cut_short(path)
    with pytest.raises(UserError, match="step-00000003") as refused:
        load_checkpoint(path, stepper, WORLD)
    assert "\n" not in str(refused.value)


def test_one_of_another_model_is_refused(tmp_path: Path, make_model: MakeModel, make_stepper: MakeStepper) -> None:
    path = save(tmp_path, make_stepper(), Progress(step=3))
    with pytest.raises(UserError, match="step-00000003"):
        load_checkpoint(path, make_stepper(make_model(conv_width=2), steps=0), WORLD)


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
    tmp_path: Path, make_stepper: MakeStepper, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    stepper = make_stepper()
    good = save(tmp_path, stepper, Progress(step=3))
    whole = FileSystem.create_stream

    @contextmanager
    def create_stream(self: FileSystem, path: Any, mode: str) -> Iterator[Any]:
        with whole(self, path, mode) as stream:
            yield FullDisk(stream, room) if "w" in mode else stream

    monkeypatch.setattr(FileSystem, "create_stream", create_stream)
    with pytest.raises(UserError, match=r"no disk space left.*step-00000006") as refused:
        save(tmp_path, stepper, Progress(step=6))
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [good]
    monkeypatch.undo()
    assert load_checkpoint(good, stepper, WORLD).step == 3


def test_a_failure_is_known_before_it_is_asked_for(
    tmp_path: Path, make_stepper: MakeStepper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create_stream(*_: Any) -> Any:
        raise ZeroDivisionError("a mistake in the program")

    monkeypatch.setattr(FileSystem, "create_stream", create_stream)
    checkpointer = Checkpointer(tmp_path, WORLD, Keep())
    checkpointer.save(make_stepper(), Progress(step=6))
    checkpointer.close()
    assert checkpointer.failed
    with pytest.raises(ZeroDivisionError):
        checkpointer.wait()
    assert list(tmp_path.iterdir()) == []


def test_progress_is_plain_json(tmp_path: Path, make_stepper: MakeStepper) -> None:
    progress = Progress(step=2, tokens=8, seconds=0.5, threads=1)
    path = save(tmp_path, make_stepper(), progress)
    values = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    files = values.pop("files")
    assert len(values.pop("checksum")) == 64
    assert values == asdict(replace(progress, good_steps=2))
    assert values["versions"] == {"sioconv": version("sioconv"), "torch": torch.__version__}
    assert set(files) == {file.name for file in path.iterdir()} - {"progress.json"}
    assert all(size == (path / name).stat().st_size for name, (size, _) in files.items())
