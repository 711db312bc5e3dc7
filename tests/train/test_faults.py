"""What a run survives, with real processes: a process that dies, signals, a second run, lost shards, a full disk."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sioconv.train.checkpoint import checkpoints
from sioconv.train.metrics import read_jsonl
from tests.run.test_stages import write_workplace
from tests.train.launch import environment, finish, start

resource = pytest.importorskip("resource")  # Windows has none
ENDLESS = 1_000_000


def wait_for_checkpoint(folder: Path, running: list["subprocess.Popen[str]"], after: int = 0) -> None:
    end = time.monotonic() + 300
    while not any(int(path.name[5:]) > after for path in checkpoints(folder)):
        assert time.monotonic() < end, "no checkpoint came"
        for process in running:
            assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def last_line(said: str) -> str:
    return said.rstrip().rpartition("\n")[2]


def test_a_process_that_dies_ends_the_others_and_one_that_is_told_to_stop_stops_all(tmp_path: Path) -> None:
    folder = tmp_path / "run/checkpoints/pretrain"
    case: dict[str, Any] = {"run": str(tmp_path / "run"), "steps": ENDLESS, "checkpoint_every": 20}
    command = ["-m", "tests.train.worker", str(tmp_path), json.dumps([case])]
    running = start(command, 2)
    wait_for_checkpoint(folder, running)
    running[1].kill()
    (code, said), _ = finish(running)
    assert code == 2, said
    assert "another process of this run has stopped" in last_line(said)
    (newest,) = checkpoints(folder)[-1:]

    running = start(command, 2)
    wait_for_checkpoint(folder, running, after=int(newest.name[5:]))
    running[1].send_signal(signal.SIGUSR1)
    results = finish(running)
    assert [code for code, _ in results] == [75, 75], results
    assert f"goes on from {newest.name}" in results[0][1]
    step = int(checkpoints(folder)[-1].name[5:])
    assert f"pretrain is saved at step {step:,} of {ENDLESS:,}" in last_line(results[0][1])
    assert "SIGUSR1" in last_line(results[1][1])
    assert max(row["step"] for row in read_jsonl(tmp_path / "run/metrics.jsonl")) == step
    assert not list(folder.glob(".*"))


def pretrain(folder: Path, *overrides: str, file_limit: int | None = None) -> "subprocess.Popen[str]":
    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    return subprocess.Popen(
        [sys.executable, "-m", "sioconv", "pretrain", "recipe.yaml", *overrides], cwd=folder, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8", preexec_fn=limit,
    )  # fmt: skip


def refusal(process: "subprocess.Popen[str]") -> str:
    """The one line that a command ends with which can't go on."""
    ((code, said),) = finish([process])
    assert code == 2, said
    assert "Traceback" not in said
    assert last_line(said).startswith("sioconv: ")
    return last_line(said)


def test_a_run_and_its_folder(tmp_path: Path) -> None:
    write_workplace(tmp_path)
    run = tmp_path / "runs/rivers"
    folder, shard = run / "checkpoints/pretrain", run / "data/hills/train/00000.ds"
    # Few lines in metrics.jsonl, or a slow machine reaches the limit below with them instead of with a checkpoint.
    endless = [f"--train.tokens={ENDLESS * 256}", "--train.log_every=1000000"]
    first = pretrain(tmp_path, *endless)
    wait_for_checkpoint(folder, [first])
    assert "another process is working in runs/rivers" in refusal(pretrain(tmp_path, *endless))

    tokens = shard.read_bytes()
    shard.unlink()  # mapped into memory, so the run that has it goes on
    wait_for_checkpoint(folder, [first], after=int(checkpoints(folder)[-1].name[5:]))
    first.send_signal(signal.SIGTERM)
    ((code, said),) = finish([first])
    assert code == 75, said
    (newest,) = checkpoints(folder)[-1:]
    assert f"SIGTERM: pretrain is saved at step {int(newest.name[5:]):,}" in last_line(said)

    message = refusal(pretrain(tmp_path, *endless, file_limit=60_000))
    assert shard.read_bytes() == tokens  # made again
    assert "too large a file" in message
    assert "checkpoints/pretrain/step-" in message
    assert checkpoints(folder)[-1] == newest
    assert not list(folder.glob(".*"))
