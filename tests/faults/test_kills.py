"""A run that is killed, or finds the disk full, at any operation that changes a file, ends as one that wasn't.

The slow suite tries every operation; `python -m tests.faults.campaign` does so by itself and prints what it finds.
"""

from pathlib import Path

import pytest

from tests.faults.campaign import finished, judge
from tests.faults.workplace import Server

Finished = tuple[Path, Path, list[str]]


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished(server, tmp_path_factory.mktemp("kills"))


def chosen(operations: list[str], name: str) -> int:
    """The last operation on something of that name: where it takes its place."""
    return max(number for number, operation in enumerate(operations) if f"/{name}" in operation)


@pytest.mark.parametrize("fault", ["kill", "full"])
@pytest.mark.parametrize("name", [".model.", ".manifest.json.", ".made.json."])
def test_a_fault_at_the_moment_when_something_takes_its_place(
    server: Server, whole: Finished, tmp_path: Path, fault: str, name: str
) -> None:
    fresh, done, operations = whole
    assert judge(server, fresh, done, tmp_path / "try", fault, chosen(operations, name)) == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "full"])
def test_a_fault_at_every_operation(server: Server, whole: Finished, tmp_path: Path, fault: str) -> None:
    fresh, done, operations = whole
    problems = {at: judge(server, fresh, done, tmp_path / "try", fault, at) for at in range(len(operations))}
    assert {at: each for at, each in problems.items() if each} == {}
