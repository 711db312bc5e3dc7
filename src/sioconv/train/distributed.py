"""The processes that train one model together: who they are, how they agree, how the weights are shared out.

Any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT will do: torchrun, or srun with those
variables taken from Slurm's. Without them there is one process, and nothing here communicates.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from sioconv.errors import UserError
from sioconv.hardware import pick_device
from sioconv.progress import console

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # while one process prepares data or writes a checkpoint; a dead one is noticed at once


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    Attributes:
        device: the device of this process.
        rank: its number.
        size: how many there are.
        mesh: over all of them, for sharding; None where there is one.
        patient: a group that waits for long, for what one process does while the others wait.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None
    patient: dist.ProcessGroup | None = None

    def apart(self) -> "World":
        """The same processes with a group of their own, for a thread that communicates beside the training."""
        return self if self.size == 1 else replace(self, patient=dist.new_group(backend="gloo", timeout=PATIENCE))

    @property
    def leads(self) -> bool:
        """Whether this is the process that prints and writes what is written once."""
        return self.rank == 0

    def sums(self, *values: float) -> list[float]:
        """Each value summed over the processes, in fp64."""
        if self.size == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(totals)
        result: list[float] = totals.tolist()
        return result

    def share(self, value: T) -> T:
        """The first process's value, for all."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.patient)
        return box[0]

    def agree(self, work: Callable[[], T]) -> list[T]:
        """Does the same work on every process and returns all results by rank; where one fails, all of them raise.

        Raises:
            UserError: it is what the work raised here or on another process.
        """
        if self.size == 1:
            return [work()]
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # whatever it is, the others must not wait for what will never come
            failure = error
        reason = None if failure is None else str(failure) or type(failure).__name__
        outcomes: list[Any] = [None] * self.size
        dist.all_gather_object(outcomes, (result, reason), group=self.patient)
        if failure is not None:
            raise failure
        for rank, (_, other) in enumerate(outcomes):
            if other is not None:
                raise UserError(f"process {rank} has failed: {other}")
        return [each for each, _ in outcomes]

    def leader(self, work: Callable[[], T]) -> T:
        """The result of work that the first process does while the others wait; raises as `agree` does."""
        result: T = self.agree(lambda: work() if self.leads else None)[0]  # type: ignore[assignment]
        return result


@contextmanager
def join_world(device: str = "auto", timeout: float = 600.0) -> Iterator[World]:
    """Takes this process's place among those that the launcher has started.

    Args:
        device: as in `pick_device`; with several processes each takes the card of its local rank.
        timeout: seconds after which waiting for another process ends with an error.

    Raises:
        UserError: the device isn't there, the processes don't find each other, or one stops while others wait for it.
    """
    size, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
    chosen = pick_device(device)
    if size == 1:
        yield World(chosen)
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if chosen.type == "mps":
        raise UserError("several processes can't share an mps device: start one, or set train.device to cpu")
    if not 0 <= rank < size or missing:
        raise UserError(
            f"process {rank} of {size}: {', '.join(missing) or 'RANK'} is missing or wrong: start with torchrun"
        )
    local = _number("LOCAL_RANK", rank)
    if chosen.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(f"process {rank} has no card of its own: {torch.cuda.device_count()} here: start fewer")
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    if rank > 0:  # the first speaks for all; errors are told by whoever has them
        console.quiet = True
        logging.getLogger("sioconv").setLevel(logging.WARNING)
    with lost_processes():
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        mesh = init_device_mesh(chosen.type, (size,))
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        yield World(chosen, rank, size, mesh, patient)
        # Not after an error: the others may be gone, and this would wait for them.
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    """A variable that a launcher sets."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"the variable {name} is {text!r}, not a number: unset it or start with torchrun")
    return int(text)


@contextmanager
def lost_processes() -> Iterator[None]:
    """Turns what torch raises when another process is gone or doesn't answer into a one-line `UserError`."""
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, dist.DistError) or "gloo" in reason or "Connection" in reason:
            raise UserError(
                f"another process of this run has stopped or doesn't answer ({reason[-160:]}): see what it said, then "
                "run the same line again: it goes on from the last checkpoint"
            ) from error
        raise


def shard(root: nn.Module, blocks: list[nn.Module], world: World, dtype: torch.dtype, keep: set[str]) -> None:
    """Shares the weights of `root` out over the processes (FSDP2), block by block; nothing to do for one process.

    Weights, gradients and moments are kept in fp32 shards. Under bf16 the weights of a block's linear layers are
    gathered in bf16, all others in fp32. Gradients are summed, in fp32: the training step divides by the number of
    tokens of all processes. (An average on gloo has been a sum, pytorch #162338; a forced sum is one everywhere.)

    Args:
        root: what is called in a training step; everything that isn't in a block is gathered with it.
        blocks: modules of `root` that are gathered one after the other.
        world: the processes.
        dtype: precision of the matrix products.
        keep: names of linear layers that stay in fp32.
    """
    if world.mesh is None:
        return
    # A linear layer's output is a view, which FSDP2 warns of: nothing here changes it in place.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    half = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks:
        linear: list[nn.Module] = [
            module
            for name, module in block.named_modules()
            if isinstance(module, nn.Linear) and name.rpartition(".")[2] not in keep
        ]
        if dtype == torch.bfloat16 and linear:
            fully_shard(linear, mesh=world.mesh, mp_policy=half)
        fully_shard(block, mesh=world.mesh)
    fully_shard(root, mesh=world.mesh)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
