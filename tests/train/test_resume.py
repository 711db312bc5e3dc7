"""Runs that are killed with SIGKILL in the middle of something and go on end as one that wasn't, bit for bit."""

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sioconv.train.checkpoint import checkpoints
from sioconv.train.distributed import World
from tests.train.launch import finish, start
from tests.train.worker import work

ALONE = World(torch.device("cpu"))
SETTINGS: dict[str, Any] = {"carry_state": True, "accumulation": 4, "checkpoint_every": 2, "log_every": 1, "clip": 0.5}


def launch(folder: Path, processes: int, *cases: dict[str, Any]) -> list["subprocess.Popen[str]"]:
    values = [SETTINGS | case | {"run": str(folder / case["run"])} for case in cases]
    return start(["-m", "tests.train.worker", str(folder), json.dumps(values)], processes)


def wait_for(paths: Sequence[Path], running: Sequence["subprocess.Popen[str]"], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, f"{paths} didn't come"
        for process in running:
            assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def kill_in_the_middle(running: list["subprocess.Popen[str]"], run: Path) -> None:
    """Kills all processes when each of them has stalled."""
    markers = [run / f"stalled-{rank}" for rank in range(len(running))]
    wait_for(markers, running)
    for marker in markers:
        marker.unlink()
    for process in running:
        process.kill()
    assert {code for code, _ in finish(running)} == {-9}


def result(folder: Path, number: int) -> dict[str, Any]:
    values: dict[str, Any] = torch.load(folder / f"{number}.pt", weights_only=True)
    return values


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first["rows"] == second["rows"]
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name


def assert_close(first: dict[str, Any], second: dict[str, Any]) -> None:
    for (loss, norm), (other_loss, other_norm) in zip(first["rows"], second["rows"], strict=True):
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert other_norm == pytest.approx(norm, rel=1e-5)
    for name, value in first["weights"].items():
        torch.testing.assert_close(value, second["weights"][name], rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_killed_in_a_checkpoint_and_in_an_accumulation(tmp_path: Path, processes: int) -> None:
    """A run of 8 steps with a checkpoint every 2 is killed twice; a copy goes on with the other number of processes."""
    folder = tmp_path / "killed/checkpoints/pretrain"
    writing = {"run": "killed", "stall": ("writing", 2)}  # the checkpoint of step 4
    running = launch(tmp_path, processes, {"run": "whole"}, writing)
    kill_in_the_middle(running, tmp_path / "killed")
    whole = result(tmp_path, 0)
    assert [path.name for path in checkpoints(folder)] == ["step-00000002"]
    (unfinished,) = folder.glob(".step-00000004.*")
    assert list(unfinished.glob("*.distcp"))  # it really was in the middle

    pieces = SETTINGS["accumulation"] // processes
    in_step_6 = {"run": "killed", "stall": ("accumulation", (6 - 1 - 2) * pieces + 1)}
    running = launch(tmp_path, processes, in_step_6)
    wait_for([folder / "step-00000004"], running)  # written while the next steps are made
    kill_in_the_middle(running, tmp_path / "killed")
    assert [path.name for path in checkpoints(folder)] == ["step-00000002", "step-00000004"]

    shutil.copytree(tmp_path / "killed", tmp_path / "other")
    said = finish(launch(tmp_path, processes, {"run": "killed"}))
    assert [code for code, _ in said] == [0] * processes, said
    assert "goes on from step-00000004" in said[0][1]
    assert_same(whole, result(tmp_path, 0))
    assert not list(folder.glob(".*"))

    if processes == 2:
        assert_close(whole, work(SETTINGS | {"run": str(tmp_path / "other")}, ALONE))
        return
    said = finish(launch(tmp_path, 2, {"run": "other"}))
    assert [code for code, _ in said] == [0, 0], said
    assert "2 processes now, 1 before: equal to rounding" in said[0][1]
    assert_close(whole, result(tmp_path, 0))
