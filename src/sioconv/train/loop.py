"""The training loop: one for pretraining and fine-tuning.

A step is a function of the weights and its number: its windows come from the mixture by their index, its learning rate
from the schedule. So a run that is killed and started again from a checkpoint ends with the same weights, bit for bit.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel

from sioconv.data.batches.loader import Batch
from sioconv.data.batches.prefetch import prefetch
from sioconv.errors import StoppedError, UserError
from sioconv.files import Whereabouts
from sioconv.hardware import (
    describe_device,
    keep_freed_memory,
    matrix_speed,
    memory_used,
    pick_device,
    pick_precision,
    synchronize,
)
from sioconv.language import translated
from sioconv.ops.linear import takes_onednn
from sioconv.progress import say
from sioconv.train.budget import PLAN, Budget, make_budget, read_budget, write_budget
from sioconv.train.checkpoint import Checkpointer, Keep, Progress, checkpoints, load_checkpoint, newest_good
from sioconv.train.config import TrainConfig, set_threads
from sioconv.train.distributed import World
from sioconv.train.metrics import MetricsLog, TrainingBar
from sioconv.train.optimizer import steps_before_fall
from sioconv.train.signals import StopSignals
from sioconv.train.step import Stepper
from sioconv.train.validation import Sample, Validate, Watch

CALIBRATION_SECONDS = 6.0


class Windows(Protocol):
    """Where windows come from: a `Mixture` or `Lanes`."""

    def batch(self, first_window: int, size: int) -> Batch:
        """The windows `first_window` … `first_window + size - 1`, a function of these numbers alone."""


class Trainer:
    """Trains a model for one stage of a run.

    Args:
        run: the run's folder.
        stage: pretrain or finetune.
        model: the model; trained in place, and shared out where there are several processes: `trained` gives it back.
        windows: where the windows come from.
        config: the stage's settings.
        validate: gives the losses on held-out text.
        sample: continues a prompt.
        world: the processes; by default this one alone.
        seed: of what a step draws at random.
        bytes_per_token: of the text, to show the loss in bits per byte.
        inputs: what the stage is made from, by name, as checksums; going on with others is said.

    Attributes:
        warn: what to say before the first step, if anything, of the tokens that will be read.

    Raises:
        UserError: the device isn't there, or the windows can't be shared out to the processes.
    """

    def __init__(
        self,
        run: Path,
        stage: str,
        model: PreTrainedModel,
        windows: Windows,
        config: TrainConfig,
        validate: Validate,
        sample: Sample,
        world: World | None = None,
        seed: int = 0,
        bytes_per_token: float | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        self.run_folder, self.stage, self.config, self.windows = run, stage, config, windows
        self.world = world or World(pick_device(config.device))
        keep_freed_memory()
        set_threads(config.threads)
        self.folder = run / "checkpoints" / stage
        self.tokens_per_step = config.batch_size * config.sequence_length
        self._saved_budget = self.world.leader(lambda: read_budget(self.folder / PLAN))
        if self._saved_budget is not None:
            dtype = self._saved_budget.dtype
        else:
            dtype = self.world.leader(lambda: pick_precision(config.precision, self.world.device))
        self.stepper = Stepper(model, config, self.world, dtype, seed)
        self._watch = Watch(stage, config, self.stepper, validate, sample)
        keep = Keep(config.keep_checkpoints, config.keep_every, config.keep_best)
        self._checkpointer = Checkpointer(self.folder, self.world, keep)
        self._bytes_per_token = bytes_per_token
        self._inputs = dict(inputs or {})
        self.warn: Callable[[int], str | None] | None = None

    def train(self) -> Progress:
        """Trains from the newest good checkpoint, or from the start, to the end of the budget.

        Raises:
            UserError: the loss isn't finite (the optimizer hasn't stepped, the last checkpoint stays), the disk is
                full, or the run's folder was renamed or removed.
            StoppedError: Ctrl-C, SIGTERM or SIGUSR1 came; everything is saved.
        """
        with StopSignals(self.world.leads) as stop, ExitStack() as stack:
            budget = self.budget()
            if self.config.keep_before_decay:
                one = steps_before_fall(budget.steps, self.config)
                self._checkpointer.keep = replace(self._checkpointer.keep, one=one)
            self._place = Whereabouts(self.run_folder)
            progress = self._resume()
            by_onednn = translated(" by oneDNN") if takes_onednn(self.world.device, budget.dtype) else ""
            device = translated(describe_device(self.world.device)) + self._processes()
            say(
                f"{self.stage}: {device}, {budget.precision}{by_onednn}, "
                f"{budget.steps:,} steps of {self.tokens_per_step:,} tokens, {self._parameters()}"
            )
            if self.warn and not progress.step and (warning := self.warn(budget.steps * self.tokens_per_step)):
                say(warning)
            speed = matrix_speed(self.world.device, budget.dtype) * self.world.size
            stack.enter_context(closing(self._checkpointer))
            if self.world.leads:
                log = MetricsLog(self.run_folder, self.stage, progress.step, self.config.wandb)
                self._watch.log = stack.enter_context(closing(log))
            bar = stack.enter_context(TrainingBar(self.stage, budget.steps, progress.step))
            self._loop(budget, progress, stop, bar, speed)
            self._checkpointer.wait()
        return progress

    def _loop(self, budget: Budget, progress: Progress, stop: StopSignals, bar: TrainingBar, speed: float) -> None:
        if not progress.step:
            self._watch.sample(budget, progress)
        recent: list[tuple[float, float]] = []  # (loss, seconds) of the steps since the last line of metrics
        batches = self._batches(progress.step, budget.steps)
        with closing(prefetch(batches)) as ahead:
            for batch in ahead:
                start = time.perf_counter()
                rate, (loss, norm) = self._step(batch, budget, progress)
                synchronize(self.world.device)
                seconds = time.perf_counter() - start
                progress.step += 1
                progress.tokens += self.tokens_per_step
                progress.seconds += seconds
                recent.append((loss, seconds))
                self._place.check()
                stopped, failed = self.world.sums(stop.came is not None, self._checkpointer.failed)
                if failed:
                    self._checkpointer.wait()
                last = progress.step == budget.steps
                saves = last or bool(stopped) or is_due(progress.step, self.config.checkpoint_every)
                saves |= progress.step == self._checkpointer.keep.one
                validates = last or is_due(progress.step, self.config.validate_every)
                # Also where a checkpoint follows, so that a run that goes on from it writes the same lines.
                if saves or is_due(progress.step, self.config.log_every) or (validates and self.config.keep_best):
                    self._report(progress, recent, rate, norm, bar, speed)
                self._watch.sample(budget, progress)
                improved = validates and self._watch.validate(progress)
                if saves or (improved and self.config.keep_best):
                    self._checkpointer.save(self.stepper, progress, asdict(budget))
                if stopped and not last:
                    self._checkpointer.wait()
                    raise StoppedError(
                        f"{stop.came or 'another process was told to stop'}: {self.stage} is saved at step "
                        f"{progress.step:,} of {budget.steps:,}: run the same line again to go on"
                    )

    def _batches(self, first: int, last: int) -> Iterator[Batch]:
        """This process's windows of the steps `first` … `last - 1`."""
        for step in range(first, last):
            rows = self.stepper.rows
            yield self.windows.batch(step * self.config.batch_size + rows.start, len(rows))

    def _step(self, batch: Batch, budget: Budget, progress: Progress) -> tuple[float, tuple[float, float]]:
        """One optimizer step; returns the learning rate, mean loss in nats per token and gradient's norm."""
        step = progress.step
        rate = self.stepper.learning_rate(step, budget.steps)
        loss = self.stepper.gradients(batch, step)
        norm, stepped = self.stepper.update(rate, loss)
        if not stepped:
            if not self.stepper.scale.overflowed():
                self._refuse(step, "gradient" if math.isfinite(loss) else "loss")
            progress.skipped += 1
        return rate, (loss, norm)

    def _refuse(self, step: int, what: str) -> None:
        self._checkpointer.wait()  # what is being written counts as kept
        first, kept = step * self.config.batch_size, checkpoints(self.folder)
        raise UserError(
            f"the {what} is not finite at step {step + 1} of {self.stage} (windows {first} to "
            f"{first + self.config.batch_size - 1}): lower train.lr and run again; last good checkpoint: "
            f"{kept[-1] if kept else 'none'}"
        )

    def _report(
        self, progress: Progress, recent: list[tuple[float, float]], rate: float, norm: float, bar: TrainingBar,
        speed: float,
    ) -> None:  # fmt: skip
        """A line of metrics for the steps since the last one, and the figures on the terminal; empties `recent`."""
        mean = statistics.fmean(loss for loss, _ in recent)
        per_second = self.tokens_per_step * len(recent) / sum(seconds for _, seconds in recent)
        recent.clear()
        self._watch.write(
            step=progress.step, tokens=progress.tokens, split="train", loss=mean, lr=rate, grad_norm=norm,
            tokens_per_second=per_second, seconds=progress.seconds,
        )  # fmt: skip
        used = self.stepper.operations_per_token * per_second / speed
        per_byte = mean / math.log(2) / self._bytes_per_token if self._bytes_per_token else math.nan
        loss = f"loss {mean:.3f} (~{per_byte:.2f} bits/byte)" if self._bytes_per_token else f"loss {mean:.3f}"
        memory = f"{memory_used(self.world.device) / 2**30:.1f} GiB"
        bar.update(
            progress.step,
            translated(loss),
            translated(f"{per_second:,.0f} tokens/s"),
            translated(f"{used:.0%} of matrix speed"),
            memory,
        )

    def budget(self) -> Budget:
        """The stage's budget: read from the run if it was begun before, else made by a calibration and written."""
        if self._saved_budget is not None:
            self._tell_changes(self._saved_budget.inputs)
            return self._saved_budget
        timed = self.config.minutes or self.config.sample_seconds
        seconds = self._seconds_per_step() if timed else math.inf
        budget = self.world.share(replace(make_budget(self.config, self.stepper.dtype, seconds), inputs=self._inputs))
        self.world.leader(lambda: write_budget(budget, self.folder / PLAN))
        return budget

    def _tell_changes(self, before: Mapping[str, str]) -> None:
        """Says what isn't any more what the stage began with; plans of older versions don't know."""
        for name in [name for name, now in self._inputs.items() if before.get(name, now) != now]:
            say(f"warning: {self.stage}: {name} has changed since this stage began: it goes on with what is there now")

    def _seconds_per_step(self) -> float:
        """Median time of a step, measured with a learning rate of 0: the weights stay what they are."""
        say(f"{self.stage}: measuring the speed of a step")
        times: list[float] = []
        end = time.perf_counter() + CALIBRATION_SECONDS
        for step, batch in enumerate(self._batches(0, 1_000_000)):
            start = time.perf_counter()
            loss = self.stepper.gradients(batch, step)
            _, stepped = self.stepper.update(0.0, loss)
            if not stepped and not self.stepper.scale.overflowed():
                self._refuse(step, "gradient" if math.isfinite(loss) else "loss")
            synchronize(self.world.device)
            times.append(time.perf_counter() - start)
            if self.world.share(len(times) >= 3 and time.perf_counter() >= end):
                break
        self.stepper.restart()
        return statistics.median(times[1:])

    def _resume(self) -> Progress:
        """Goes on from the newest good checkpoint; returns how far that was."""
        threads = torch.get_num_threads()
        new = Progress(threads=threads, processes=self.world.size)
        path = newest_good(self.folder, self.world)
        if path is None:
            return new
        old = load_checkpoint(path, self.stepper, self.world)
        say(f"{self.stage}: goes on from {path.name} ({old.tokens:,} tokens)")
        changes = [
            f"{now} {what} now, {before} before"
            for what, now, before in (
                ("threads", threads, old.threads if self.world.device.type == "cpu" else threads),
                ("processes", self.world.size, old.processes),
                *((f"({name})", now, old.versions.get(name)) for name, now in new.versions.items()),
            )
            if now != before
        ]
        if changes:
            say(f"{self.stage}: {'; '.join(changes)}: equal to rounding, not bit for bit")
        old.threads, old.processes, old.versions = threads, self.world.size, new.versions
        return old

    def _processes(self) -> str:
        return "" if self.world.size == 1 else translated(f" × {self.world.size} processes")

    def _parameters(self) -> str:
        trained, parameters = self.stepper.trained, self.stepper.parameters
        of_them = translated(f", {trained:,} of them trained") if trained < parameters else ""
        return translated(f"{parameters:,} parameters") + of_them


def is_due(step: int, every: int) -> bool:
    """Whether something that is done every `every` steps, 0 for never, is done after `step` of them."""
    return every > 0 and step % every == 0
