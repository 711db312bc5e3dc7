"""The results: one JSON object a line, appended and never changed."""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.speedrun.arms import Arm
from sioconv.errors import UserError
from sioconv.files import disk_errors
from sioconv.hardware import describe_machine

RESULTS = Path(__file__).with_name("results.jsonl")
SPEEDS = Path(__file__).with_name("speeds.jsonl")  # of `calibrate`


ARM_KEYS = ("track", "name", "tokens", "seed", "settings")  # what says which arm a row is of
# What the pages show of it.
SHOWN_KEYS = ("bits_per_byte", "parameters", "state_bytes", "tokens_per_second", "precision", "date", "commit")


def read_results(path: Path, needed: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All rows, the oldest first; none where there is no file.

    Args:
        path: JSON lines.
        needed: keys that every row has.

    Raises UserError where a line isn't a JSON object, or one has a key too few.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a file of JSON lines")
    if not path.is_file():
        return []
    rows: dict[int, dict[str, Any]] = {}
    # Bytes, because a name may hold what ends a line for Python and not for JSON.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line.strip():
            rows[number] = _row_of(line, f"{path}:{number}")
    for number, row in rows.items():
        if missing := [key for key in needed if key not in row]:
            raise UserError(f"{path}:{number} has no {missing[0]}: take the line out, or the file from a copy")
    return list(rows.values())


def _row_of(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object: take the line out, or the file from a copy")
    return row


def append_result(path: Path, row: dict[str, Any]) -> None:
    """Adds a row, whole or not at all, also where another process adds one at the same time.

    Raises UserError where the disk is full or the file can't be written.
    """
    data = (json.dumps(row, ensure_ascii=False) + "\n").encode()
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            if end and os.pread(file.fileno(), 1, end - 1) != b"\n":  # a line that was cut, or written by hand
                data = b"\n" + data
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(end)
                raise


def is_done(arm: Arm, path: Path) -> bool:
    """Whether the results have this arm."""
    return any(arm.is_answered_by(row) for row in read_results(path, ARM_KEYS))


def make_row(
    arm: Arm,
    commit: str,
    languages: Mapping[str, float],
    sources: Mapping[str, float],
    seconds: float,
    precision: str,
    threads: int,
    sizes: Mapping[str, int | None],
    copying: Mapping[str, Any],
) -> dict[str, Any]:
    """The row of an arm that was trained on this machine.

    Args:
        arm: what was trained.
        commit: the code's.
        languages: held-out bits per byte by language.
        sources: the same by source.
        seconds: of training.
        precision: of the matrix products.
        threads: of the processor.
        sizes: `parameters` and `state_bytes`.
        copying: what `measure_copying` found.
    """
    return {
        "date": datetime.now(UTC).date().isoformat(),
        **{key: value for key, value in asdict(arm).items() if key not in ("commit", "minutes", "minutes_of")},
        **({} if arm.minutes is None else {"minutes": arm.minutes, "minutes_of": arm.minutes_of}),
        "bits_per_byte": {**languages, "mean": sum(languages.values()) / len(languages)},
        "sources": dict(sources),
        **sizes,
        "recall": {str(each["tokens"]): each["gain"] for each in copying["distances"]},
        "seconds": round(seconds, 1),
        "tokens_per_second": round(arm.tokens / seconds),
        "precision": precision,
        "threads": threads,
        "machine": describe_machine(),
        "torch": torch.__version__,
        "commit": commit,
        "command": arm.command,
    }


def describe(row: Mapping[str, Any]) -> str:
    """A row in a line."""
    bits = ", ".join(f"{name} {value:.4f}" for name, value in row["bits_per_byte"].items())
    return f"{row['name']}, seed {row['seed']}, {row['tokens']:,} tokens in {row['seconds']:,.0f} s: {bits}"
