"""Starting several processes that train together, as torchrun or a batch system does."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Of a process that imports what this one does."""
    path = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONUTF8": "1"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(arguments: Sequence[str], processes: int = 1, folder: Path | None = None) -> list["subprocess.Popen[str]"]:
    """Starts `python ARGUMENTS` so many times, with the variables that say who is who."""
    started = []
    port = free_port()
    for rank in range(processes):
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, *arguments], cwd=folder, env=environment() | variables, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, encoding="utf-8",
            )
        )  # fmt: skip
    return started


def finish(processes: Sequence["subprocess.Popen[str]"], seconds: float = 300) -> list[tuple[int, str]]:
    """(exit code, what it said) of each process; kills what hasn't ended by then, and fails."""
    try:
        said = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def torchrun(arguments: Sequence[str], processes: int) -> "subprocess.Popen[str]":
    """`torchrun --nproc-per-node N ARGUMENTS`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-port", str(free_port())]
    return subprocess.Popen(
        [*command, *arguments], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
    )
