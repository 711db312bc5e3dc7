"""One layer at one length, measured in a process of its own: seconds and peak memory of a call.

Peak memory is the process's largest resident size (`ru_maxrss`), less what it was before, after a short call that
starts threads and loads kernels. torch's profiler would count torch's tensors alone; the resident size also has what
numba and the library under torch.nn.LSTM take. It never falls, hence a fresh process for every case. A limit on the
address space makes an allocation over the budget fail at once, before the machine swaps. Linux only.
"""

import ctypes
import multiprocessing
import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn

from benchmarks.story.steps import STEPS

WIDTH, HEADS = 256, 8
SHORT = 8  # steps of the call that warms up
START_SECONDS = 300  # more than a machine under load needs to import torch and compile the kernels


@dataclass(frozen=True)
class Case:
    """A layer (a key of STEPS) and the shape of its input, [batch, length, WIDTH]."""

    step: str
    batch: int
    length: int


@dataclass(frozen=True)
class Run:
    """One call. `outcome` is "measured", "memory" (over the budget) or "time" (over the limit, stopped)."""

    outcome: str
    seconds: float | None = None
    peak_bytes: int | None = None


class CaseProcess:
    """A process that holds one case and measures it on demand."""

    def __init__(self, case: Case, budget: int) -> None:
        context = multiprocessing.get_context("forkserver")
        # Imported once: every case then starts in a fraction of a second, from a process that has computed nothing.
        context.set_forkserver_preload(["benchmarks.story.case", "sioconv.ops.cpu.scan_kernels"])
        self._case = case
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, case, budget), daemon=True)
        self._process.start()
        theirs.close()
        if self._answer(START_SECONDS) is None:
            self._process.kill()
            raise RuntimeError(f"{case} isn't ready after {START_SECONDS} s")

    def run(self, training: bool, limit: float | None) -> Run:
        """Call the layer once, backward too if `training`. One that takes over `limit` seconds ends the process."""
        self._connection.send(training)
        run = self._answer(limit)
        if run is None:
            self._process.kill()
        return run or Run("time")

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):  # it has ended by itself, or was stopped
            self._connection.send(None)
        self._process.join()
        self._connection.close()

    def _answer(self, limit: float | None) -> Run | None:
        if not self._connection.poll(limit):
            return None
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"{self._case} ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, Exception):
            raise RuntimeError(f"{self._case} failed") from answer
        return answer


def _serve(connection: Connection, case: Case, budget: int) -> None:
    """Answer every request (training or not) with a Run, until it is None or an unexpected error is the answer."""
    try:
        torch.manual_seed(0)
        layer = STEPS[case.step].build(WIDTH, HEADS)
        _call(layer, case.batch, SHORT, training=True)
        limit = _address_space() + budget
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        start = _peak()
        connection.send(Run("measured"))
        while (training := connection.recv()) is not None:
            try:
                seconds = _call(layer, case.batch, case.length, training)
                run = Run("measured", seconds, _peak() - start)
            except (MemoryError, RuntimeError) as error:
                if not _is_memory(error):
                    raise
                run = Run("memory")
            _give_back()
            connection.send(run)
    except Exception as error:
        connection.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _call(layer: nn.Module, batch: int, length: int, training: bool) -> float:
    """Seconds of forward without gradients, or of forward and backward to the weights and the input."""
    layer.zero_grad()
    x = torch.randn(batch, length, WIDTH, requires_grad=training)
    with torch.set_grad_enabled(training):
        start = time.perf_counter()
        y = layer(x)
        if training:
            y.backward(torch.ones((), dtype=y.dtype).expand_as(y))
        return time.perf_counter() - start


def _is_memory(error: Exception) -> bool:
    """Whether an allocation failed. oneDNN, under torch.nn.LSTM, doesn't say why; the short call did work."""
    words = (
        "can't allocate memory",
        "Cannot allocate memory",
        "bad_alloc",
        "could not create a ",
        "could not execute a ",
    )
    return isinstance(error, MemoryError) or any(part in str(error) for part in words)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _give_back() -> None:
    """Return freed memory to the system, which the next process will need (glibc keeps some; others have no trim)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def available_memory() -> int:
    """Bytes that can be taken before the machine swaps."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
