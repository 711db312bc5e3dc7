"""Servers as processes of their own: where they listen, how much processor time and memory they take."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

PATIENCE = 600  # seconds until a server must listen: the machine may be busy


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Args:
        url: where it listens, without `/v1`.
        model: what requests call the model.
        process: the process.
        extra: what each request says besides; `{tokens}` stands for the number of tokens that are wanted.
    """

    url: str
    model: str
    process: psutil.Process
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all its threads since its start."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def wait_for_rest(self) -> None:
        """Returns once it has done nothing for two seconds."""
        quiet, before = 0, self.cpu_seconds
        while quiet < 4:
            time.sleep(0.5)
            now = self.cpu_seconds
            quiet, before = (quiet + 1 if now - before < 0.015 else 0), now

    @property
    def memory(self) -> int:
        """Bytes that it has in memory."""
        return int(self.process.memory_info().rss)


@contextmanager
def ours(folder: Path, *options: str, threads: int = 1) -> Iterator[Server]:
    """`sioconv serve` on a model folder."""
    words = ["-m", "sioconv", "serve", f"bench={folder}", "--port", "{port}", "--threads", str(threads), *options]
    with _server(words, threads, "/ready", "bench", {"min_tokens": "{tokens}"}) as server:
        yield server


@contextmanager
def llama_cpp(file: Path, context: int, threads: int = 1) -> Iterator[Server]:
    """llama-cpp-python's server on a GGUF file. It writes one reply at a time; others wait."""
    words = ["-m", "llama_cpp.server", "--model", str(file), "--port", "{port}", "--n_threads", str(threads)]
    words += ["--n_threads_batch", str(threads), "--n_ctx", str(context), "--logits_all", "false"]
    words += ["--interrupt_requests", "false", "--verbose", "false"]
    with _server(words, threads, "/v1/models", "bench", {"min_tokens": "{tokens}"}) as server:
        yield server


@contextmanager
def transformers_serve(folder: Path, threads: int = 1) -> Iterator[Server]:
    """`transformers serve` on a folder of transformers, with continuous batching."""
    words = ["-m", "sioconv.serve.transformers_cli", "serve", str(folder), "--port", "{port}", "--device", "cpu"]
    words += ["--continuous-batching"]
    words[0:2] = ["-c", "from transformers.cli.transformers import app; app()"]
    with _server(words, threads, "/health", str(folder), {}) as server:
        yield server


@contextmanager
def _server(words: Sequence[str], threads: int, asked: str, model: str, extra: Mapping[str, Any]) -> Iterator[Server]:
    """A Python program that listens at `{port}` and answers `asked` once it is ready.

    Raises RuntimeError with the end of its log where it doesn't.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, *(word.replace("{port}", str(port)) for word in words)]
    path = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONPATH": path}
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            problem = _wait(child, url + asked)
            if problem is not None:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
                raise RuntimeError(f"{' '.join(command)}: {problem}:\n{log.read().decode('utf-8', 'replace')}")
            yield Server(url, model, psutil.Process(child.pid), extra)
        finally:
            child.terminate()
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait(child: "subprocess.Popen[bytes]", url: str) -> str | None:
    """Waits until a server answers; what is wrong where it doesn't."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if child.poll() is not None:
            return f"it has ended with {child.returncode}"
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return None
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    return f"it doesn't listen after {PATIENCE} s"
