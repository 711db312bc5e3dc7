"""How fast are batches made? `python -m benchmarks.data_loader` prints the table as Markdown.

Shards of two generated sources (uint16, documents of a few hundred tokens on average, some of tens of thousands) are
read as training reads them. `made` is how many tokens a second come from the loader and nothing else; `waited` is the
share of its time for which a consumer waits for batches that computes matrix products on every core meanwhile, as
training does, alone and behind `prefetch`. Training a model of 25 million parameters on the two cores of the machine
that the project was made on takes about 3,000 tokens a second: `made` shall be a hundred times that.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from sioconv.data.batches.lanes import Lanes
from sioconv.data.batches.loader import Batch, Mixture
from sioconv.data.batches.prefetch import prefetch
from sioconv.data.shards.shard_set import ShardSet
from sioconv.data.shards.writer import read_facts, task_writer, write_manifest

TARGET = 300_000  # tokens a second
BATCH = 16
CONSUMER_SECONDS = 0.02  # of matrix products per batch: far less than a training step, to see any wait at all


class Speed(TypedDict):
    """Tokens a second of the loader alone, and shares of a consumer's time spent waiting for it."""

    made: float
    waited: float
    waited_with_prefetch: float


def generated_sets(folder: Path, tokens: int, sources: int = 2, tasks: int = 4) -> dict[str, ShardSet]:
    """Shard sets of random tokens, `tokens` in all."""
    random = np.random.default_rng(0)
    sets = {}
    for name in (f"source{number}" for number in range(sources)):
        facts = [folder / name / f"facts-{task}" for task in range(tasks)]
        for task in range(tasks):
            with task_writer(folder / name, task, "uint16", masked=False, facts=facts[task]) as writer:
                left = tokens // (sources * tasks)
                while left:
                    length = min(left, 2 + int(random.lognormal(5.5, 1.2)))
                    writer.write([random.integers(0, 1 << 16, length, np.uint16).tolist()], None, 3 * length)
                    left -= length
        about = {"source": name, "tokenizer_sha256": "generated"}
        write_manifest(folder / name, [read_facts(path) for path in facts], "uint16", about)
        sets[name] = ShardSet.open(folder / name)
    return sets


def measure_loader(sequence_length: int = 1024, tokens: int = 8_000_000, seconds: float = 2.0) -> dict[str, Speed]:
    """The speed of each way to make batches, by its name; each measurement takes about `seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        sets = generated_sets(Path(folder), tokens)
        weights = {name: float(number + 1) for number, name in enumerate(sets)}
        loaders: dict[str, Mixture | Lanes] = {
            "windows": Mixture(sets, weights, sequence_length, seed=0),
            "whole documents": Mixture(sets, weights, sequence_length, seed=0, whole_documents=True),
            "lanes": Lanes(sets, weights, sequence_length, seed=0, lanes=BATCH),
        }
        return {name: _speed(loader, seconds) for name, loader in loaders.items()}


def _speed(loader: Mixture | Lanes, seconds: float) -> Speed:
    def batches() -> Iterator[Batch]:
        step = 0
        while True:
            yield loader.batch(step * BATCH, BATCH)
            step += 1

    start, count = time.perf_counter(), 0
    source = batches()
    while (passed := time.perf_counter() - start) < seconds:
        next(source)
        count += 1
    made = count * BATCH * loader.sequence_length / passed
    steps = max(3, round(seconds / CONSUMER_SECONDS))
    consume = _consumer()
    return Speed(
        made=made,
        waited=_waited(batches(), consume, steps),
        waited_with_prefetch=_waited(prefetch(batches(), 2), consume, steps),
    )


def _consumer() -> Callable[[], None]:
    """Matrix products that take about `CONSUMER_SECONDS`."""
    matrix = torch.randn(512, 512)
    torch.mm(matrix, matrix)
    start = time.perf_counter()
    for _ in range(10):
        torch.mm(matrix, matrix)
    count = max(1, round(CONSUMER_SECONDS / ((time.perf_counter() - start) / 10)))

    def consume() -> None:
        for _ in range(count):
            torch.mm(matrix, matrix)

    return consume


def _waited(batches: Iterator[Batch], consume: Callable[[], None], steps: int) -> float:
    waited = 0.0
    next(batches)  # the first can't be made ahead
    start = time.perf_counter()
    for _ in range(steps):
        consume()
        before = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - before
    total = time.perf_counter() - start
    if close := getattr(batches, "close", None):
        close()
    return waited / total


def print_table(speeds: dict[str, Speed], sequence_length: int) -> None:
    """The table, and whether the target is reached."""
    print(f"| batches of {BATCH} × {sequence_length:,} tokens | made, tokens/s | waited | waited behind prefetch |")
    print("|---|---:|---:|---:|")
    for name, speed in speeds.items():
        print(f"| {name} | {speed['made']:,.0f} | {speed['waited']:.1%} | {speed['waited_with_prefetch']:.1%} |")
    slowest = min(speed["made"] for speed in speeds.values())
    print(f"\nThe slowest makes {slowest / TARGET:.1f} times the target of {TARGET:,} tokens a second.")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=1024, help="tokens in a window")
    parser.add_argument("--tokens", type=int, default=8_000_000, help="tokens in the generated shards")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures to this file")
    arguments = parser.parse_args()
    speeds = measure_loader(arguments.length, arguments.tokens, arguments.seconds)
    print_table(speeds, arguments.length)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(speeds, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
