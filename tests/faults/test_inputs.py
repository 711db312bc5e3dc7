"""Bad options and bad files of every verb, run for good: one line, no traceback, nothing left. See `inputs.py`."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.faults.inputs import LINES, Input, inputs, make_place, problems
from tests.faults.workplace import Server


@pytest.fixture(scope="module")
def place(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(server, tmp_path_factory.mktemp("inputs") / "place")


def test_the_lines_work_as_they_stand(server: Server, place: Path) -> None:
    for verb in ("import", "generate", "inspect", "serve", "serve key", "data inspect"):
        tried = Input((*verb.split(), *LINES[verb]), b"")
        assert problems(server, place, place.with_name("work"), tried) == (0, []), verb


@given(tried=inputs())
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_something_bad_in_a_line_ends_in_one_line(server: Server, place: Path, tried: Input) -> None:
    assert problems(server, place, place.with_name("work"), tried)[1] == []


@pytest.mark.slow
@given(tried=inputs())
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_thousand_bad_lines_end_in_one_line(server: Server, place: Path, tried: Input) -> None:
    assert problems(server, place, place.with_name("work"), tried)[1] == []
