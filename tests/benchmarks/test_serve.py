"""`benchmarks.serve`: its client and its parts, on a small model and the real server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from benchmarks.serve import kept
from benchmarks.serve.processes import Server
from sioconv.serve.config import ServeConfig
from tests.serve.conftest import served_folder, serving

__all__ = ["served_folder"]


@pytest.mark.parametrize("conversations", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_stored_conversations_go_on_after_a_restart(
    served_folder: Path,
    tmp_path: Path,
    conversations: int,
) -> None:
    """With memory for two states only, so that nearly all come out of the file."""

    @contextmanager
    def start(*options: str) -> Iterator[Server]:
        store = None if options[0] == "--no_store" else options[1]
        config = ServeConfig(memory=10_000)
        with serving(f"bench={served_folder}", store=store, config=config) as running:
            yield Server(running.url, "bench", psutil.Process(), {"min_tokens": "{tokens}"})
            assert running.idle()

    found = kept.measure(start, tmp_path / "states.db", conversations)
    assert (found["different"], found["read_anew"]) == (0, 0)
    assert found["file"] > 0
