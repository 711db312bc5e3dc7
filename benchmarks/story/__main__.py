"""The derivation of c_t = a_t * c_{t-1} + z_t, timed: `python -m benchmarks.story --help`.

Each step of benchmarks/story/steps.py is first checked against the one before it; nothing is timed if one differs.
Then every step runs forward (without gradients) and forward + backward at every length and batch size, each case in a
process of its own (benchmarks/story/case.py).
"""

import argparse
import json
import re
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.story.case import HEADS, WIDTH, available_memory
from benchmarks.story.measure import Result, longest_that_fits, measure
from benchmarks.story.picture import draw
from benchmarks.story.steps import STEPS, Check, check_steps
from benchmarks.story.tables import in_bytes, result_table
from sioconv.files import atomic_write
from sioconv.hardware import describe_machine, describe_versions
from sioconv.progress import say, track

LENGTHS = "100,300,1000,3000,10000,30000,100000"


def _numbers(text: str) -> list[int]:
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", text) or 0 in (numbers := sorted({int(n) for n in text.split(",")})):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected whole numbers above 0 with commas between them, as 100,300"
        )
    return numbers


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(MiB|GiB)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a size in MiB or GiB, as 8GiB")
    return int(float(match[1]) * {"MiB": 2**20, "GiB": 2**30}[match[2]])


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.story",
        description="From the LSTM to the scan: every step checked against the one before it, then time and memory.",
        epilog="example: python -m benchmarks.story --lengths 100,1000,10000 --json story.json --picture story.svg",
    )
    parser.add_argument("--lengths", type=_numbers, default=LENGTHS, help=f"lengths T (default {LENGTHS})")
    parser.add_argument("--batches", type=_numbers, default="1,8", help="batch sizes (default 1,8)")
    parser.add_argument(
        "--memory", type=_size, default="8GiB", help="budget of one case; more doesn't fit (default 8GiB)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="longest time of one case (default 20)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--picture", type=Path, help="draw forward + backward into this file, SVG or PNG by its ending")
    options = parser.parse_args(words)
    if sys.platform != "linux":
        parser.error(f"this is {sys.platform}: the limit and the measure of memory are those of Linux")
    if options.seconds <= 0:
        parser.error(f"--seconds is {options.seconds:g}: expected more than 0")
    if options.memory > available_memory():
        parser.error(f"--memory is {in_bytes(options.memory)}: {in_bytes(available_memory())} are free, give less")
    if options.picture is not None and options.picture.suffix not in (".svg", ".png"):
        parser.error(f"--picture is {options.picture}: expected a name that ends in .svg or .png")
    return options


def _print(results: list[Result], options: argparse.Namespace) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200)
    cores = describe_machine()["cores"]
    console.print(f"width {WIDTH}, {HEADS} heads, fp32, {cores} CPU cores, {torch.get_num_threads()} threads")
    for batch, training in product(options.batches, (False, True)):
        chosen = [result for result in results if (result.batch, result.training) == (batch, training)]
        console.print(f"\nbatch {batch}, {'forward + backward' if training else 'forward'}: time, peak memory")
        console.print(result_table(chosen, options.lengths, options.memory, options.seconds))


def _report(checks: list[Check], results: list[Result], options: argparse.Namespace) -> dict[str, Any]:
    longest = []
    for step, batch, training in product(STEPS, options.batches, (False, True)):
        own = [result for result in results if (result.step, result.batch, result.training) == (step, batch, training)]
        length = longest_that_fits(own, options.memory)
        longest.append({"step": step, "batch": batch, "training": training, "length": length})
    return {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "threads": torch.get_num_threads(),
        "width": WIDTH,
        "heads": HEADS,
        "memory_budget_bytes": options.memory,
        "seconds_limit": options.seconds,
        "checks": [asdict(check) | {"passed": check.passed} for check in checks],
        "cases": [asdict(result) for result in results],
        "longest_that_fits": longest,
    }


def main(words: list[str] | None = None) -> int:
    """Check, measure, print, write; 1 if two steps differ that should be equal."""
    options = _arguments(words)
    checks = check_steps()
    for check in checks:
        verdict = "equal" if check.passed else "DIFFERENT"
        names = f"{STEPS[check.first].name} = {STEPS[check.second].name}"
        say(f"{names}, {check.dtype}: {verdict} (error {check.error:.1e}, at most {check.limit:.0e})")
    if not all(check.passed for check in checks):
        say("two steps that should be equal aren't: nothing is timed")
        return 1
    total = len(options.batches) * len(options.lengths) * 2 * len(STEPS)
    cases = measure(options.lengths, options.batches, options.memory, options.seconds)
    results = list(track(cases, "cases", total))
    _print(results, options)
    if options.json is not None:
        text = json.dumps(_report(checks, results, options), indent=1)
        with atomic_write(options.json) as file:
            file.write_text(text + "\n", encoding="utf-8")
    if options.picture is not None:
        with atomic_write(options.picture) as file:
            file.write_bytes(draw(results, options.memory, options.seconds, options.picture.suffix[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
