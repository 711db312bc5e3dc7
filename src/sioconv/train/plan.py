"""What is fixed before the first step and kept by a run that is resumed."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sioconv.files import atomic_write
from sioconv.train.config import TrainConfig


@dataclass
class Plan:
    """A stage's plan.

    Attributes:
        steps: optimizer steps in all.
        precision: dtype of the matrix products: bfloat16, float16 or float32.
        samples: step → label of the moments at which text is sampled.
    """

    steps: int
    precision: str
    samples: dict[int, str]

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch's dtype."""
        return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[self.precision]


def make_plan(config: TrainConfig, dtype: torch.dtype, seconds: float) -> Plan:
    """The plan that follows from the settings.

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
    return Plan(steps, str(dtype).removeprefix("torch."), dict(sorted(samples.items())))


def read_plan(path: Path) -> Plan | None:
    """The plan of a stage that was begun before; None where there is none."""
    if not path.exists():
        return None
    saved = json.loads(path.read_text(encoding="utf-8"))
    samples = {int(step): label for step, label in saved["samples"].items()}
    return Plan(saved["steps"], saved["precision"], samples)


def write_plan(plan: Plan, path: Path) -> None:
    """Writes the plan, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(asdict(plan), indent=1), encoding="utf-8")
