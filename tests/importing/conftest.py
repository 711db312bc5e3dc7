"""Writes an export and imports it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sioconv.importing.options import ImportOptions
from sioconv.importing.run import Account, import_files

Turns = list[tuple[str, str]]
Import = Callable[..., tuple[list[Any], Account]]


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """Writes `content` to a file of that name, imports it and gives the rows and the account.

    A conversation is given as pairs of a role's first letter and what is said, a document as its text.
    """

    def run(name: str, content: str | bytes, *me: str, **options: Any) -> tuple[list[Any], Account]:
        file, out = tmp_path / name, tmp_path / "out.jsonl"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        account = import_files([file], out, ImportOptions(list(me), **options))
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        return [shown(row) for row in rows], account

    return run


def shown(row: dict[str, Any]) -> Any:
    return [(turn["role"][0], turn["content"]) for turn in row["messages"]] if "messages" in row else row["text"]


def left(account: Account) -> dict[str, int]:
    """How many were left out, by reason."""
    return {reason: counted.count for reason, counted in account.left_out.items()}
