"""How many tokens an arm trains on in a second: whole steps of the track's text, the arms in turns in one process."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.speedrun.arms import Arm
from benchmarks.speedrun.prepared import prepare, recipe_of, working_in
from benchmarks.speedrun.training import commit_here
from sioconv.data.tokenizer.tokenizer import load_tokenizer
from sioconv.hardware import describe_machine, keep_freed_memory, pick_precision
from sioconv.progress import track
from sioconv.run.folder import TOKENIZER
from sioconv.run.stages import build_model, open_windows
from sioconv.train.distributed import World
from sioconv.train.step import Stepper

STEPS = 4  # of a turn
SCHEDULE = 1000  # steps of the schedule that the measured ones are the first of


class Training:
    """An arm that can go on for some steps at a time."""

    def __init__(self, arm: Arm) -> None:
        recipe, device = recipe_of(arm), torch.device("cpu")
        config = recipe.train
        model = build_model(recipe, load_tokenizer(recipe.folder / TOKENIZER))
        self.stepper = Stepper(model, config, World(device), pick_precision(config.precision, device), recipe.seed)
        self.windows, _ = open_windows(recipe, recipe.data, config)
        self.rows, self.tokens = config.batch_size, config.batch_size * config.sequence_length
        self.step = 0

    def run(self, steps: int) -> float:
        """Trains for some steps; returns tokens a second."""
        start = time.perf_counter()
        for _ in range(steps):
            loss = self.stepper.gradients(self.windows.batch(self.step * self.rows, self.rows), self.step)
            self.stepper.update(self.stepper.learning_rate(self.step, SCHEDULE), loss)
            self.step += 1
        return steps * self.tokens / (time.perf_counter() - start)


def measure_speeds(arms: Sequence[Arm], work: Path, rounds: int, threads: int) -> list[dict[str, Any]]:
    """A row of each arm, seeds of one counted once; the first turn of each compiles kernels and isn't counted.

    The fastest turn counts: what else a machine does makes a turn slower, never faster.

    Args:
        arms: what is measured.
        work: a folder for the texts.
        rounds: turns of each but the first.
        threads: of the processor.
    """
    different = {f"{arm.track} {arm.settings}": arm for arm in reversed(arms)}
    keep_freed_memory()
    torch.set_num_threads(threads)
    prepare(list(different.values()), work)
    with working_in(work):
        trainings = [Training(arm) for arm in reversed(different.values())]
    speeds = [[each.run(STEPS) for each in trainings] for _ in track(range(1 + rounds), "calibrate (turns)")]
    common = {
        "date": datetime.now(UTC).date().isoformat(), "threads": threads, "machine": describe_machine(),
        "torch": torch.__version__, "commit": commit_here(),
    }  # fmt: skip
    return [
        {
            "track": arm.track, "name": arm.name, "settings": arm.settings,
            "tokens_per_second": round(max(found)), "median": round(median(found)), "slowest": round(min(found)),
            "rounds": rounds, **common,
        }
        for arm, found in zip(reversed(different.values()), zip(*speeds[1:], strict=True), strict=True)
    ]  # fmt: skip
