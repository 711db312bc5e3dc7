"""A stage of training small enough to be run many times: a model of 21,000 weights, windows made from their number."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from sioconv.data.batches.loader import Batch
from sioconv.model import Architecture, SioConvConfig, SioConvForCausalLM
from sioconv.model.baselines.architectures import build_baseline
from sioconv.train.config import TrainConfig
from sioconv.train.distributed import World
from sioconv.train.loop import Trainer
from sioconv.train.validation import Validation

VOCABULARY = 48
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "intermediate_size": 48}
SETTINGS: dict[str, Any] = {
    "sequence_length": 12,
    "batch_size": 4,
    "lr": 1e-2,
    "device": "cpu",
    "precision": "fp32",
    "log_every": 2,
    "checkpoint_every": 3,
    "keep_before_decay": False,
    "sample_prompts": ["川"],
    "sample_seconds": [],
}


class Windows:
    """Stands for a `Mixture`: each window is a pure function of its number; tokens follow a pattern that can be learnt.

    Args:
        on_batch: called with the number of the first window before a batch is given.
    """

    def __init__(self, on_batch: Callable[[int], object] = id) -> None:
        self.on_batch = on_batch

    def batch(self, first_window: int, size: int) -> Batch:
        """The windows `first_window` … `first_window + size - 1`."""
        self.on_batch(first_window)
        length = SETTINGS["sequence_length"]
        ids = torch.zeros(size, length, dtype=torch.int64)
        positions = torch.arange(length).repeat(size, 1)
        reset = torch.zeros(size, length, dtype=torch.bool)
        targets = torch.zeros(size, length, dtype=torch.int64)
        for row in range(size):
            generator = torch.Generator().manual_seed(first_window + row)
            start = int(torch.randint(0, VOCABULARY, (), generator=generator))
            tokens = (start + 5 * torch.arange(length + 1)) % VOCABULARY
            ids[row], targets[row] = tokens[:-1], tokens[1:]
            begin = int(torch.randint(1, length, (), generator=generator))
            reset[row, begin] = True
            positions[row, begin:] -= begin
            # Windows have different numbers of tokens that count.
            targets[row, : int(torch.randint(0, length // 2, (), generator=generator))] = -100
        return Batch(ids, targets, reset, positions)


def make_model(**options: object) -> SioConvForCausalLM:
    """A model with the same weights every time."""
    torch.manual_seed(0)
    config = SioConvConfig(vocab_size=VOCABULARY, z_gain=1.0, y_gain=1.0, **SIZES, **options)
    return SioConvForCausalLM(config)


def make_baseline(architecture: str, **options: Any) -> PreTrainedModel:
    """A model of another architecture, about as large, with the same weights every time."""
    torch.manual_seed(0)
    return build_baseline(architecture, Architecture(**SIZES | options), VOCABULARY)


def validate(model: PreTrainedModel) -> Iterator[Validation]:
    """Stands for a validation: figures that every bit of the head's weights changes."""
    assert not model.training
    yield Validation("rivers", float(model.lm_head.weight.detach().double().norm()), 2.5)
    yield Validation("talks", 1.5, None)


def sample(model: PreTrainedModel, prompt: str) -> str:
    """Stands for a continuation."""
    assert not model.training
    return f"{prompt}は流れる\n{float(model.lm_head.weight.detach().double().sum()):.17g}"


def make_config(steps: int | None = 8, **settings: Any) -> TrainConfig:
    """The settings of a stage of so many steps."""
    settings = SETTINGS | settings
    if steps is not None:
        settings["tokens"] = steps * settings["batch_size"] * settings["sequence_length"]
    config = TrainConfig(**settings)
    config.check()
    return config


def make_trainer(
    run: Path, model: PreTrainedModel, config: TrainConfig, stage: str = "pretrain",
    on_batch: Callable[[int], object] = id, world: World | None = None,
) -> Trainer:  # fmt: skip
    """A trainer as a new process makes it."""
    return Trainer(run, stage, model, Windows(on_batch), config, validate, sample, world)
