"""Checkpoints of a stage: written whole or not at all, the newest good one found again.

A checkpoint is a folder `step-00000200` with the model and optimizer as torch.distributed.checkpoint writes them and
`progress.json`. Nothing else has to be kept: data order and learning rate are functions of the step, and a step draws
no random numbers.
"""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from sioconv.errors import UserError
from sioconv.files import atomic_folder


@dataclass
class Progress:
    """How far a stage has come.

    Attributes:
        step: optimizer steps done.
        tokens: tokens read.
        seconds: time spent training.
        threads: CPU threads: another number changes the rounding.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    threads: int = 0


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, keep: int
) -> Path:
    """Writes `folder/step-N` and removes all but the newest `keep`, and what a killed process has left unfinished.

    Raises UserError when the disk is full; the checkpoints before it stay.
    """
    target = folder / f"step-{progress.step:08d}"
    for unfinished in folder.glob(".step-*"):
        shutil.rmtree(unfinished)
    weights, moments = get_state_dict(model, optimizer)
    with atomic_folder(target) as temporary:
        # Synced before the rename: a power cut must not leave a whole-looking folder with empty files.
        writer = FileSystemWriter(temporary, single_file_per_rank=True, sync_files=True)
        with _one_process():
            save({"model": weights, "optimizer": moments}, storage_writer=writer, no_dist=True)
        with (temporary / "progress.json").open("w", encoding="utf-8") as stream:
            json.dump(asdict(progress), stream)
            stream.flush()
            os.fsync(stream.fileno())
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "progress.json").is_file())


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Fills model and optimizer from the checkpoint `path` and returns how far it was.

    Raises UserError when the checkpoint is damaged or of another model.
    """
    weights, moments = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": weights, "optimizer": moments}
    try:
        with _one_process():
            load(state, storage_reader=FileSystemReader(path), no_dist=True)
        progress = Progress(**json.loads((path / "progress.json").read_text(encoding="utf-8")))
    except Exception as error:  # torch raises many types, pickle's among them, for what it can't read
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"can't read the checkpoint {path}: {reason}: remove it to go on from the one before"
        ) from error
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return progress


@contextmanager
def _one_process() -> Iterator[None]:
    """torch warns that a checkpoint without a process group is of one process, which is what is meant here.

    It gathers the errors of all processes in one that is no `Exception`; that of the one process is raised instead.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            failure, _ = next(iter(error.failures.values()))
            raise failure from failure.__context__
