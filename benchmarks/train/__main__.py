"""How fast is training? `python -m benchmarks.train --json out.json`: whole steps of ours, of the peers, and the limit.

A step is forward, backward, clipping and the optimizer, by the loop's own `Stepper` for every arm, on random tokens.
All models of a group have nearly the same number of parameters and see the same number of tokens in a step. They take
turns; the first two steps aren't counted, and the median of the others counts. The limit is the fastest matrix product
that was measured in between. With `--profile` it is shown instead where the time of our step goes.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.train.measure import DTYPES, Entry, Group, Result, measure, peak, peak_in_a_process
from benchmarks.train.profile import times
from benchmarks.train.tables import group_table, time_table
from sioconv.files import atomic_write
from sioconv.hardware import keep_freed_memory, pick_device
from sioconv.progress import say, track

LENGTHS = (512, 1024, 4096, 16384)
COMPARED = ("sioconv", "sioconv-2026", "sioconv-2026b", "sioconv-2024", "llama", "lstm", "mingru")
TOKENS = 16384


def groups(tokens: int, lengths: tuple[int, ...], compile_lengths: tuple[int, ...]) -> list[Group]:
    """What is compared, the fastest first."""

    def entries(arms: tuple[str, ...], length: int) -> tuple[Entry, ...]:
        return tuple(Entry(arm, length, max(1, tokens // length)) for arm in arms)

    ours = tuple(entry for length in lengths for entry in entries(("sioconv",), length))
    middle = 1024 if 1024 in lengths else lengths[0]
    peers = tuple(arm for arm in COMPARED if arm != "sioconv-2024")  # which differs from ours in initial values alone
    made = [Group("17m, one sequence of 1,000", "17m", tuple(Entry(arm, 1000, 1) for arm in COMPARED))]
    made += [
        Group(f"17m, T = {length:,}", "17m", entries(COMPARED if length == middle else peers, length))
        for length in lengths
    ]
    made.append(Group("17m, ours at all lengths", "17m", ours))
    others = tuple(entry for entry in ours if entry.length != middle)
    made.append(Group(f"60m, T = {middle:,}, and ours at all lengths", "60m", (*entries(COMPARED, middle), *others)))
    for length in compile_lengths:
        made.append(Group(f"17m, T = {length:,}, compiled blocks", "17m", entries(peers, length), compiled=True))
    if tokens >= 32 * middle:
        made.append(Group(f"125m, T = {middle:,}", "125m", entries(COMPARED, middle)))
    slow = tuple(Entry(arm, middle, max(1, tokens // middle // 8)) for arm in ("sioconv", "mamba2", "mambapy"))
    return [*made, Group(f"17m, T = {middle:,}, an eighth of the tokens", "17m", slow)]


def show(table: object) -> None:
    """Prints a table as wide as it is."""
    Console(width=160).print(table)


def memory(tokens: int, dtypes: list[str], lengths: tuple[int, ...]) -> dict[str, dict[int, float]]:
    """Bytes a token that a step of ours needs over weights and moments, by dtype and length, each in a process."""
    found: dict[str, dict[int, float]] = {}
    for dtype in dtypes:
        entries = [Entry("sioconv", length, tokens // length) for length in lengths]
        found[dtype] = {entry.length: peak_in_a_process(entry, "17m", dtype) / entry.tokens for entry in entries}
    return found


def profiles(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What the time of our step is spent on, by size and dtype."""
    length = min(1024, arguments.tokens)
    return {
        f"{size}, {dtype}": times("sioconv", size, length, arguments.tokens // length, dtype)
        for size in ("17m", "60m")
        for dtype in arguments.dtypes
    }


def main() -> None:
    """Runs the benchmark; see `--help`."""
    parser = argparse.ArgumentParser(
        description="Times whole training steps: ours, the peers, and the limit that matrix products set.",
        epilog="Example: python -m benchmarks.train --rounds 2 --json out.json",
    )
    parser.add_argument("--rounds", type=int, default=2, help="timed steps of each (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="in a step (default: %(default)s)")
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS), help="T (default: %(default)s)")
    parser.add_argument("--compiled", nargs="*", type=int, default=[1024], help="T of the compiled groups")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES), help="of the products")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where (default: %(default)s)")
    parser.add_argument("--only", default="", help="of the groups, those whose name has this in it")
    parser.add_argument("--profile", action="store_true", help="show where the time of our step goes, and nothing else")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--peak", nargs=5, metavar=("ARM", "LENGTH", "BATCH", "SIZE", "DTYPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: expected at least 1")
    for length in () if arguments.profile else (*arguments.lengths, *arguments.compiled):
        if not 1 <= length <= arguments.tokens:
            parser.error(f"a length of {length}: expected 1 to --tokens, {arguments.tokens}")
    if arguments.peak:
        arm, length, batch, size, dtype = arguments.peak
        print(json.dumps(peak(Entry(arm, int(length), int(batch)), size, dtype)))
        return
    keep_freed_memory()
    figures = profile_all(arguments) if arguments.profile else measure_all(arguments)
    if arguments.json:
        with atomic_write(arguments.json) as temporary:
            temporary.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def profile_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """`--profile`."""
    found = profiles(arguments)
    show(time_table("µs of one core a token", found))
    return found


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything but `--profile`."""
    start, results, device = time.monotonic(), list[Result](), pick_device(arguments.device)
    lengths = tuple(arguments.lengths)
    chosen = [
        group for group in groups(arguments.tokens, lengths, tuple(arguments.compiled)) if arguments.only in group.name
    ]
    for group in track(chosen, "groups"):
        found = measure(group, arguments.dtypes, arguments.rounds, say, device)
        results += found
        show(group_table(found, f"{group.name}: {time.monotonic() - start:,.0f} s since the start"))
    figures: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "limits": {dtype: [result.limit for result in results if result.dtype == dtype] for dtype in arguments.dtypes},
        "results": [
            asdict(result) | {"tokens_per_second": result.tokens_per_second, "utilisation": result.utilisation}
            for result in results
        ],
    }
    if not arguments.only and device.type == "cpu":
        figures["bytes_a_token"] = memory(arguments.tokens, arguments.dtypes, lengths)
        for dtype, by_length in figures["bytes_a_token"].items():
            line = ", ".join(f"T = {length:,}: {value:,.0f}" for length, value in by_length.items())
            print(f"memory of our step over weights and moments, bytes a token, 17m, {dtype}: {line}")
    return figures


if __name__ == "__main__":
    main()
