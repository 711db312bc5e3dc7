"""How fast is the recurrence? `python -m benchmarks.scan --json out.json` compares ours, the peers and the limit.

The limit is a copy of the bytes that must be moved: forward reads z and writes c; backward reads the gradient of c,
and c, and writes the gradient of z. Every implementation is checked against the float64 loop before it is timed. They
run one after the other in every round, the caches are flushed before each call, and the median of the rounds counts.
Peak memory is measured in a process of its own. Peers that aren't installed are left out and named.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.scan_peers import CANDIDATES, Candidate
from sioconv.files import atomic_write
from sioconv.ops import scan
from sioconv.progress import track
from sioconv.train.speed import keep_freed_memory

CASES = ["8x1024x8x64", "1x16384x8x64"]
LOOP_STEPS = 20_000  # longest sequence that the float64 loop checks; the float64 kernels, tested against it, go on
FLUSHED = 128 * 2**20  # bytes, more than the caches hold
LARGEST_ERROR = 1e-3  # of the gate before timing: a peer that is further off computes something else
CAPTION = "to ours: time of forward+backward; memory: peak over inputs and outputs; error: relative to float64"
Figures = dict[str, Any]


def make_inputs(case: str, positive: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """z [B, T, H, P] and log_a [B, T, H] with memories of 1 to 1000 steps, and a gradient of c, from a fixed seed."""
    batch, steps, heads, channels = map(int, case.split("x"))
    random = torch.Generator().manual_seed(0)
    z = torch.randn(batch, steps, heads, channels, generator=random)
    log_a = -(10 ** (-3 * torch.rand(batch, steps, heads, generator=random)))
    return z.abs() + 1e-3 if positive else z, log_a, torch.randn(z.shape, generator=random)


def check(candidate: Candidate, case: str) -> float:
    """Largest of the relative root-mean-square errors of c and of z's gradient against a float64 run."""
    z, log_a, gradient = make_inputs(case, candidate.positive)
    exact = z.double().requires_grad_()
    backend = "reference" if z.shape[1] <= LOOP_STEPS else "cpu"
    expected, _ = scan(exact, log_a.double(), backend=backend)
    expected.backward(gradient.double())  # type: ignore[no-untyped-call]
    start = z.clone().requires_grad_()
    found = candidate.restore(candidate.run(*candidate.prepare(start, log_a)), z.shape)
    found.backward(gradient)  # type: ignore[no-untyped-call]
    assert exact.grad is not None
    assert start.grad is not None
    pairs = ((found.detach(), expected.detach()), (start.grad, exact.grad))
    return max(float((one.double() - other).norm() / other.norm()) for one, other in pairs)


def calls(candidate: Candidate, case: str) -> dict[str, Callable[[], object]]:
    """What is timed: the forward pass alone, and with the backward pass to z and the gates."""
    z, log_a, gradient = make_inputs(case, candidate.positive)
    inputs = [tensor.detach() for tensor in candidate.prepare(z, log_a)]
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]

    def forward() -> None:
        with torch.no_grad():
            candidate.run(inputs[0], inputs[1])

    with torch.no_grad():
        weight = gradient.reshape(candidate.run(inputs[0], inputs[1]).shape)

    def both() -> None:
        torch.autograd.grad(candidate.run(leaves[0], leaves[1]), leaves, weight)

    return {"forward": forward, "forward+backward": both}


def limits(case: str) -> dict[str, Callable[[], object]]:
    """Copies of the bytes that must be moved."""
    z, _, gradient = make_inputs(case)

    def both() -> None:
        torch.add(gradient, z.clone())

    return {"forward": z.clone, "forward+backward": both}


def measure(case: str, names: list[str], rounds: int) -> dict[str, Figures]:
    """Seconds (median), ratio to the limit and error of every candidate."""
    timed = {"limit": limits(case)}
    figures: dict[str, Figures] = {"limit": {}}
    for name in names:
        try:
            candidate = CANDIDATES[name]()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        if int(case.split("x")[1]) > candidate.longest:
            print(f"{name} is left out at {case}: it takes too long beyond T = {candidate.longest:,}", file=sys.stderr)
            continue
        error_found = check(candidate, case)
        figures[name] = {"error": error_found}
        if not error_found < LARGEST_ERROR:  # NaN too
            print(f"{name} is not timed at {case}: its relative error is {error_found:.1e}", file=sys.stderr)
            continue
        timed[name] = calls(candidate, case)
    junk = torch.zeros(FLUSHED // 4)
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in track(range(rounds + 1), f"{case}"):
        for name, what in timed.items():
            for kind, call in what.items():
                junk.add_(1)
                start = time.perf_counter()
                call()
                if number:  # the first round compiles and fills pools
                    seconds.setdefault((name, kind), []).append(time.perf_counter() - start)
    for (name, kind), values in seconds.items():
        figures[name][kind] = statistics.median(values)
        figures[name][f"{kind} / limit"] = figures[name][kind] / statistics.median(seconds["limit", kind])
    return figures


def measure_peak(case: str, name: str) -> Figures:
    """Peak bytes of a forward and backward pass in a fresh process, and their ratio to inputs and outputs."""
    command = [sys.executable, "-m", "benchmarks.scan", "--peak", name, "--cases", case]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: Figures = json.loads(done.stdout)
    return result


def peak(case: str, name: str) -> Figures:
    """What `measure_peak` asks of its process: growth over the inputs, after a first call at a small size."""
    candidate = CANDIDATES[name]()
    calls(candidate, "1x64x1x8")["forward+backward"]()
    both = calls(candidate, case)["forward+backward"]
    z, log_a, gradient = make_inputs(case, candidate.positive)
    inputs = sum(tensor.nbytes for tensor in (z, log_a, gradient))
    outputs = 2 * z.nbytes + log_a.nbytes  # c, and the gradients
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    both()
    marks = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    grown = int(marks["VmHWM"].split()[0]) * 1024 - before
    return {"peak_bytes": inputs + grown, "peak / (inputs + outputs)": (inputs + grown) / (inputs + outputs)}


def show(case: str, figures: dict[str, Figures]) -> None:
    """Prints one case as a table."""
    table = Table(title=f"{case} (BxTxHxP), fp32, {torch.get_num_threads()} threads", caption=CAPTION)
    table.add_column("")
    for heading in ("forward", "/limit", "+backward", "/limit", "to ours", "memory", "error"):
        table.add_column(heading, justify="right")
    best = figures.get("sioconv cpu", {}).get("forward+backward")

    def cell(row: Figures, key: str, form: Callable[[float], str]) -> str:
        return form(row[key]) if key in row else ""

    for name, row in figures.items():
        faster = f"{row['forward+backward'] / best:.1f}x" if best and "forward+backward" in row else ""
        table.add_row(
            name,
            cell(row, "forward", lambda value: f"{value * 1e3:.1f} ms"),
            cell(row, "forward / limit", "{:.2f}".format),
            cell(row, "forward+backward", lambda value: f"{value * 1e3:.1f} ms"),
            cell(row, "forward+backward / limit", "{:.2f}".format),
            "" if name in ("limit", "sioconv cpu") else faster,
            cell(row, "peak / (inputs + outputs)", "{:.2f}".format),
            cell(row, "error", "{:.1e}".format),
        )
    Console(width=110).print(table)


def main() -> None:
    """Runs the benchmark; see `--help`."""
    parser = argparse.ArgumentParser(
        description="Times the recurrence: ours, the peers, and the limit that memory sets.",
        epilog="Example: python -m benchmarks.scan --rounds 9 --json out.json",
    )
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="BxTxHxP", help="sizes (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES), help="candidates")
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each (default: %(default)s)")
    parser.add_argument(
        "--lengths", nargs="*", type=int, default=[1_000, 10_000, 100_000, 1_000_000],
        help="T of the series at B=1, H=2, P=32 that shows how time grows (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--peak", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(json.dumps(peak(arguments.cases[0], arguments.peak)))
        return
    keep_freed_memory()
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "cases": {}}
    for case in arguments.cases:
        figures = measure(case, arguments.only, arguments.rounds)
        for name in figures:
            if name != "limit" and sys.platform == "linux":
                figures[name] |= measure_peak(case, name)
        results["cases"][case] = figures
        show(case, figures)
    series = partial(measure, names=["sioconv cpu"], rounds=max(3, arguments.rounds // 3))
    results["lengths"] = {steps: series(f"1x{steps}x2x32")["sioconv cpu"] for steps in arguments.lengths}
    for steps, row in results["lengths"].items():
        print(f"T = {steps:>9,}: {row['forward+backward'] / steps * 1e9:.0f} ns a step, error {row['error']:.1e}")
    if arguments.json:
        with atomic_write(arguments.json) as temporary:
            temporary.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
