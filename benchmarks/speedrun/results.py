"""The results: one JSON object a line, appended and never changed."""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.speedrun.arms import Arm
from sioconv.errors import UserError
from sioconv.hardware import describe_machine

RESULTS = Path(__file__).with_name("results.jsonl")
SPEEDS = Path(__file__).with_name("speeds.jsonl")  # of `calibrate`


def read_results(path: Path) -> list[dict[str, Any]]:
    """All rows, the oldest first; none where there is no file.

    Raises UserError where a line isn't a JSON object.
    """
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows += [dict(json.loads(line))] if line.strip() else []
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}:{number} is not a JSON object: take the line out, or the file from a copy"
            ) from error
    return rows


def append_result(path: Path, row: dict[str, Any]) -> None:
    """Adds a row, whole also where another process adds one at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def is_done(arm: Arm, path: Path) -> bool:
    """Whether the results have this arm."""
    return any(arm.is_answered_by(row) for row in read_results(path))


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
