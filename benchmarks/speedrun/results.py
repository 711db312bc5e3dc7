"""The results: one JSON object a line, appended and never changed."""

import fcntl
import json
from pathlib import Path
from typing import Any

from benchmarks.speedrun.arms import Arm

RESULTS = Path(__file__).with_name("results.jsonl")


def read_results(path: Path) -> list[dict[str, Any]]:
    """All rows, the oldest first; none where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def append_result(path: Path, row: dict[str, Any]) -> None:
    """Adds a row, whole also where another process adds one at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def is_done(arm: Arm, path: Path) -> bool:
    """Whether the results have this arm."""
    return any(arm.is_answered_by(row) for row in read_results(path))
