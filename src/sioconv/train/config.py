"""What a recipe says about training; the same for pretraining and fine-tuning."""

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class TrainConfig:
    """One stage of training.

    Args:
        tokens: how many tokens to train on; or give `minutes`.
        minutes: how long to train, turned into tokens by a short calibration before the first step.
        sequence_length: tokens in a window.
        batch_size: windows in an optimizer step.
        accumulation: pieces that a step's windows are computed in, to save memory; doesn't change the result.
        whole_documents: pack whole documents into a window instead of cutting the stream of text; for conversations.
        lr: highest learning rate.
        warmup: share of the steps over which the learning rate rises from 0.
        decay: share of the steps, at the end, over which it falls linearly to 0.
        weight_decay: decoupled decay, on matrices only.
        beta1: AdamW's decay of the mean gradient.
        beta2: AdamW's decay of the mean squared gradient.
        clip: largest norm of the gradient.
        device: auto (cuda, then mps, then cpu) or a torch device.
        precision: auto takes bf16 autocast where it is measured faster, or fp32.
        threads: CPU threads; null leaves torch's choice.
        activation_checkpointing: recompute the inside of each block in the backward pass, to save memory.
        log_every: steps from one line of metrics to the next.
        validate_every: steps from one validation to the next; 0 validates only at the end.
        validate_bytes: most held-out text of a source that a validation reads.
        checkpoint_every: steps from one checkpoint to the next; 0 writes only the last.
        keep_checkpoints: how many of the newest are kept.
        sample_prompts: texts that are continued during training.
        sample_seconds: at which moments, in seconds of training (besides the first and the last step).
        sample_tokens: length of a continuation.
    """

    tokens: int | None = None
    minutes: float | None = None
    sequence_length: int = 256
    batch_size: int = 16
    accumulation: int = 1
    whole_documents: bool = False
    lr: float = 3e-3
    warmup: float = 0.05
    decay: float = 0.3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = None
    activation_checkpointing: bool = False
    log_every: int = 10
    validate_every: int = 0
    validate_bytes: int = 50_000
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    sample_prompts: list[str] = field(default_factory=lambda: ["宮城県(", "The man"])
    sample_seconds: list[float] = field(default_factory=lambda: [30.0, 60.0, 120.0, 240.0])
    sample_tokens: int = 48

    def check(self) -> None:
        """Raises ValueError, naming the field, where the values can't be trained with."""
        if (self.tokens is None) == (self.minutes is None):
            raise ValueError("tokens: give exactly one of tokens and minutes")
        if not 0 < (self.tokens or self.minutes or 0) < math.inf:
            raise ValueError("tokens: the budget, in tokens or minutes, must be positive")
        for name in ("sequence_length", "batch_size", "accumulation", "log_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation: {self.accumulation} does not divide batch_size {self.batch_size}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads: {self.threads} is less than 1: leave it null for torch's choice")
        if not (self.warmup >= 0 and self.decay >= 0 and self.warmup + self.decay <= 1):
            raise ValueError(
                f"warmup: warmup {self.warmup} and decay {self.decay} must be shares that add up to 1 at most"
            )
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)} is not a positive number")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 0 and under 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: {self.weight_decay} is negative or not a number")
        if not all(0 <= moment < math.inf for moment in self.sample_seconds):
            raise ValueError(f"sample_seconds: {self.sample_seconds} are not all moments after the start")
