"""What the programs have in common: how they are run, how long they train, and what comes back."""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.programs.text import Document
from sioconv.errors import UserError
from sioconv.progress import say

ROOT = Path(__file__).parents[2]
CALIBRATION_STEPS = 10
TOLERANCE = 0.1  # how far from the minutes asked for a training may be
TRIES = 3
MUCH_FASTER = 1.3
WARMUP = 0.05  # share of the steps, for programs whose warm-up is a number of steps made for longer runs


@dataclass(frozen=True)
class Task:
    """What is the same for all programs. `work` is where they write, each in a folder of its own."""

    text: Path
    work: Path
    minutes: float
    size: str = "17m"  # of ours; the others' are near it
    vocabulary: int = 8192
    sequence_length: int = 512
    batch_size: int = 16

    @property
    def tokens_per_step(self) -> int:
        """Tokens that an optimizer step sees."""
        return self.batch_size * self.sequence_length

    def warmup(self, steps: int) -> int:
        """Steps over which the learning rate rises."""
        return max(1, round(WARMUP * steps))


@dataclass
class Result:
    """What one program came to.

    Attributes:
        bits_per_byte: by language, and of `all`.
        seconds: of training alone.
        wall_seconds: of the whole command, which also compiles, calibrates, writes checkpoints; data is made before.
        settings: what was set, and isn't the program's own default.
        own: what the program itself says of the held-out documents, in bits per byte, where it says anything: other
            windows and other weights of the tokens, but it can't be far off.
    """

    name: str
    parameters: int
    tokens: int
    seconds: float
    wall_seconds: float
    bits_per_byte: dict[str, float]
    settings: dict[str, Any]
    versions: dict[str, str]
    own: float | None = None


@dataclass
class Training:
    """A run of a program: the seconds of every optimizer step, and of the whole command."""

    steps: list[float]
    wall_seconds: float

    @property
    def step(self) -> float:
        """Seconds that a step takes (the mean: what a user waits for), the first ones left out.

        The first compiles; the second may begin while threads are still starting.
        """
        return statistics.fmean(self.steps[2:])

    @property
    def seconds(self) -> float:
        """Seconds of all steps, as if the first one had taken as long as the others."""
        return self.step + sum(self.steps[1:])


def train_for(
    name: str, minutes: float, precisions: Sequence[str], train: Callable[[int, str], Training]
) -> tuple[Training, str]:
    """Trains with the number of steps that takes `minutes`, for a program that knows no limit of time.

    Short runs find the rate of each precision; if the machine has changed its speed since, the run is made again.

    Args:
        name: the program's.
        minutes: how long.
        precisions: the program's default, and what is taken instead where it is much faster (ours decides alike).
        train: trains from the beginning with so many steps, learning rate and all made for that number.

    Returns:
        The run, and its precision.
    """
    tried = {precision: train(CALIBRATION_STEPS, precision) for precision in precisions}
    for precision, trial in tried.items():
        say(f"{name}: {trial.step:.2f} s a step in {precision}")
    precision = precisions[0]
    fastest = min(tried, key=lambda each: tried[each].step)
    if tried[fastest].step * MUCH_FASTER < tried[precision].step:
        precision = fastest
    training = tried[precision]
    for _ in range(TRIES):
        steps = max(3, round(minutes * 60 / training.step))
        say(f"{name}: {steps:,} steps in {precision}, at {training.step:.2f} s each")
        training = train(steps, precision)
        if abs(training.seconds / 60 / minutes - 1) <= TOLERANCE:
            break
    return training, precision


def run(name: str, command: Sequence[str | Path], log: Path, folder: Path, **environment: str) -> tuple[str, float]:
    """Runs a command in `folder`, its output going to `log`; returns the output and the seconds.

    It sees no GPU: the programs are compared on the CPU.

    Raises:
        UserError: it failed, or isn't there.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    start = time.monotonic()
    try:
        with log.open("w", encoding="utf-8") as stream:
            done = subprocess.run(
                [str(word) for word in command], cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=stream,
                stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
    except OSError as error:
        raise UserError(f"{name}: can't run {command[0]}: {error.strerror}: give the path of a Python") from error
    output = log.read_text(encoding="utf-8", errors="replace")
    if done.returncode:
        last = (output.strip().splitlines() or ["nothing"])[-1].strip()
        raise UserError(f"{name} ended with exit code {done.returncode}, its last line: {last}: see {log}")
    seconds = time.monotonic() - start
    say(f"{name}: {log.stem}, {seconds:.0f} s")
    return output, seconds


def bits_by_language(documents: Sequence[Document], bits: Sequence[float]) -> dict[str, float]:
    """Bits per byte of each language, and of all documents."""
    names = sorted({document.language for document in documents} - {""})
    found = {}
    for name in [*names, "all"]:
        chosen = [(b, d.size) for b, d in zip(bits, documents, strict=True) if name in ("all", d.language)]
        found[name] = sum(b for b, _ in chosen) / sum(size for _, size in chosen)
    return found


def read_answer(path: Path) -> dict[str, Any]:
    """What an evaluation with a peer's Python has written."""
    answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return answer
