"""Servers as processes of their own: where they listen, how much processor time and memory they take."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Args:
        url: where it listens, without `/v1`.
        model: what requests call the model.
        process: the process.
    """

    url: str
    model: str
    process: psutil.Process

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all its threads since its start."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @property
    def memory(self) -> int:
        """Bytes that it has in memory."""
        return int(self.process.memory_info().rss)


@contextmanager
def ours(folder: Path, *options: str, threads: int = 1) -> Iterator[Server]:
    """`sioconv serve` on a model folder."""
    words = ("-m", "sioconv", "serve", f"bench={folder}", "--port", "0", "--threads", str(threads), *options)
    with _process([sys.executable, *words], threads) as child:
        assert child.stderr is not None
        found = next(found for line in child.stderr if (found := re.search(r"at (http://\S+)", line)))
        # Its log goes on: it would wait for a reader.
        threading.Thread(target=child.stderr.read, daemon=True).start()
        yield Server(found[1], "bench", psutil.Process(child.pid))


@contextmanager
def _process(command: Sequence[str], threads: int) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        yield child
    finally:
        child.terminate()
        child.wait(60)
