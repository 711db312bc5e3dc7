"""The recipe's settings for training, the same for pretraining and fine-tuning."""

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from sioconv.errors import UserError

MOST_THREADS = 1024  # more than any machine has cores for; the thread libraries end the process where they get none
MOST_WINDOWS = 1 << 24  # of a step
LONGEST_WINDOW = 1 << 40
MOST_SECONDS = 1e9  # 30 years


@dataclass
class TrainConfig:
    """One stage of training.

    Args:
        only: what is trained: all weights; or initial_state, the layers' learned initial states alone, which become a
            file of their own (state tuning; fine-tuning only).
        start: of pretraining: random weights; or counts, the embedding and the head that predict a token best from the
            one before it alone, computed in some seconds from how often pairs of tokens stand in the training text.
        tokens: how many tokens to train on; or give `minutes`.
        minutes: how long to train, turned into tokens by a short calibration before the first step.
        sequence_length: tokens in a window.
        batch_size: windows in an optimizer step.
        accumulation: micro-batches that a step's windows are computed in, to save memory: one after the other, or side
            by side where there are several processes. Doesn't change the result.
        whole_documents: pack whole documents into a window instead of cutting the stream of text; for conversations.
        carry_state: read the text in as many contiguous lanes as there are windows in a step, each window starting from
            the state that the one before it left (truncated back-propagation through time): memory longer than a window
            is trained.
        optimizer: adamw; or muon, for the matrices inside the blocks, with AdamW for everything else.
        lr: highest learning rate.
        schedule: wsd (rise, stay, fall linearly) or cosine (rise, then fall as half a cosine), both to 0.
        warmup: share of the steps over which the learning rate rises from 0.
        decay: wsd's share of the steps, at the end, over which it falls.
        weight_decay: decoupled decay, on matrices only.
        beta1: AdamW's decay of the mean gradient.
        beta2: AdamW's decay of the mean squared gradient.
        clip: largest norm of the gradient.
        device: auto (cuda, then mps, then cpu) or a torch device.
        precision: auto takes bf16 where the device has it (on a CPU: where it is measured faster), fp16 with a scaled
            loss on older NVIDIA cards, else fp32. Weights and moments are fp32 always.
        threads: CPU threads; null leaves torch's choice.
        compile: compile each block with torch.compile; takes a minute or more and a C++ compiler.
        timeout: seconds after which a process that waits for another in vain gives up.
        activation_checkpointing: recompute the inside of each block in the backward pass, to save memory.
        log_every: steps from one line of metrics to the next.
        validate_every: steps from one validation to the next; 0 validates only at the end.
        validate_bytes: most held-out text of a source that a validation reads.
        checkpoint_every: steps from one checkpoint to the next; 0 writes only the last.
        keep_checkpoints: how many of the newest are kept.
        keep_every: also keep those whose step is a multiple of this; 0 for none.
        keep_before_decay: also save and keep the last one before wsd's learning rate falls: from it a longer run goes
            on as if it had been asked for at once.
        keep_best: also keep the one with the lowest held-out loss; each validation that beats it is then saved.
        wandb: mirror the metrics to Weights & Biases.
        sample_prompts: texts that are continued during training.
        sample_seconds: at which moments, in seconds of training (besides the first and the last step).
        sample_every: steps from one sampling to the next, besides; 0 for none.
        sample_tokens: length of a continuation.
    """

    only: Literal["all", "initial_state"] = "all"
    start: Literal["random", "counts"] = "random"
    tokens: int | None = None
    minutes: float | None = None
    sequence_length: int = 256
    batch_size: int = 16
    accumulation: int = 1
    whole_documents: bool = False
    carry_state: bool = False
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 3e-3
    schedule: Literal["wsd", "cosine"] = "wsd"
    warmup: float = 0.05
    decay: float = 0.3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    threads: int | None = None
    compile: bool = False
    timeout: float = 600.0
    activation_checkpointing: bool = False
    log_every: int = 10
    validate_every: int = 0
    validate_bytes: int = 50_000
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    keep_every: int = 0
    keep_before_decay: bool = True
    keep_best: bool = False
    wandb: bool = False
    sample_prompts: list[str] = field(default_factory=lambda: ["宮城県(", "The man"])
    sample_seconds: list[float] = field(default_factory=lambda: [30.0, 60.0, 120.0, 240.0])
    sample_every: int = 0
    sample_tokens: int = 48

    def check(self) -> None:
        """Raises ValueError, naming the field, where the values can't be trained with."""
        if (self.tokens is None) == (self.minutes is None):
            raise ValueError("tokens: give exactly one of tokens and minutes")
        if not 0 < (self.tokens or self.minutes or 0) < math.inf:
            raise ValueError("tokens: the budget, in tokens or minutes, must be positive")
        for name, most in (("sequence_length", LONGEST_WINDOW), ("batch_size", MOST_WINDOWS)):
            if getattr(self, name) > most:
                raise ValueError(f"{name}: {getattr(self, name)} is more than {most:,}")
        if self.minutes is not None and self.minutes > MOST_SECONDS / 60:
            raise ValueError(f"minutes: {self.minutes} is more than {MOST_SECONDS / 60:,.0f}")
        for name in (
            "sequence_length", "batch_size", "accumulation", "log_every", "keep_checkpoints", "sample_tokens",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
        for name in ("validate_every", "checkpoint_every", "sample_every", "keep_every", "validate_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative: 0 is for never")
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation: {self.accumulation} does not divide batch_size {self.batch_size}")
        if self.keep_best and not self.validate_every:
            raise ValueError("keep_best: nothing is measured to choose by: set validate_every as well")
        if self.carry_state and self.whole_documents:
            raise ValueError("carry_state: whole_documents packs documents that don't follow each other: choose one")
        if self.carry_state and self.only == "initial_state":
            raise ValueError("carry_state: a window that goes on with a carried state doesn't train the initial state")
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise ValueError(
                f"threads: {self.threads} is not from 1 to {MOST_THREADS}: leave it null for torch's choice"
            )
        if not re.fullmatch(r"[a-z]+(:[0-9]{1,4})?", self.device) or self.device.startswith("meta"):
            raise ValueError(f"device: {self.device!r} can't train: try auto, cpu, cuda, cuda:1 or mps")
        if not (self.warmup >= 0 and self.decay >= 0 and self.warmup + self.decay <= 1):
            raise ValueError(
                f"warmup: warmup {self.warmup} and decay {self.decay} must be shares that add up to 1 at most"
            )
        for name in ("lr", "clip", "timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)} is not a positive number")
        if self.timeout > MOST_SECONDS:
            raise ValueError(f"timeout: {self.timeout} is more than {MOST_SECONDS:,.0f} seconds")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 0 and under 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: {self.weight_decay} is negative or not a number")
        if not all(0 <= moment < math.inf for moment in self.sample_seconds):
            raise ValueError(f"sample_seconds: {self.sample_seconds} are not all moments after the start")


def set_threads(threads: int | None) -> None:
    """Sets the number of CPU threads; None leaves it. Raises UserError where it is out of range."""
    if threads is None:
        return
    import torch  # not before it is needed: recipes are read without it

    if not 1 <= threads <= MOST_THREADS:
        raise UserError(f"threads out of range: {threads}: give a number from 1 to {MOST_THREADS}")
    torch.set_num_threads(threads)
