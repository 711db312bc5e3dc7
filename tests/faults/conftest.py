"""One process that runs commands, for all tests of this folder: it takes seconds to start."""

from collections.abc import Iterator

import pytest

from tests.faults.workplace import Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving() as started:
        yield started
