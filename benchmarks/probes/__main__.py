"""How much does a memory hold, and how far does it carry? `python -m benchmarks.probes`.

Small models are trained from nothing on tasks whose answers are known, by the training loop's own step: recall of
values by their keys, copying, selective copying, counting. Then they are asked at 1 to 32 times the length that they
were trained on. Every arm trains with each learning rate, and the table shows its best. Results are appended to a file;
what it has already isn't trained again.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from rich.console import Console
from rich.table import Table

from benchmarks.probes.tasks import TASKS
from benchmarks.probes.training import ARMS, FACTORS, Probe, best_of, run_probe
from benchmarks.speedrun.results import append_result, read_results
from sioconv.progress import say


def probes(arguments: argparse.Namespace) -> list[Probe]:
    """What is to be trained."""
    settings = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in arguments.set)}
    grid = itertools.product(
        arguments.tasks, arguments.sizes, arguments.widths, arguments.arms, arguments.lr, arguments.seeds
    )
    return [
        Probe(arm, task, size, arguments.length or 4 * TASKS[task].least(size), width, arguments.layers,
              arguments.heads, arguments.steps, arguments.rows, lr, seed, settings, arguments.mixed)
        for task, size, width, arm, lr, seed in grid
    ]  # fmt: skip


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Right answers of each arm at each length; several seeds of one are rows of their own."""
    table = Table(title="right answers at so many training lengths", title_justify="left")
    for name in ("task", "size", "arm", "state", "lr", "seed", *(f"{factor}×" for factor in FACTORS), "chance"):
        table.add_column(name, justify="left" if name in ("task", "arm") else "right")
    for row in sorted(best_of(rows), key=lambda row: (row["task"], row["size"], row["width"], row["arm"], row["seed"])):
        settings = "".join(f", {key}={value}" for key, value in row["settings"].items())
        settings += ", mixed" if row.get("mixed") else ""
        state = "–" if row["state_bytes"] is None else f"{row['state_bytes']:,}"
        shares = [f"{row['accuracy'][str(factor * row['length'])]:.1%}" for factor in FACTORS]
        table.add_row(
            row["task"], str(row["size"]), f"{row['arm']}{settings}", state, f"{row['lr']:g}", str(row["seed"]),
            *shares, f"{row['chance']:.1%}",
        )  # fmt: skip
    return table


def main() -> None:
    """Trains what isn't done; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.probes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m benchmarks.probes --tasks recall --sizes 8 16 --arms sioconv-2026b llama",
    )
    add = parser.add_argument
    add("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="(default: all)")
    add("--arms", nargs="+", choices=ARMS, default=["sioconv-2026b", "llama", "lstm"], help="(default: %(default)s)")
    add("--sizes", nargs="+", type=int, default=[16], help="how much is kept in memory (default: %(default)s)")
    add("--widths", nargs="+", type=int, default=[64], help="of the models: the state grows with it")
    add("--lr", nargs="+", type=float, default=[1e-3, 3e-3], help="learning rates (default: %(default)s)")
    add("--seeds", nargs="+", type=int, default=[0], help="(default: %(default)s)")
    add("--length", type=int, help="of the sequences of training (default: four times the least)")
    add("--layers", type=int, default=2, help="(default: %(default)s)")
    add("--heads", type=int, default=4, help="(default: %(default)s)")
    add("--steps", type=int, default=2000, help="(default: %(default)s)")
    add("--rows", type=int, default=64, help="sequences of a step (default: %(default)s)")
    add("--set", nargs="*", default=[], metavar="KEY=VALUE", help="fields of the model, as gate=channel")
    add("--mixed", action="store_true", help="train on sizes of 4, 8, … up to the size in turns")
    add("--threads", type=int, help="CPU threads")
    add("--results", type=Path, default=Path("runs/probes.jsonl"), help="JSON lines (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    wanted = probes(arguments)
    for probe in wanted:
        if any(probe.is_answered_by(row) for row in read_results(arguments.results)):
            continue
        try:
            row = run_probe(probe)
        except (ValueError, StrictDataclassError) as error:  # the latter: 128 in the place of 128.0
            parser.error(" ".join(str(error).split()))
        append_result(arguments.results, row)
        share = row["accuracy"][str(probe.length)]
        say(f"{probe.arm}, {probe.task} of {probe.size}, lr {probe.lr:g}, seed {probe.seed}: {share:.1%} right")
    rows = [row for row in read_results(arguments.results) if any(probe.is_answered_by(row) for probe in wanted)]
    Console(width=None if sys.stdout.isatty() else 160).print(table_of(rows))
    print(json.dumps({"results": str(arguments.results), "rows": len(rows)}))


if __name__ == "__main__":
    main()
