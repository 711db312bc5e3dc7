"""Every row of `python -m tests.compat`, one test each: what the tools give is compared there.

The rows that take seconds run on one kind of model, the quick ones on all.
"""

from pathlib import Path

import pytest

from sioconv.model import PRESETS
from tests.compat.rows import ROWS, Row
from tests.compat.subject import Subject, random_folder

KINDS: dict[str, dict[str, object]] = {
    "sioconv, conv 2": {"conv_width": 2},
    "sioconv-2024": PRESETS["sioconv-2024"],
    "trapezoid, one group": {"trapezoid": True, "norm_groups": 1},
    "channel gates, tied": {"gate": "channel", "tie_word_embeddings": True, "head_bias": False},
}
SERVER = "serving.openai_client"
# Processes of their own; tests/model and tests/publish have quicker tests of the first two.
LONG = {"loading.auto_classes", "standalone.without_package", "serving.chat"}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model folder of each kind."""
    return {kind: random_folder(tmp_path_factory.mktemp("compat"), **options) for kind, options in KINDS.items()}


def cases() -> list[object]:
    """Every row on the first kind; on the others those that differ by kind; what takes seconds is slow."""
    found = []
    for number, kind in enumerate(KINDS):
        for row in ROWS:
            if number == 0:
                marks = [pytest.mark.slow] if row.check in LONG else []
            elif row.check in LONG | {SERVER} or row.extra == "eval":
                continue
            else:
                marks = [pytest.mark.slow] if row.extra or row.group == "torch" else []
            found.append(pytest.param(row, kind, id=f"{row.group}, {row.name}-{kind}", marks=marks))
    return found


@pytest.mark.parametrize(("row", "kind"), cases())
def test_it_works(row: Row, kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    if row.missing:
        pytest.skip(f"not installed: {', '.join(row.missing)} (extra {row.extra})")
    assert row.run(Subject(folders[kind], tmp_path))
