"""How fast is decoding? `python -m benchmarks.decode --json out.json` compares ours, the peers and the limit.

Models have random weights and equal sizes. For each size, number of texts and length of context, the candidates take
steps of one token each, one candidate after the other in every round, and the median of the rounds counts. A context is
put into the memory and not read: random keys and values for Llama, while a recurrent model's memory has one size at all
lengths. The limit of a step is measured in the same rounds: the time of reading as many bytes as the step reads of the
weights, so from the level of the memory that holds them, or that of its multiplications at the speed of a product of
matrices, whichever is longer. Time to the first token is that of reading a prompt. What needs more than 2 GiB, or more
time than `--patience` seconds, is left out and named.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.decode_models import CANDIDATES, SHAPES, Candidate, TooLargeError, random_ids
from sioconv.files import atomic_write
from sioconv.hardware import describe_machine, describe_versions
from sioconv.ops.cpu.decode_products import LANES, REGISTERS
from sioconv.ops.cpu.vectors import load, tree_sum, zeros
from sioconv.progress import say, track

Figures = dict[str, Any]
PIECE = 256  # tokens of a prompt that are read at once
STEP_SECONDS = 0.1  # a measurement takes about so long at least
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@numba.njit(parallel=True, nogil=True)
def _read(numbers: Any, parts: int, sums: Any) -> None:
    """Adds up an array by vectors, with all threads: four sums at once, so that none waits for another."""
    size = numbers.size // parts // (4 * LANES) * (4 * LANES)
    for part in numba.prange(parts):
        a, b, c, d = (
            zeros(numbers, REGISTERS),
            zeros(numbers, REGISTERS),
            zeros(numbers, REGISTERS),
            zeros(numbers, REGISTERS),
        )
        for at in range(part * size, (part + 1) * size, 4 * LANES):
            a = a + load(numbers, at, None, REGISTERS)
            b = b + load(numbers, at + LANES, None, REGISTERS)
            c = c + load(numbers, at + 2 * LANES, None, REGISTERS)
            d = d + load(numbers, at + 3 * LANES, None, REGISTERS)
        sums[part] = tree_sum((a + b) + (c + d))


def reader(size: int) -> Callable[[], object]:
    """What reads `size` bytes once."""
    numbers = np.ones(max(1, size // 4), np.float32)
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)

    sums = np.zeros(threads, np.float32)

    def read() -> object:
        numba.set_num_threads(threads)
        return _read(numbers, threads, sums)

    return read


def seconds_of(call: Callable[[], object], least: float, clock: Callable[[], float]) -> float:
    """Seconds of one call: of as many as take `least` seconds, at least one."""
    calls, start = 0, clock()
    while True:
        call()
        calls += 1
        if (passed := clock() - start) >= least:
            return passed / calls


def alternately(calls: dict[str, Callable[[], object]], rounds: int, least: float, clock: str) -> dict[str, float]:
    """The median seconds of each of the calls, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds_of(call, least, CLOCKS[clock]))
    return {name: statistics.median(found) for name, found in times.items()}


def measure_steps(models: dict[str, Candidate], size: str, rows: int, context: int, options: Any) -> Figures:
    """Tokens/s of each candidate at so many texts and so long a context, with its limit."""
    ids = random_ids(rows, 1, SHAPES[size][-1])
    calls: dict[str, Callable[[], object]] = {}
    found: Figures = {}
    for name, model in models.items():
        try:
            memory = model.memories(rows, context)
        except TooLargeError as error:
            say(f"{size}, {rows} texts, context {context:,}: {name} is left out: its memory {error}")
            continue
        found[name] = {"memory_bytes": model.size(memory)}
        model.step(memory, ids)  # compiles
        calls[name] = lambda model=model, memory=memory: model.step(memory, ids)
        calls[f"read {name}"] = reader(model.read)
        calls[f"read {name}"]()
    left, right = torch.randn(2, 512, 512)
    calls["products"] = lambda: left @ right
    times = alternately(calls, options.rounds, options.seconds, options.clock)
    speed = 2 * 512**3 / times["products"]
    for name, figures in found.items():
        model, taken = models[name], times[name]
        limit = max(times[f"read {name}"], 2 * model.products * rows / speed)
        figures |= {
            "seconds": taken,
            "tokens_per_second": rows / taken,
            "limit_tokens_per_second": rows / limit,
            "of_limit": limit / taken,
            "read_bytes_per_second": model.read / times[f"read {name}"],
            "products_per_second": 2 * model.products * rows / taken,
            "weight_bytes": model.weights,
        }
    return found


def measure_prompt(models: dict[str, Candidate], size: str, length: int, options: Any) -> Figures:
    """Seconds to the first token after a prompt of that length."""
    (ids,) = random_ids(1, length, SHAPES[size][-1])
    calls: dict[str, Callable[[], object]] = {}
    for name, model in models.items():
        one = seconds_of(lambda model=model: read_prompt(model, ids[:PIECE]), 0, time.perf_counter)
        if (expected := one * length / min(length, PIECE)) > options.patience:
            say(f"{size}, prompt of {length:,}: {name} is left out: it would take {expected:.0f} s or more")
        else:
            calls[name] = lambda model=model: read_prompt(model, ids)
    times = alternately(calls, min(options.rounds, 3), 0, options.clock)
    return {name: {"seconds": taken, "tokens_per_second": length / taken} for name, taken in times.items()}


def read_prompt(model: Candidate, ids: list[int]) -> None:
    """Reads a text from the beginning, piece by piece."""
    memory = model.memories(1, 0)
    for at in range(0, len(ids), PIECE):
        model.step(memory, [ids[at : at + PIECE]])


def prepare(size: str, names: list[str]) -> dict[str, Candidate]:
    """The candidates of a size that fit."""
    models = {}
    for name in names:
        try:
            models[name] = CANDIDATES[name](size)
        except TooLargeError as error:
            say(f"{size}: {name} is left out: it {error}")
        except ImportError as error:
            say(f"{size}: {name} is left out: {error}: pip install '.[bench,peers]'")
    return models


def measure(options: Any) -> Iterator[tuple[str, Figures]]:
    """A name and the figures of each part of the benchmark."""
    work = [(rows, context) for rows in options.batches for context in options.contexts]
    for size in options.sizes:
        models = prepare(size, options.only)
        for rows, context in track(work, f"{size}: steps", len(work)):
            yield f"{size}/batch {rows}/context {context}", measure_steps(models, size, rows, context, options)
        for length in track(options.prompts, f"{size}: prompts", len(options.prompts)):
            yield f"{size}/prompt {length}", measure_prompt(models, size, length, options)
        del models
        gc.collect()


def show_table(results: dict[str, Figures]) -> None:
    """Prints what was measured."""
    table = Table(*("part", "model", "tokens/s", "of limit", "memory MB", "weights MB"), title="decoding")
    for part, candidates in results.items():
        for name, figures in candidates.items():
            limit = f"{figures['of_limit']:.0%}" if "of_limit" in figures else ""
            sizes = [f"{figures[key] / 1e6:.2f}" if key in figures else "" for key in ("memory_bytes", "weight_bytes")]
            table.add_row(part, name, f"{figures['tokens_per_second']:,.1f}", limit, *sizes)
    Console().print(table)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=(__doc__ or "").split("\n")[0])
    options.add_argument("--sizes", nargs="+", choices=list(SHAPES), default=["5M", "25M", "125M", "1.6B"])
    options.add_argument("--only", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    options.add_argument("--batches", nargs="+", type=positive, default=[1, 8, 64])
    options.add_argument("--contexts", nargs="+", type=positive, default=[128, 4096, 65536])
    options.add_argument("--prompts", nargs="*", type=positive, default=[128, 2048, 16384])
    options.add_argument("--rounds", type=positive, default=5)
    options.add_argument("--seconds", type=float, default=STEP_SECONDS, help="least of one measurement")
    options.add_argument("--patience", type=float, default=30, help="most seconds for one prompt")
    options.add_argument("--threads", type=positive, default=torch.get_num_threads())
    options.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: for a busy machine")
    options.add_argument("--json", type=Path, default=None, help="where the figures are written")
    return options


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of 1 or more")
    return int(text)


def main() -> None:
    """Measures, prints a table, writes the figures after each part."""
    options = parser().parse_args()
    if options.clock == "cpu" and options.threads > 1:
        parser().error("--clock cpu adds up the time of all threads: give --threads 1 with it")
    torch.set_num_threads(options.threads)
    said = {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "threads": options.threads,
        "clock": options.clock,
    }
    results: dict[str, Figures] = {}
    for part, figures in measure(options):
        results[part] = figures
        if options.json is not None:
            with atomic_write(options.json) as temporary:
                temporary.write_text(json.dumps({**said, "results": results}, indent=2) + "\n", encoding="utf-8")
    show_table(results)


if __name__ == "__main__":
    main()
