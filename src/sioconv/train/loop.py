"""The training loop: one for pretraining and fine-tuning.

A step is a function of the weights and its number: its windows come from the mixture by their index, its learning rate
from the schedule. So a run that is killed and started again from a checkpoint ends with the same weights, bit for bit.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from sioconv.data.loader import Batch, Mixture
from sioconv.device import describe_device, pick_device
from sioconv.errors import UserError
from sioconv.files import atomic_write
from sioconv.model.causal_lm import SioConvForCausalLM
from sioconv.model.loss import IGNORED, backward_token_loss
from sioconv.progress import say
from sioconv.train.checkpoint import Progress, checkpoints, load_checkpoint, save_checkpoint
from sioconv.train.config import TrainConfig
from sioconv.train.metrics import MetricsLog, TrainingBar
from sioconv.train.optimizer import build_optimizer, learning_rate
from sioconv.train.speed import keep_freed_memory, matrix_speed, pick_precision, synchronize

CALIBRATION_SECONDS = 6.0


@dataclass
class Plan:
    """What is fixed before the first step and kept by a run that is resumed.

    Attributes:
        steps: optimizer steps in all.
        precision: dtype of the matrix products, bfloat16 or float32.
        samples: step → label of the moments at which text is sampled.
    """

    steps: int
    precision: str
    samples: dict[int, str]

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch's dtype."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32


@dataclass
class Validation:
    """One line of a validation: mean loss in nats per token that counts, and bits per byte for text."""

    source: str
    loss: float
    bpb: float | None


Validate = Callable[[SioConvForCausalLM], Iterable[Validation]]
Sample = Callable[[SioConvForCausalLM, str], str]


class Trainer:
    """Trains a model for one stage of a run.

    Args:
        run: the run's folder.
        stage: pretrain or finetune.
        model: the model, changed in place.
        mixture: where the windows come from.
        config: the stage's settings.
        validate: gives the losses on held-out text.
        sample: continues a prompt.
    """

    def __init__(
        self,
        run: Path,
        stage: str,
        model: SioConvForCausalLM,
        mixture: Mixture,
        config: TrainConfig,
        validate: Validate,
        sample: Sample,
    ) -> None:
        self.run_folder, self.stage, self.config = run, stage, config
        self.mixture, self.validate, self.sample = mixture, validate, sample
        keep_freed_memory()
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = pick_device(config.device)
        self.model = model.to(self.device).train()  # type: ignore[arg-type]
        if config.activation_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        self.optimizer = build_optimizer(model, config)
        self.folder = run / "checkpoints" / stage
        self.tokens_per_step = config.batch_size * config.sequence_length
        # Utilisation counts 6 operations per token and weight of a matrix; the embedding is a look-up.
        self.matrix_parameters = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))

    def train(self) -> Progress:
        """Trains from the newest checkpoint, or from the start, to the end of the plan.

        Raises:
            UserError: the loss isn't finite (the optimizer hasn't stepped, the last checkpoint stays), a checkpoint is
                damaged, or the disk is full.
        """
        plan = self._plan()
        progress = Progress(threads=torch.get_num_threads())
        if found := checkpoints(self.folder):
            progress = self._resume(found[-1])
        speed = matrix_speed(self.device, plan.dtype)
        say(
            f"{self.stage}: {describe_device(self.device)}, {plan.precision}, {plan.steps:,} steps of "
            f"{self.tokens_per_step:,} tokens, {sum(p.numel() for p in self.model.parameters()):,} parameters"
        )
        log = MetricsLog(self.run_folder, self.stage, progress.step)
        try:
            with TrainingBar(self.stage, plan.steps, progress.step) as bar:
                self._loop(plan, progress, log, bar, speed)
        finally:
            log.close()
        return progress

    def _loop(self, plan: Plan, progress: Progress, log: MetricsLog, bar: TrainingBar, speed: float) -> None:
        if not progress.step:
            self._sample_if_due(plan, progress, log)
        recent: list[tuple[float, float]] = []  # (loss, seconds) of the steps since the last line of metrics
        while progress.step < plan.steps:
            start = time.perf_counter()
            rate = learning_rate(progress.step, plan.steps, self.config)
            loss, norm = self._step(progress.step, rate, plan.dtype)
            synchronize(self.device)
            seconds = time.perf_counter() - start
            progress.step += 1
            progress.tokens += self.tokens_per_step
            progress.seconds += seconds
            recent.append((loss, seconds))
            last = progress.step == plan.steps
            saves = last or is_due(progress.step, self.config.checkpoint_every)
            # Also where a checkpoint follows, so that a run that goes on from it writes the same lines.
            if saves or is_due(progress.step, self.config.log_every):
                mean = statistics.fmean(loss for loss, _ in recent)
                per_second = self.tokens_per_step * len(recent) / sum(seconds for _, seconds in recent)
                recent.clear()
                log.write(
                    step=progress.step, tokens=progress.tokens, split="train", loss=mean, lr=rate, grad_norm=norm,
                    tokens_per_second=per_second, seconds=progress.seconds,
                )  # fmt: skip
                used = 6 * self.matrix_parameters * per_second / speed
                bar.update(
                    progress.step,
                    f"loss {mean:.3f} · {per_second:,.0f} tokens/s · {used:.0%} of matrix speed",
                )
            self._sample_if_due(plan, progress, log)
            if last or is_due(progress.step, self.config.validate_every):
                self._validate(progress, log, plan.dtype)
            if saves:
                save_checkpoint(self.folder, self.model, self.optimizer, progress, self.config.keep_checkpoints)

    def _step(self, step: int, rate: float, dtype: torch.dtype) -> tuple[float, float]:
        """One optimizer step; returns the mean loss in nats per token and the gradient's norm before clipping."""
        first = step * self.config.batch_size
        loss = self._gradients(self.mixture.batch(first, self.config.batch_size), dtype)
        norm = float(clip_grad_norm_(self.model.parameters(), self.config.clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            kept = checkpoints(self.folder)
            what = "gradient" if math.isfinite(loss) else "loss"
            windows = f"windows {first} to {first + self.config.batch_size - 1}"
            raise UserError(
                f"the {what} is not finite at step {step + 1} of {self.stage} ({windows}): lower train.lr and run "
                f"again; last good checkpoint: {kept[-1] if kept else 'none'}"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, norm

    def _gradients(self, batch: Batch, dtype: torch.dtype) -> float:
        """Adds the gradient of the mean loss per token that counts; returns that loss."""
        count = max(1, int((batch.targets != IGNORED).sum()))
        pieces = self.config.accumulation
        total = 0.0
        for ids, targets, reset in zip(
            batch.input_ids.chunk(pieces), batch.targets.chunk(pieces), batch.reset.chunk(pieces), strict=True
        ):
            ids, targets, reset = (tensor.to(self.device, non_blocking=True) for tensor in (ids, targets, reset))
            with self._autocast(dtype):
                hidden = self.model.model(ids, reset=reset, use_cache=False).last_hidden_state
                total += backward_token_loss(hidden, self.model.lm_head, targets, 1 / count)
        return total

    def _autocast(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        return nullcontext() if dtype == torch.float32 else torch.autocast(self.device.type, dtype)

    def _plan(self) -> Plan:
        """The stage's plan: read from the run if it was begun before, else made by a calibration and written there."""
        path = self.folder / "plan.json"
        if path.exists():
            saved = json.loads(path.read_text(encoding="utf-8"))
            return Plan(
                saved["steps"],
                saved["precision"],
                {int(step): label for step, label in saved["samples"].items()},
            )
        dtype = pick_precision(self.config.precision, self.device)
        tokens, minutes = self.config.tokens, self.config.minutes
        seconds = self._seconds_per_step(dtype) if minutes or self.config.sample_seconds else math.inf
        if tokens is None:
            assert minutes is not None
            tokens = int(minutes * 60 / seconds) * self.tokens_per_step
        steps = max(1, tokens // self.tokens_per_step)
        samples = {round(moment / seconds): f"{moment:g} s" for moment in self.config.sample_seconds}
        samples = {step: label for step, label in samples.items() if 0 < step < steps} | {
            0: "start",
            steps: "end",
        }
        plan = Plan(steps, str(dtype).removeprefix("torch."), dict(sorted(samples.items())))
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(plan), indent=1), encoding="utf-8")
        return plan

    def _seconds_per_step(self, dtype: torch.dtype) -> float:
        """Median time of a step, measured with a learning rate of 0: the weights stay what they are."""
        say(f"{self.stage}: measuring the speed of a step")
        times: list[float] = []
        end = time.perf_counter() + CALIBRATION_SECONDS
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            self._step(len(times), 0.0, dtype)
            synchronize(self.device)
            times.append(time.perf_counter() - start)
        self.optimizer = build_optimizer(self.model, self.config)  # its moments have seen gradients: begin anew
        return statistics.median(times[1:])

    def _resume(self, path: Path) -> Progress:
        progress = load_checkpoint(path, self.model, self.optimizer)
        say(f"{self.stage}: goes on from {path.name} ({progress.tokens:,} tokens)")
        threads = torch.get_num_threads()
        if self.device.type == "cpu" and progress.threads != threads:
            say(f"{self.stage}: {threads} threads now, {progress.threads} before: equal to rounding, not bit for bit")
            progress.threads = threads
        return progress

    def _validate(self, progress: Progress, log: MetricsLog, dtype: torch.dtype) -> None:
        self.model.eval()
        with self._autocast(dtype):
            results = list(self.validate(self.model))
        self.model.train()
        for result in results:
            log.write(
                step=progress.step, tokens=progress.tokens, split="heldout", source=result.source, loss=result.loss,
                bpb=result.bpb, seconds=progress.seconds,
            )  # fmt: skip
        line = ", ".join(
            f"{result.source} {result.loss:.3f}" + ("" if result.bpb is None else f" ({result.bpb:.3f} bits/byte)")
            for result in results
        )
        say(f"{self.stage} step {progress.step:,}, held out: {line}")

    def _sample_if_due(self, plan: Plan, progress: Progress, log: MetricsLog) -> None:
        label = plan.samples.get(progress.step)
        if label is None:
            return
        self.model.eval()
        for prompt in self.config.sample_prompts:
            text = self.sample(self.model, prompt)
            say(f"[{self.stage}, {label}] {prompt}{text}".replace("\n", " ⏎ "))
            log.write_sample(
                {"step": progress.step, "tokens": progress.tokens, "seconds": progress.seconds, "label": label,
                 "prompt": prompt, "text": text}
            )  # fmt: skip
        self.model.train()


def is_due(step: int, every: int) -> bool:
    """Whether something that is done every `every` steps, 0 for never, is done after `step` of them."""
    return every > 0 and step % every == 0
