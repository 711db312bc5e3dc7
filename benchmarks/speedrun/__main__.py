"""Which arm needs the fewest bits per byte for the same tokens? `python -m benchmarks.speedrun queue FILE`.

An arm is the recipe of a track with settings of its own; its budget is counted in tokens, so that other work on the
machine changes when it ends and not what it is. `queue` trains the arms of a file one after the other at low priority.
It skips what the results have already and goes on where it was killed; several may work at one file. `arm` trains one;
`many` trains the arms of a file at once on one device, a GPU for instance. `table` makes the pages of docs/ that show
the results; `scaling` fits a law of size and text to those of a file. `calibrate` measures how many tokens a second the
arms of a file train on, in turns on an idle machine: an arm with `minutes` counts its tokens by that.
"""

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from benchmarks.speedrun.arm_files import KEYS, check, read_arms
from benchmarks.speedrun.arms import ROOT, TOKENS, TRACKS, Arm
from benchmarks.speedrun.results import (
    ARM_KEYS,
    RESULTS,
    SHOWN_KEYS,
    SPEEDS,
    append_result,
    describe,
    is_done,
    read_results,
)
from benchmarks.speedrun.table import PAGES, write_pages
from benchmarks.speedrun.training import commit_here, tidy, train_arm
from sioconv.errors import UserError
from sioconv.hardware import pick_device
from sioconv.progress import say

LEAST_PRIORITY = 19
STEADY = 0.9  # of the fastest turn: a median below is one of a machine that did something else


def run_queue(arms: Sequence[Arm], results: Path, work: Path) -> int:
    """Trains what isn't done; returns how many arms failed.

    First those that no other process is at, then the others, once their process has ended.
    """
    failed: list[Arm] = []
    for wait in (False, True):
        for arm in arms:
            if arm in failed or is_done(arm, results):
                continue
            try:
                row = train_arm(arm, work, wait)
            except UserError as error:
                say(f"arm {arm.name}, seed {arm.seed}: {error}")
                failed.append(arm)
                continue
            if row is not None and not is_done(arm, results):
                append_result(results, row)
                tidy(arm, work)
                say(describe(row))
    return len(failed)


def main() -> None:
    """Runs a command; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speedrun",
        description=__doc__.partition("\n")[0] if __doc__ else None,
        epilog="Example: python -m benchmarks.speedrun queue benchmarks/speedrun/queue.yaml",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    queue = verbs.add_parser("queue", help="train the arms of a file, one after the other")
    queue.add_argument("file", type=Path, help="YAML: see benchmarks/speedrun/queue.yaml")
    many = verbs.add_parser("many", help="train the arms of a file at once on one device, without checkpoints")
    many.add_argument("file", type=Path, help="YAML: see benchmarks/speedrun/queue.yaml")
    many.add_argument("--device", default="auto", help="what to train on (default: %(default)s)")
    many.add_argument("--workers", type=int, default=8, help="processes (default: %(default)s)")
    many.add_argument("--minutes", type=float, default=math.inf, help="after which none goes on (default: no limit)")
    many.add_argument("--commit", help="the code's, where it isn't a git repository (default: HEAD)")
    many.add_argument("--prepare", action="store_true", help="only make the texts, which needs no GPU")
    one = verbs.add_parser("arm", help="train one arm")
    one.add_argument("name", help="of what is compared")
    one.add_argument("--track", choices=list(TRACKS), default="bundled", help="which text (default: %(default)s)")
    one.add_argument("--tokens", type=int, default=TOKENS, help="to train on (default: %(default)s)")
    one.add_argument("--seed", type=int, default=0, help="of weights and order (default: %(default)s)")
    one.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the recipe, as model.num_heads=4"
    )
    table = verbs.add_parser("table", help="make docs/leaderboard.md and docs/leaderboard.ja.md of the results")
    table.add_argument("--results", type=Path, default=RESULTS, help="JSON lines (default: %(default)s)")
    table.add_argument("--out", type=Path, default=PAGES, help="folder of the two pages (default: %(default)s)")
    calibrate = verbs.add_parser(
        "calibrate", help="measure the arms of a file for budgets in minutes; the machine is idle"
    )
    calibrate.add_argument("file", type=Path, help="YAML: see benchmarks/speedrun/minutes.yaml")
    calibrate.add_argument("--rounds", type=int, default=7, help="turns of each that count (default: %(default)s)")
    calibrate.add_argument("--threads", type=int, help="of the processor (default: its cores)")
    calibrate.add_argument("--work", type=Path, default=ROOT / "runs" / "speedrun", help="for the texts")
    scaling = verbs.add_parser("scaling", help="fit a law of size and text to the results of a file's arms")
    scaling.add_argument("file", type=Path, help="YAML: see benchmarks/speedrun/scaling.yaml")
    scaling.add_argument("--results", type=Path, default=RESULTS, help="JSON lines (default: %(default)s)")
    for verb in (queue, many, one):
        verb.add_argument("--results", type=Path, default=RESULTS, help="JSON lines (default: %(default)s)")
        verb.add_argument("--work", type=Path, default=ROOT / "runs" / "speedrun", help="for checkouts and runs")
    for verb in (queue, many, calibrate, scaling):
        verb.add_argument("--speeds", type=Path, default=SPEEDS, help="of minutes, JSON lines (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "table":
            if not arguments.results.is_file():
                raise UserError(f"no results at {arguments.results}: give a file that `queue` has written")
            write_pages(read_results(arguments.results, (*ARM_KEYS, *SHOWN_KEYS)), arguments.out)
            return
        if arguments.verb == "calibrate":
            _calibrate(arguments)
            return
        if arguments.verb == "scaling":
            _show_scaling(read_arms(arguments.file, arguments.speeds), arguments.results)
            return
        sys.exit(_train(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped: the same line does what is left", file=sys.stderr)
        sys.exit(130)


def _calibrate(arguments: argparse.Namespace) -> None:
    from benchmarks.speedrun.calibration import measure_speeds  # with all that a training imports

    if arguments.rounds < 1 or (arguments.threads is not None and arguments.threads < 1):
        raise UserError("--rounds and --threads must be above 0")
    arms = read_arms(arguments.file, speeds=None)
    for row in measure_speeds(arms, arguments.work, arguments.rounds, arguments.threads or os.cpu_count() or 1):
        append_result(arguments.speeds, row)
        say(f"{row['name']}: {row['tokens_per_second']:,.0f} tokens/s")
        if row["median"] < STEADY * row["tokens_per_second"]:
            say(f"warning: the median turn of {row['name']} had {row['median']:,.0f}: measure again on an idle machine")


def _show_scaling(arms: Sequence[Arm], results: Path) -> None:
    from benchmarks.speedrun.scaling import fit, points_of, tables  # with scipy

    points = points_of(arms, read_results(results, (*ARM_KEYS, "parameters", "bits_per_byte")))
    for table in tables(fit(points), points):
        Console().print(table)


def _train(arguments: argparse.Namespace) -> int:
    """Trains what is asked for; returns the exit code."""
    if arguments.verb == "many":
        arms = read_arms(arguments.file, arguments.speeds)
        if arguments.prepare:
            from benchmarks.speedrun.prepared import prepare  # with all that a recipe's stages import

            prepare(arms, arguments.work)
            return 0
        if arguments.workers < 1 or not arguments.minutes > 0:
            raise UserError("--workers and --minutes must be above 0")
        from benchmarks.speedrun.many import train_many  # its processes import what this one has

        device, commit = str(pick_device(arguments.device)), arguments.commit or commit_here()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its processes are ended
        left = train_many(arms, arguments.results, arguments.work, device, arguments.workers, arguments.minutes, commit)
        if left:
            say(f"{left} arms are left")
        return 1 if left else 0
    os.nice(LEAST_PRIORITY)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that an arm is told to save and end
    if arguments.verb == "queue":
        arms = read_arms(arguments.file, arguments.speeds)
    else:
        arms = [_arm_of(arguments)]
    return 1 if run_queue(arms, arguments.results, arguments.work) else 0


def _arm_of(arguments: argparse.Namespace) -> Arm:
    """The arm of the command line. Raises UserError for a setting or a number that can't be."""
    settings: dict[str, Any] = {}
    for word in arguments.set:
        key, _, value = word.partition("=")
        if "=" not in word or not key or key in settings:
            raise UserError(f"--set {word}: expected KEY=VALUE, as model.num_heads=4, each key once")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {word}: the value is not YAML: put it in quotes") from error
    values = {"name": arguments.name, "tokens": arguments.tokens, "seeds": [arguments.seed], "settings": settings}
    check(values, KEYS, {"name"}, "arm")
    return Arm(arguments.track, arguments.name, arguments.tokens, arguments.seed, settings)


if __name__ == "__main__":
    main()
