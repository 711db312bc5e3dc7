"""Held-out losses and written samples during training."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from sioconv.language import translated
from sioconv.progress import say
from sioconv.terminal import one_line
from sioconv.train.budget import Budget
from sioconv.train.checkpoint import Progress
from sioconv.train.config import TrainConfig
from sioconv.train.metrics import MetricsLog
from sioconv.train.step import Stepper


@dataclass
class Validation:
    """One line of a validation: mean loss in nats per token that counts, and bits per byte for text."""

    source: str
    loss: float
    bpb: float | None


Validate = Callable[[PreTrainedModel], Iterable[Validation]]
Sample = Callable[[PreTrainedModel, str], str]


class Watch:
    """Measures and samples the model during a stage; the first process does it while the others wait.

    Args:
        stage: pretrain or finetune.
        config: the stage's settings.
        stepper: the model.
        validate: gives the losses on held-out text.
        sample: continues a prompt.

    Attributes:
        log: where rows go; None on all processes but the first.
    """

    def __init__(self, stage: str, config: TrainConfig, stepper: Stepper, validate: Validate, sample: Sample) -> None:
        self.stage, self.config = stage, config
        self.log: MetricsLog | None = None
        self._stepper, self._validate, self._sample = stepper, validate, sample

    def write(self, **values: Any) -> None:
        """A row of metrics."""
        if self.log is not None:
            self.log.write(**values)

    def validate(self, progress: Progress) -> bool:
        """Measures the held-out losses and notes them in `progress`; returns whether their mean is the best so far."""
        results = self._on_the_whole(self._measure)
        for result in results:
            self.write(
                step=progress.step, tokens=progress.tokens, split="heldout", source=result.source, loss=result.loss,
                bpb=result.bpb, seconds=progress.seconds,
            )  # fmt: skip
        line = ", ".join(
            f"{result.source} {result.loss:.3f}" + ("" if result.bpb is None else f" ({result.bpb:.3f} bits/byte)")
            for result in results
        )
        say(f"{self.stage} step {progress.step:,}, held out: {line}")
        if not results:
            return False
        progress.heldout = statistics.fmean(result.loss for result in results)
        improved = progress.best is None or progress.heldout < progress.best
        if improved:
            progress.best = progress.heldout
        return improved

    def _measure(self, model: PreTrainedModel) -> list[Validation]:
        with self._stepper.autocast():
            return list(self._validate(model))

    def sample(self, budget: Budget, progress: Progress) -> None:
        """Lets the model continue the prompts, if this is a moment for it."""
        label = budget.samples.get(progress.step)
        every = self.config.sample_every
        if label is None and every and progress.step % every == 0:
            label = f"step {progress.step}"
        if label is None:
            return
        prompts = self.config.sample_prompts
        texts = self._on_the_whole(lambda model: [self._sample(model, prompt) for prompt in prompts])
        for prompt, text in zip(prompts, texts, strict=True):
            say(one_line(f"[{self.stage}, {translated(label)}] {prompt}{text}"))
            if self.log is not None:
                self.log.write_sample(
                    {"step": progress.step, "tokens": progress.tokens, "seconds": progress.seconds, "label": label,
                     "prompt": prompt, "text": text}
                )  # fmt: skip

    def _on_the_whole(self, work: Callable[[PreTrainedModel], list[Any]]) -> list[Any]:
        """The result, for all processes, of what the first does with the whole model."""
        with self._stepper.whole_model() as model:
            return self._stepper.world.leader(lambda: work(model))
