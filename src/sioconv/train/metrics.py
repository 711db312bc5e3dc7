"""metrics.jsonl, TensorBoard and the line on the terminal."""

import hashlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import Progress, TextColumn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar, text

from sioconv.checksums import read_sums, set_sum, summed, unlike
from sioconv.errors import UserError
from sioconv.files import atomic_write, disk_errors
from sioconv.language import translated
from sioconv.progress import console, fitting, room_beside, say, share_and_time

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
KEYS = (
    "stage",
    "step",
    "tokens",
    "split",
    "source",
    "loss",
    "bpb",
    "lr",
    "grad_norm",
    "tokens_per_second",
    "seconds",
)
SHOWN = ("loss", "bpb", "lr", "grad_norm", "tokens_per_second")
SECONDS_BETWEEN_LINES = 15.0


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file that this project wrote; an unfinished last line (a crash) is left out.

    Raises UserError when the file isn't what was written.
    """
    data = _read(path)
    rows = []
    # Bytes, because the crash may have come in the middle of a character.
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise unlike(path, f"isn't what was written, at line {number}") from error
        if not isinstance(row, dict):
            raise unlike(path, f"isn't what was written, at line {number}")
        rows.append(row)
    return rows


def _read(path: Path) -> bytes:
    """The file's bytes, nothing where there is none; compared with its checksum as far as it had got in a crash."""
    expected = read_sums(path.parent).get(path.name)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if expected is not None:
            raise unlike(path, "is missing") from None
        return b""
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}: check what it is and its rights") from error
    if expected in (None, hashlib.sha256(data).hexdigest()):
        return data
    digest = hashlib.sha256()
    for line in data.splitlines(keepends=True):
        if digest.hexdigest() == expected:
            return data
        digest.update(line)
    raise unlike(path)


def set_damaged_aside(path: Path) -> None:
    """Moves a JSON-lines file that isn't what was written to `damaged-…`, with a warning: training goes on without."""
    try:
        read_jsonl(path)
    except UserError:
        aside = path.with_name(f"damaged-{path.name}")
        with disk_errors(aside):
            set_sum(path, None)
            if path.is_file():
                path.replace(aside)
        say(f"warning: {path} isn't what was written: moved aside and begun anew")


def forget_after(path: Path, stage: str, step: int) -> None:
    """Takes the rows of `stage` later than `step` out of a JSON-lines file: what a resumed run will write again.

    With step 0 the stage begins anew, and all its rows are taken out.
    """
    rows = [row for row in read_jsonl(path) if row.get("stage") != stage or (step > 0 and row["step"] <= step)]
    if path.exists():
        with summed(path), atomic_write(path) as temporary:
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


class Board:
    """TensorBoard's file of a stage.

    Written at once, and not by a thread as torch's SummaryWriter does: a full disk would end it with a traceback.

    Args:
        folder: gets one file for each process.
        step: the step that training starts from: TensorBoard leaves out what earlier files have of later ones.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
            self._stream = (folder / name).open("ab")
        self._records = RecordWriter(self._stream)
        self._write(Event(file_version="brain.Event:2"))
        purge_from = step + 1 if step else 0
        self._write(Event(step=purge_from, session_log=SessionLog(status=SessionLog.START)))

    def add(self, tag: str, value: float | str, step: int) -> None:
        """Appends a number or a text."""
        summary = text(tag, value) if isinstance(value, str) else scalar(tag, value)  # type: ignore[no-untyped-call]
        self._write(Event(summary=summary, step=step))

    def close(self) -> None:
        """Closes the file."""
        with disk_errors(self._folder):
            self._stream.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with disk_errors(self._folder):
            self._records.write(event.SerializeToString())
            self._stream.flush()


class MetricsLog:
    """Appends rows to `metrics.jsonl` and `samples.jsonl` of a run and mirrors them to TensorBoard.

    Their checksums in the run's `SHA256SUMS` follow row by row.

    Args:
        run: the run's folder.
        stage: pretrain or finetune.
        step: the step that training starts from: later rows of the stage are forgotten.
        wandb: mirror them to Weights & Biases as well.

    Raises UserError when wandb is asked for and not installed.
    """

    def __init__(self, run: Path, stage: str, step: int, wandb: bool = False) -> None:
        self.stage, self.run = stage, run
        run.mkdir(parents=True, exist_ok=True)
        self._digests = {}
        for name in (METRICS, SAMPLES):
            set_damaged_aside(run / name)
            forget_after(run / name, stage, step)
            self._digests[name] = hashlib.sha256(_read(run / name))
        self._board = Board(run / "tensorboard" / stage, step)
        self._wandb = _start_wandb(run, stage) if wandb else None

    def write(self, **values: Any) -> None:
        """One row of metrics; keys are those of `KEYS`, missing ones are null."""
        row = {key: values.pop(key, None) for key in KEYS} | {"stage": self.stage}
        if values:
            raise TypeError(f"unknown metrics: {', '.join(values)}")
        self._append(METRICS, row)
        name = row["split"] + (f"/{row['source']}" if row["source"] else "")
        shown = {f"{key}/{name}": row[key] for key in SHOWN if row[key] is not None}
        for tag, value in shown.items():
            self._board.add(tag, value, row["step"])
        if self._wandb is not None:
            self._wandb.log(shown, step=row["step"])

    def write_sample(self, row: dict[str, Any]) -> None:
        """One continuation written by the model during training."""
        self._append(SAMPLES, {"stage": self.stage} | row)
        self._board.add(f"sample/{row['prompt']}", row["prompt"] + row["text"], row["step"])

    def _append(self, name: str, row: dict[str, Any]) -> None:
        path, line = self.run / name, (json.dumps(row, ensure_ascii=False) + "\n").encode()
        with disk_errors(path), path.open("ab") as stream:
            stream.write(line)
        self._digests[name].update(line)
        set_sum(path, self._digests[name].hexdigest())

    def close(self) -> None:
        """Closes TensorBoard's file and ends the run of Weights & Biases."""
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def check_wandb() -> None:
    """Raises UserError where Weights & Biases can't be used: it isn't installed, or has no key and isn't offline."""
    wandb = _wandb()
    mode = wandb.setup().settings.mode
    if mode == "online" and not wandb.login(prompt=False):
        raise UserError(
            "train.wandb: there is no key: run `wandb login`, set WANDB_API_KEY or WANDB_MODE=offline, or drop it"
        )


def _wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("train.wandb: wandb isn't installed: pip install wandb, or leave it false") from error
    return wandb


def _start_wandb(run: Path, stage: str) -> Any:
    """A run of Weights & Biases, the same again when the stage is resumed; WANDB_* variables say where and how."""
    wandb = _wandb()
    name = f"{run.name}-{stage}"
    try:
        return wandb.init(project="sioconv", name=name, id=name, dir=run, resume="allow", settings={"silent": True})
    except wandb.errors.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(f"train.wandb: {reason}: run `wandb login`, or set WANDB_MODE=offline") from error


class TrainingBar:
    """Share done, time left, loss, speed and utilisation: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, stage: str, steps: int, done: int) -> None:
        self.stage, self.steps, self._start, self._done = stage, steps, time.monotonic(), done
        self._last_line = self._start
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            figures = TextColumn("{task.fields[figures]}", markup=False)
            self._bar = Progress(*share_and_time(), figures, console=console)
            self._task = self._bar.add_task(stage, total=steps, completed=done, figures="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, *figures: str) -> None:
        """`step` steps are done; `figures` are what to show of them, the most telling first."""
        if self._bar is not None:
            shown = fitting(figures, room_beside(self.stage))
            self._bar.update(self._task, completed=step, figures=shown)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or step == self.steps:
            self._last_line = now
            left = (now - self._start) / max(1, step - self._done) * (self.steps - step)
            place = translated(f"{self.stage} {step:,}/{self.steps:,} steps")
            say(" · ".join([place, *figures, translated(f"{left:.0f} s left")]))
