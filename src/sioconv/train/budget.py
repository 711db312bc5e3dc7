"""The budget of a stage: steps, precision and inputs, fixed before the first step and kept when a run resumes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sioconv.checksums import read_sealed, write_sealed
from sioconv.errors import UserError
from sioconv.progress import say
from sioconv.train.checkpoint import budget_in, checkpoints
from sioconv.train.config import TrainConfig

PLAN = "plan.json"  # in the folder of a stage's checkpoints


@dataclass
class Budget:
    """What a stage was given when it began, which doesn't change when it goes on.

    Attributes:
        steps: optimizer steps in all.
        precision: dtype of the matrix products: bfloat16, float16 or float32.
        samples: step → label of the moments at which text is sampled.
        inputs: what the stage began with, by name, as checksums: the text of each source, the base model.
        longer: where more was asked for when it was done: `asked`, the words; `train`, the settings that this changed;
            `start`, the step of the checkpoint that it goes on from.
    """

    steps: int
    precision: str
    samples: dict[int, str]
    inputs: dict[str, str] = field(default_factory=dict)
    longer: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch's dtype."""
        return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[self.precision]


def make_budget(config: TrainConfig, dtype: torch.dtype, seconds: float) -> Budget:
    """The budget that follows from the settings.

    Args:
        config: the stage's settings.
        dtype: precision of the matrix products.
        seconds: what a step takes; infinity where it doesn't matter.
    """
    tokens_per_step = config.batch_size * config.sequence_length
    tokens = config.tokens
    if tokens is None:
        assert config.minutes is not None
        tokens = int(config.minutes * 60 / seconds) * tokens_per_step
    steps = max(1, tokens // tokens_per_step)
    samples = {round(moment / seconds): f"{moment:g} s" for moment in config.sample_seconds}
    samples = {step: label for step, label in samples.items() if 0 < step < steps} | {0: "start", steps: "end"}
    return Budget(steps, str(dtype).removeprefix("torch."), dict(sorted(samples.items())))


def read_budget(path: Path) -> Budget | None:
    """The budget of a stage that was begun before; None where there is none.

    Where the file is missing or isn't what was written, the budget that the newest checkpoint holds takes its place.

    Raises UserError where there are checkpoints without a budget: their stage can't go on as it began.
    """
    try:
        return _parse(read_sealed(path))
    except FileNotFoundError:
        problem = "missing"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        problem = "damaged"
    kept = checkpoints(path.parent)
    for checkpoint in reversed(kept):
        try:
            budget = _parse(budget_in(checkpoint))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # of an older version, or damaged too
            continue
        say(f"warning: {path} is {problem}: taken from {checkpoint.name}")
        write_budget(budget, path)
        return budget
    if kept:
        raise UserError(f"{path} is {problem}: restore it from a copy, or remove {path.parent} to begin the stage anew")
    if problem == "damaged":
        say(f"warning: {path} is damaged: made anew, since the stage has no checkpoint yet")
    return None


def _parse(saved: Mapping[str, Any]) -> Budget:
    samples = {int(step): str(label) for step, label in saved["samples"].items()}
    parts = (dict(saved.get(key, {})) for key in ("inputs", "longer"))
    budget = Budget(int(saved["steps"]), str(saved["precision"]), samples, *parts)
    if budget.dtype.is_complex:  # looks the name up, which raises KeyError where it is none
        raise ValueError(budget.precision)
    return budget


def write_budget(budget: Budget, path: Path) -> None:
    """Writes the budget, whole or not at all."""
    write_sealed(path, asdict(budget), indent=1)
