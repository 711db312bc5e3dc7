"""Checkpoints of a stage: written whole or not at all, beside the training, the newest good one found again.

A checkpoint is a folder `step-00000200` with the weights that are trained, optimizers and carried states as
torch.distributed.checkpoint writes them, and `progress.json`, which says how far the stage was and how large each file
is, with its SHA-256. Nothing else has to be kept: data order, learning rate and random numbers are functions of the
step. It can be read by another number of processes than wrote it.
"""

import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.utils._pytree import tree_map_only

import sioconv
from sioconv.checksums import read_sealed, sealed
from sioconv.errors import UserError
from sioconv.files import disk_errors, hidden_folder, remove, sha256_file
from sioconv.progress import say
from sioconv.train.distributed import World
from sioconv.train.step import Stepper

PROGRESS = "progress.json"


def _versions() -> dict[str, str]:
    # Of a source tree that is not installed there are no metadata.
    return {"sioconv": sioconv.__version__, "torch": version("torch")}


@dataclass
class Progress:
    """How far a stage has come.

    Attributes:
        step: optimizer steps done.
        tokens: tokens read.
        seconds: time spent training.
        threads: CPU threads: another number changes the rounding.
        processes: that trained: another number changes the rounding.
        skipped: steps that weren't made because fp16 overflowed.
        heldout: mean held-out loss at this step, where it was measured.
        best: the lowest held-out loss so far.
        scale: what the loss is multiplied by (fp16).
        good_steps: steps since that last changed.
        versions: of what decides the results.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    threads: int = 0
    processes: int = 1
    skipped: int = 0
    heldout: float | None = None
    best: float | None = None
    scale: float = 1.0
    good_steps: int = 0
    versions: dict[str, str] = field(default_factory=_versions)


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the newest `last`, each whose step `every` divides, step `one`, and the best loss's."""

    last: int = 2
    every: int = 0
    best: bool = False
    one: int | None = None


class Checkpointer:
    """Writes checkpoints into a folder while the training goes on: `save` only copies what is to be written.

    Args:
        folder: of the stage's checkpoints.
        world: the processes; all of them call all methods at the same steps.
        keep: which ones stay.
    """

    def __init__(self, folder: Path, world: World, keep: Keep) -> None:
        self.folder, self._world, self.keep = folder, world.apart(), keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._begun = False
        self._job: Future[None] | None = None

    def save(self, stepper: Stepper, progress: Progress, budget: Mapping[str, Any] | None = None) -> None:
        """Begins to write `folder/step-N`, when the one before it is done, and then removes those that don't stay.

        Args:
            stepper: what is written.
            progress: how far the stage is.
            budget: is kept with it: see `budget_in`.

        Raises:
            UserError: the one before it failed: the disk is full. Those before that stay.
        """
        self.wait()
        if self._world.leads and not self._begun:  # only now: a run that is renamed later mustn't come into being again
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
        self._begun = True
        state = _copied(_state_of(stepper, self._world))
        progress = replace(progress, scale=stepper.scale.value, good_steps=stepper.scale.good_steps)
        self._job = self._thread.submit(self._write, state, asdict(progress) | ({"plan": budget} if budget else {}))

    @property
    def failed(self) -> bool:
        """Whether the last one is known to have failed; `wait` tells why."""
        return self._job is not None and self._job.done() and self._job.exception() is not None

    def wait(self) -> None:
        """Returns when the last one is whole. Raises UserError when it can't be written."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        """Waits without raising, and ends the thread."""
        self._thread.shutdown(wait=True)

    def _write(self, state: dict[str, Any], progress: dict[str, Any]) -> None:
        """The thread's work; the processes go through it together."""
        target = self.folder / f"step-{progress['step']:08d}"
        world = self._world
        temporary = world.leader(lambda: _new_folder(target))
        try:
            world.agree(lambda: _save(state, temporary, target, world))
            parts = world.agree(lambda: _sums(temporary, world.rank))
            files = {name: entry for part in parts for name, entry in part.items()}
            world.leader(lambda: self._finish(temporary, target, progress | {"files": files}))
        finally:
            if world.leads:
                shutil.rmtree(temporary, ignore_errors=True)

    def _finish(self, temporary: Path, target: Path, progress: dict[str, Any]) -> None:
        with disk_errors(target):
            with (temporary / PROGRESS).open("w", encoding="utf-8") as stream:
                stream.write(sealed(progress))
                stream.flush()
                os.fsync(stream.fileno())
            remove(target)  # it was damaged, or training wouldn't have come here again
            temporary.rename(target)
            _sync_folder(self.folder)
        for old in _superfluous(self.folder, self.keep):
            remove(old)


def _state_of(stepper: Stepper, world: World) -> dict[str, Any]:
    weights, moments = get_state_dict(stepper.model, stepper.optimizers)
    carried = {} if stepper.carry is None else stepper.carry.state_dict(world)
    state = {"model": weights, "optimizer": moments, "carry": carried}
    if stepper.base_fingerprint is not None:
        # torch's `ignore_frozen_params` would keep a tied weight under its second name.
        parameters = stepper.model.named_parameters(remove_duplicate=False)
        trained = {name for name, parameter in parameters if parameter.requires_grad}
        state["model"] = {name: value for name, value in weights.items() if name in trained}
        state["base"] = stepper.base_fingerprint
    return state


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """The state in the CPU's memory, where the next step doesn't change it."""
    copied: dict[str, Any] = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state)
    return copied


def _new_folder(target: Path) -> Path:
    """A new folder beside `target`; removes what a killed process has left unfinished."""
    with disk_errors(target):
        for unfinished in target.parent.glob(".step-*"):
            remove(unfinished)
        return hidden_folder(target)


class _Disk(FileSystem):
    """torch's own makes a folder with all that is above it: a run that was renamed meanwhile would come back, empty."""

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Makes a folder in one that must be there."""
        Path(path).mkdir(exist_ok=True)


def _save(state: dict[str, Any], folder: Path, target: Path, world: World) -> None:
    # Synced before the rename: a power cut must not leave a whole-looking folder with empty files.
    writer = FileSystemWriter(folder, single_file_per_rank=True, sync_files=True)
    writer.fs = _Disk()
    with disk_errors(target), _plain_errors():
        save(state, storage_writer=writer, process_group=world.patient, no_dist=world.size == 1)


def _sums(folder: Path, rank: int) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of the files that this process wrote; the first one's includes the index."""
    paths = [*folder.glob(f"__{rank}_*"), *([folder / ".metadata"] if rank == 0 else [])]
    return {path.name: (path.stat().st_size, sha256_file(path)) for path in paths}


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder survive a power cut; Windows has no such call."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in `folder`, oldest first."""
    return sorted(
        (path for path in folder.glob("step-*") if path.name[5:].isdecimal() and (path / PROGRESS).is_file()),
        key=step_of,
    )


def step_of(path: Path) -> int:
    """The step of a checkpoint, by its folder's name."""
    return int(path.name.removeprefix("step-"))


def _superfluous(folder: Path, keep: Keep) -> list[Path]:
    found = checkpoints(folder)
    stay = set(found[-keep.last :])
    if keep.every:
        stay |= {path for path in found if step_of(path) % keep.every == 0}
    stay |= {path for path in found if step_of(path) == keep.one}
    if keep.best:
        measured = [(loss, path) for path in found if (loss := _heldout(path)) is not None]
        stay |= {min(measured)[1]} if measured else set()
    return [path for path in found if path not in stay]


def _heldout(path: Path) -> float | None:
    try:
        loss: float | None = read_sealed(path / PROGRESS)["heldout"]
    except (OSError, ValueError, KeyError):  # damaged: it has no claim to stay
        return None
    return loss


def newest_good(folder: Path, world: World) -> Path | None:
    """The newest checkpoint whose files are all as they were written; None where there is none.

    Those that are newer and damaged are named and moved aside, to `damaged-step-N`.
    """
    for path in reversed(world.leader(lambda: checkpoints(folder))):
        problems = [each for each in world.agree(partial(_damage, path, world.rank, world.size)) if each]
        if not problems:
            return path
        say(f"warning: the checkpoint {path} is damaged ({problems[0]}): moved aside, the one before it is taken")
        world.leader(partial(_move_aside, path))
    return None


def is_whole(path: Path) -> bool:
    """Whether a checkpoint's files are all as they were written."""
    return _damage(path, 0, 1) is None


def _move_aside(path: Path) -> None:
    aside = path.with_name(f"damaged-{path.name}")
    with disk_errors(aside):
        remove(aside)
        path.rename(aside)


def _damage(path: Path, rank: int, size: int) -> str | None:
    """What is wrong with this process's share of a checkpoint's files; None where nothing is."""
    try:
        files = sorted(read_sealed(path / PROGRESS)["files"].items())
        for name, (bytes_, sha256) in files[rank::size]:
            if (path / name).stat().st_size != bytes_:
                return f"{name} has {(path / name).stat().st_size:,} bytes of {bytes_:,}"
            if sha256_file(path / name) != sha256:
                return f"{name} has other bytes than were written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{PROGRESS} can't be read: {' '.join(str(error).split())}"
    return None


def seconds_per_step(path: Path) -> float:
    """What a step had taken on the mean when a checkpoint was written. Raises OSError, ValueError or KeyError."""
    progress = read_sealed(path / PROGRESS)
    return float(progress["seconds"]) / int(progress["step"])


def budget_in(path: Path) -> dict[str, Any]:
    """The budget that was kept with a checkpoint. Raises OSError, ValueError or KeyError where it can't be had."""
    budget: dict[str, Any] = read_sealed(path / PROGRESS)["plan"]
    return budget


def load_checkpoint(path: Path, stepper: Stepper, world: World) -> Progress:
    """Fills model, optimizers, carried states and the scale of the loss from `path`; returns how far it was.

    Raises UserError when the checkpoint is damaged or of another model.
    """
    try:
        state = _state_of(stepper, world)
        reader = FileSystemReader(path)
        if stepper.carry is not None:
            sizes = {
                name.removeprefix("carry."): entry.size
                for name, entry in reader.read_metadata().state_dict_metadata.items()
                if name.startswith("carry.") and isinstance(entry, TensorStorageMetadata)
            }
            state["carry"] = stepper.carry.allocate(sizes, world)
        with _plain_errors():
            load(state, storage_reader=reader, process_group=world.patient, no_dist=world.size == 1)
        values = read_sealed(path / PROGRESS)
        progress = Progress(**{item.name: values[item.name] for item in fields(Progress)})
    except Exception as error:  # torch raises many types, pickle's among them, for what it can't read
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"can't read the checkpoint {path}: {reason}: remove it to go on from the one before"
        ) from error
    if state.get("base") != stepper.base_fingerprint:
        raise UserError(
            f"the checkpoint {path} was trained on another base model: restore that model, or choose another --name"
        )
    # Frozen weights aren't in it. That everything else is, `load` has seen to.
    options = StateDictOptions(strict=stepper.base_fingerprint is None)
    set_state_dict(
        stepper.model, stepper.optimizers, model_state_dict=state["model"], optim_state_dict=state["optimizer"],
        options=options,
    )  # fmt: skip
    stepper.scale.value, stepper.scale.good_steps = progress.scale, progress.good_steps
    return progress


@contextmanager
def _plain_errors() -> Iterator[None]:
    """torch warns that a checkpoint without a process group is of one process, which is what is meant here.

    It gathers the errors of all processes in one that is no `Exception`; the first of them is raised instead.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            failure, _ = next(iter(error.failures.values()))
            raise failure from failure.__context__
