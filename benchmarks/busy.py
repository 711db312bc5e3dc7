"""What other work on the machine costs: `python -m benchmarks.busy --json out.json`.

Training steps, generation and evaluation with the package's model, each while 0, 1 and 2 processes spin beside it, with
several ways for OpenMP's threads to wait. Every way has a process of its own, since the way is read when the library is
loaded. They take turns, and whoever isn't measured is stopped (SIGSTOP), as threads that wait by spinning would be a
load themselves. The median of each, and its ratio to one thread in the same round, are what counts: work that runs
here anyway slows all of them.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sioconv.files import atomic_write
from sioconv.progress import track

WAYS: dict[str, dict[str, str]] = {
    "as the program sets it": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "the library's default": {"GOMP_SPINCOUNT": "300000"},  # of libgomp, which torch's Linux wheels bring
    "active": {"OMP_WAIT_POLICY": "active"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
OURS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
SPIN = "while True: pass"
WINDOW, BATCH = 256, 8  # of a training step
NEW_TOKENS = 48
TEXT = "宮城県の県庁所在地は仙台市である。" * 40


def works() -> dict[str, Callable[[], int]]:
    """What is measured; each does a piece of it and returns how many tokens that were."""
    import torch

    from sioconv.data.batches.loader import Batch
    from sioconv.evaluate.bits import bits_per_byte
    from sioconv.generate import SamplingConfig, generate_text
    from sioconv.generate.quantise import widened_model
    from sioconv.model.folder import load_model_folder
    from sioconv.model.in_package import packaged_model
    from sioconv.train.config import TrainConfig
    from sioconv.train.distributed import World
    from sioconv.train.step import Stepper

    model, tokenizer = load_model_folder(packaged_model())
    stepper = Stepper(widened_model(model), TrainConfig(tokens=1), World(torch.device("cpu")), torch.bfloat16)
    ids = torch.randint(7, len(tokenizer), (BATCH, WINDOW + 1), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(WINDOW).repeat(BATCH, 1)
    windows = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), positions == 0, positions)
    sampling = SamplingConfig(temperature=0.7, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, seed=0)

    def training() -> int:
        stepper.update(1e-5, stepper.gradients(windows))
        return BATCH * WINDOW

    def generation() -> int:
        generate_text(model, tokenizer, "宮城県(", sampling)
        return NEW_TOKENS

    def evaluation() -> int:
        return int(bits_per_byte(model, tokenizer, [TEXT]).tokens)

    return {"training": training, "generation": generation, "evaluation": evaluation}


def serve() -> None:
    """Does one piece of work for each name on standard input, and writes its tokens a second."""
    known = works()
    for work in known.values():
        work()  # compiles
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        tokens = known[line.strip()]()
        print(tokens / (time.perf_counter() - start), flush=True)


class Worker:
    """A process with one way of waiting; it is stopped whenever it isn't asked for something."""

    def __init__(self, way: str, threads: int) -> None:
        usual = {key: value for key, value in os.environ.items() if key not in OURS}
        usual |= {"OMP_NUM_THREADS": str(threads), **WAYS[way]}
        command = [sys.executable, "-c", START]
        self._process = subprocess.Popen(
            command, env=usual, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ready(self) -> None:
        """Waits until it can be asked. Raises RuntimeError where it has ended."""
        self._read()
        self._process.send_signal(signal.SIGSTOP)

    def speed(self, work: str) -> float:
        """Tokens a second of one piece of work."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(f"{work}\n")
        self._process.stdin.flush()
        found = float(self._read())
        self._process.send_signal(signal.SIGSTOP)
        return found

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a worker has ended: run `python -m benchmarks.busy --serve` to see why")
        return line

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


# The program's own start sets what it sets; then this file's work is done in it.
START = "from sioconv.__main__ import quiet_waiting; quiet_waiting(); from benchmarks.busy import serve; serve()"


@contextmanager
def load(count: int) -> Iterator[None]:
    """So many processes spin meanwhile."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def measure(ways: list[str], loads: list[int], rounds: int, threads: int) -> dict[str, Any]:
    """Tokens a second by work, load and way: every round's."""
    workers = {way: Worker(way, threads) for way in ways}
    try:
        for worker in workers.values():
            worker.ready()
        found: dict[str, Any] = {}
        turns = [(count, turn) for count in loads for turn in range(rounds)]
        for count, _ in track(turns, "rounds"):
            with load(count):
                for work in ("training", "generation", "evaluation"):
                    for way, worker in workers.items():
                        speeds = found.setdefault(work, {}).setdefault(str(count), {})
                        speeds.setdefault(way, []).append(worker.speed(work))
    finally:
        for worker in workers.values():
            worker.end()
    return found


def show(found: dict[str, Any]) -> None:
    """A table for each work: medians, and the median of the ratios to one thread round by round."""
    for work, loads in found.items():
        table = Table(title=f"{work}, tokens/s (and the ratio to one thread in the same round)")
        table.add_column("beside it")
        ways = list(next(iter(loads.values())))
        for way in ways:
            table.add_column(way, justify="right")
        for count, speeds in loads.items():
            alone = speeds.get("one thread")
            cells = []
            for way in ways:
                ratio = statistics.median(a / b for a, b in zip(speeds[way], alone, strict=True)) if alone else None
                cells.append(f"{statistics.median(speeds[way]):,.0f}" + (f" ({ratio:.2f})" if ratio else ""))
            table.add_row(f"{count} spinning", *cells)
        Console().print(table)


def main() -> None:
    """Runs the benchmark; see `--help`."""
    parser = argparse.ArgumentParser(
        description="Training, generation and evaluation beside other work, by the way in which threads wait.",
        epilog="Example: python -m benchmarks.busy --rounds 7 --json busy.json",
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each load (default: %(default)s)")
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 1, 2], help="processes that spin beside it")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="how threads wait")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="but for one thread (default: all)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    if arguments.rounds < 1 or min(arguments.loads) < 0 or arguments.threads < 1:
        parser.error("--rounds and --threads are 1 or more, --loads 0 or more")
    found = measure(arguments.ways, arguments.loads, arguments.rounds, arguments.threads)
    show(found)
    if arguments.json:
        said = {"cores": os.cpu_count(), "threads": arguments.threads, "tokens_per_second": found}
        with atomic_write(arguments.json) as temporary:
            temporary.write_text(json.dumps(said, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
