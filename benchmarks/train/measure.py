"""Times whole training steps: the entries of a group take turns, so that a busy machine slows all of them alike."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.memory import grown_memory
from benchmarks.train.arms import VOCABULARY, build
from sioconv.data.batches.loader import Batch
from sioconv.hardware import matrix_speed, synchronize
from sioconv.train.config import TrainConfig
from sioconv.train.distributed import World
from sioconv.train.step import Stepper

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CPU = torch.device("cpu")
RATE = 1e-4
SLOW_SECONDS = 20.0  # a step that takes longer is timed once
WARMING = 2  # steps that don't count: the first compiles, and the one after it still takes up to a quarter longer


@dataclass(frozen=True)
class Entry:
    """One arm on `batch` windows of `length` tokens."""

    arm: str
    length: int
    batch: int

    @property
    def tokens(self) -> int:
        """In a step."""
        return self.length * self.batch

    def windows(self) -> Batch:
        """Random tokens, the same for all arms; each window is one document."""
        random = torch.Generator().manual_seed(0)
        ids = torch.randint(0, VOCABULARY, (self.batch, self.length + 1), generator=random)
        positions = torch.arange(self.length).repeat(self.batch, 1)
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), positions == 0, positions)


@dataclass(frozen=True)
class Group:
    """Entries that are compared: models of one size, all eager or all with compiled blocks."""

    name: str
    size: str
    entries: tuple[Entry, ...]
    compiled: bool = False


@dataclass(frozen=True)
class Result:
    """What one entry came to in one dtype.

    Attributes:
        seconds: of each step that counts.
        first_seconds: of the very first step, which compiles.
        limit: operations a second of a matrix product in the same minutes.
    """

    group: str
    arm: str
    length: int
    batch: int
    dtype: str
    parameters: int
    matrix_parameters: int
    seconds: list[float]
    first_seconds: float
    limit: float

    @property
    def tokens_per_second(self) -> float:
        """By the median step."""
        return self.length * self.batch / statistics.median(self.seconds)

    @property
    def utilisation(self) -> float:
        """6 operations per token and weight of a matrix, over the measured speed of a matrix product."""
        return 6 * self.matrix_parameters * self.tokens_per_second / self.limit


def stepper(arm: str, size: str, dtype: str, compiled: bool = False, device: torch.device = CPU) -> Stepper:
    """An arm in the training loop's own step: chunked loss over the vocabulary, clipping, fused AdamW."""
    torch.manual_seed(0)
    return Stepper(build(arm, size), TrainConfig(tokens=1, compile=compiled), World(device), DTYPES[dtype])


def step(stepper: Stepper, windows: Batch) -> float:
    """Seconds of one step: forward, backward, clip, optimizer."""
    start = time.perf_counter()
    loss = stepper.gradients(windows)
    _, stepped = stepper.update(RATE, loss)
    synchronize(stepper.world.device)
    seconds = time.perf_counter() - start
    if not stepped:
        raise RuntimeError(f"the loss ({loss}) or a gradient is not finite")
    return seconds


def fastest_product(dtype: str, device: torch.device) -> float:
    """Operations a second of a matrix product, the best of three sizes.

    Larger ones are left out where one product would take seconds: bf16 on a processor that has none.
    """
    best = 0.0
    for size in (1024, 2048, 4096, *([8192] if device.type == "cuda" else [])):
        if best and 2 * size**3 / best > 2:
            break
        best = max(best, matrix_speed(device, DTYPES[dtype], size, seconds=0.2))
    return best


def measure(
    group: Group, dtypes: list[str], rounds: int, tell: Callable[[str], object], device: torch.device = CPU
) -> list[Result]:
    """Every entry in every dtype, `rounds` times in turns after `WARMING` steps that aren't counted.

    Args:
        group: what is compared.
        dtypes: of the matrix products.
        rounds: turns that count.
        tell: is told of what can't run here, which is then left out.
        device: where.
    """
    steppers: dict[str, Stepper] = {}
    times: dict[tuple[Entry, str], list[float]] = {(entry, dtype): [] for entry in group.entries for dtype in dtypes}
    limits: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
    for turn in range(WARMING + rounds):
        for dtype in dtypes:
            limits[dtype].append(fastest_product(dtype, device))
            for entry in [entry for entry in group.entries if (entry, dtype) in times]:
                spent = times[entry, dtype]
                if turn > WARMING and spent[-1] > SLOW_SECONDS:
                    continue
                try:
                    if entry.arm not in steppers:
                        steppers[entry.arm] = stepper(entry.arm, group.size, dtype, group.compiled, device)
                    steppers[entry.arm].dtype = DTYPES[dtype]
                    spent.append(step(steppers[entry.arm], entry.windows()))
                except (ImportError, RuntimeError) as error:  # not installed, or an operator that has no such dtype
                    tell(f"{group.name}: {entry.arm} in {dtype} is left out: {' '.join(str(error).split())[:160]}")
                    del times[entry, dtype]
    return [
        Result(
            group.name, entry.arm, entry.length, entry.batch, dtype, steppers[entry.arm].parameters,
            steppers[entry.arm].matrix_parameters, spent[WARMING:], spent[0], statistics.median(limits[dtype]),
        )
        for (entry, dtype), spent in times.items()
    ]  # fmt: skip


def peak_in_a_process(entry: Entry, size: str, dtype: str) -> int:
    """`peak`, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.train", "--peak", entry.arm, str(entry.length), str(entry.batch)]
    done = subprocess.run([*command, size, dtype], check=True, capture_output=True, text=True)
    grown: int = json.loads(done.stdout)
    return grown


def peak(entry: Entry, size: str, dtype: str) -> int:
    """Bytes that a step needs over weights and moments, after a first step at a small size."""
    made = stepper(entry.arm, size, dtype)
    step(made, Entry(entry.arm, 64, 1).windows())
    windows = entry.windows()
    return grown_memory(lambda: step(made, windows))
