"""Tasks run in this process or in others, and an end that nobody planned is an error, not a wait."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datatrove.pipeline.base import PipelineStep

from sioconv.data.shards import executor
from sioconv.data.shards.executor import TaskExecutor
from sioconv.errors import UserError


@pytest.fixture(autouse=True)
def importable_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets workers import this module, however pytest was called."""
    monkeypatch.syspath_prepend(request.config.rootpath)


class Mark(PipelineStep):
    """Leaves a file with the number of the process that ran a task; task `fails` ends in another way."""

    name, type = "Mark", "Test"

    def __init__(self, folder: Path, fails: int = -1, error: str = "") -> None:
        super().__init__()
        self.folder, self.fails, self.error = folder, fails, error

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[None]:  # noqa: ARG002
        if rank == self.fails:
            if self.error == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.error == "busy":
                os.kill(os.getppid(), signal.SIGINT)
                re.match("(a+)+$", "a" * 64 + "b")  # holds Python's lock for ages
            raise UserError(self.error)
        (self.folder / f"ran-{rank}").write_text(str(os.getpid()))
        return iter(())


def run(folder: Path, workers: int, tasks: int = 3, **options: Any) -> dict[int, int]:
    """Runs `Mark` and returns the process of each task that ran to its end."""
    logs = str(folder / "logs")
    TaskExecutor("x", pipeline=[Mark(folder, **options)], tasks=tasks, workers=workers, logging_dir=logs).run()
    return {int(path.name[4:]): int(path.read_text()) for path in folder.glob("ran-*")}


def test_one_worker_is_this_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, 1) == dict.fromkeys(range(3), os.getpid())
    assert capfd.readouterr() == ("", "")


def test_more_workers_are_other_processes(tmp_path: Path) -> None:
    processes = run(tmp_path, 2)
    assert sorted(processes) == [0, 1, 2]
    assert os.getpid() not in processes.values()


@pytest.mark.parametrize("workers", [1, 2])
def test_finished_tasks_are_not_run_again(tmp_path: Path, workers: int) -> None:
    run(tmp_path, workers)
    for path in tmp_path.glob("ran-*"):
        path.unlink()
    assert run(tmp_path, workers) == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_out_and_finished_tasks_stay_finished(tmp_path: Path, workers: int) -> None:
    with pytest.raises(UserError, match="no such line"):
        run(tmp_path, workers, fails=2, error="no such line")
    for path in tmp_path.glob("ran-*"):
        path.unlink()
    finished = {path.name for path in (tmp_path / "logs" / "completions").iterdir()}
    assert {f"{rank:05d}" for rank in run(tmp_path, workers)} == {"00000", "00001", "00002"} - finished


def test_a_killed_worker_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a worker was killed"):
        run(tmp_path, 2, fails=1, error="killed")


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_workers_that_can_not_listen(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 2, fails=0, error="busy")
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_workers_are_started_reaches_their_parent_alone() -> None:
    with pytest.raises(KeyboardInterrupt):
        with executor._without_ctrl_c():
            signal.raise_signal(signal.SIGINT)
            child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
        time.sleep(60)
    assert child.stdout.strip() == "True"


CHILD = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
