"""How fast is the recurrence? `python -m benchmarks.scan --json out.json` compares ours, the peers and the limit.

The limit is a copy of the bytes that must be moved: forward reads z and writes c; backward reads the gradient of c,
and c, and writes the gradient of z. Every implementation is checked against the float64 loop before it is timed. They
run one after the other in every round, the caches are flushed before each call, and the median of the rounds counts.
Peak memory is measured in a process of its own. Peers that aren't installed, or need another device, are left out and
named.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.memory import grown_memory
from benchmarks.scan_peers import CANDIDATES, ONLY_ON, Candidate
from sioconv.files import atomic_write
from sioconv.hardware import keep_freed_memory, synchronize
from sioconv.ops import scan
from sioconv.progress import track

CASES = ["8x1024x8x64", "1x16384x8x64"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LARGEST_ERRORS = {torch.float32: 1e-3, torch.bfloat16: 3e-2}  # a peer that is further off computes something else
LOOP_STEPS = 20_000  # longest sequence that the float64 loop checks; the float64 kernels, tested against it, go on
FLUSHED = 128 * 2**20  # bytes, more than the caches hold
CAPTION = "to ours: time of forward+backward; memory: peak over inputs and outputs; error: relative to float64"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What is scanned, and where; `size` is BxTxHxP."""

    size: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def inputs(self, positive: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """z [B, T, H, P], log_a [B, T, H] with memories of 1 to 1000 steps, and a gradient of c, from a fixed seed."""
        batch, steps, heads, channels = map(int, self.size.split("x"))
        random = torch.Generator().manual_seed(0)
        z = torch.randn(batch, steps, heads, channels, generator=random)
        log_a = -(10 ** (-3 * torch.rand(batch, steps, heads, generator=random)))
        z, grad_output = z.abs() + 1e-3 if positive else z, torch.randn(z.shape, generator=random)
        return (
            z.to(self.device, self.dtype),
            log_a.to(self.device),
            grad_output.to(self.device, self.dtype),
        )

    @property
    def steps(self) -> int:
        """T."""
        return int(self.size.split("x")[1])

    @property
    def ours(self) -> str:
        """The backend of ours that the others are compared with."""
        return "sioconv triton" if self.device == "cuda" else "sioconv cpu"


def size(text: str) -> str:
    """BxTxHxP from the command line."""
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*){3}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected four whole numbers, BxTxHxP, as {CASES[0]}")
    return text


def check(candidate: Candidate, case: Case) -> float:
    """Largest of the relative root-mean-square errors of c and of z's gradient against a float64 run."""
    z, log_a, gradient = case.inputs(candidate.positive)
    exact = z.double().requires_grad_()
    backend = "reference" if z.shape[1] <= LOOP_STEPS else "auto"
    expected, _ = scan(exact, log_a.double(), backend=backend)
    expected.backward(gradient.double())  # type: ignore[no-untyped-call]
    start = z.clone().requires_grad_()
    found = candidate.restore(candidate.run(*candidate.prepare(start, log_a)), z.shape)
    found.backward(gradient)  # type: ignore[no-untyped-call]
    assert exact.grad is not None
    assert start.grad is not None
    pairs = ((found.detach(), expected.detach()), (start.grad, exact.grad))
    return max(float((one.double() - other).norm() / other.norm()) for one, other in pairs)


def calls(candidate: Candidate, case: Case) -> dict[str, Callable[[], object]]:
    """What is timed: the forward pass alone, and with the backward pass to z and the gates."""
    z, log_a, gradient = case.inputs(candidate.positive)
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


def limits(case: Case) -> dict[str, Callable[[], object]]:
    """Copies of the bytes that must be moved."""
    z, _, gradient = case.inputs()

    def both() -> None:
        torch.add(gradient, z.clone())

    return {"forward": z.clone, "forward+backward": both}


def measure(case: Case, names: list[str], rounds: int) -> dict[str, Figures]:
    """Seconds (median), ratios to the limit and to the other candidates, and error of every candidate."""
    timed = {"limit": limits(case)}
    figures: dict[str, Figures] = {"limit": {}}
    for name in names:
        if ONLY_ON.get(name, case.device) != case.device:
            print(f"{name} is left out: it runs on {ONLY_ON[name]} only", file=sys.stderr)
            continue
        try:
            candidate = CANDIDATES[name]()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        if case.steps > candidate.longest:
            print(f"{name} is left out at {case.size}: too slow beyond T = {candidate.longest:,}", file=sys.stderr)
            continue
        error_found = check(candidate, case)
        figures[name] = {"error": error_found}
        if not error_found < LARGEST_ERRORS[case.dtype]:  # NaN too
            print(f"{name} is not timed at {case.size}: its relative error is {error_found:.1e}", file=sys.stderr)
            continue
        timed[name] = calls(candidate, case)
    device = torch.device(case.device)
    junk = torch.zeros(FLUSHED // 4, device=device)
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in track(range(rounds + 1), case.size):
        for name, what in timed.items():
            for kind, call in what.items():
                junk.add_(1)
                synchronize(device)
                start = time.perf_counter()
                call()
                synchronize(device)
                if number:  # the first round compiles and fills pools
                    seconds.setdefault((name, kind), []).append(time.perf_counter() - start)
    for (name, kind), values in seconds.items():
        figures[name][kind] = statistics.median(values)
    for name, kind in seconds:
        for other in timed:
            if other != name:
                figures[name][f"{kind} / {other}"] = figures[name][kind] / figures[other][kind]
    return figures


def measure_peak(case: Case, name: str) -> Figures:
    """Peak bytes of a forward and backward pass in a fresh process, and their ratio to inputs and outputs."""
    dtype = next(key for key, value in DTYPES.items() if value == case.dtype)
    command = [sys.executable, "-m", "benchmarks.scan", "--peak", name, "--cases", case.size]
    command += ["--device", case.device, "--dtype", dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: Figures = json.loads(done.stdout)
    return result


def peak(case: Case, name: str) -> Figures:
    """What `measure_peak` asks of its process: growth over the inputs, after a first call at a small size."""
    candidate = CANDIDATES[name]()
    calls(candidate, replace(case, size="1x64x1x16"))["forward+backward"]()
    both = calls(candidate, case)["forward+backward"]
    z, log_a, gradient = case.inputs(candidate.positive)
    inputs = sum(tensor.nbytes for tensor in (z, log_a, gradient))
    outputs = 2 * z.nbytes + log_a.nbytes  # c, and the gradients
    if case.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        both()
        grown = torch.cuda.max_memory_allocated() - before
    else:
        grown = grown_memory(both)
    return {"peak_bytes": inputs + grown, "peak / (inputs + outputs)": (inputs + grown) / (inputs + outputs)}


def show(case: Case, figures: dict[str, Figures]) -> None:
    """Prints one case as a table."""
    where = f"{torch.get_num_threads()} threads" if case.device == "cpu" else torch.cuda.get_device_name()
    dtype = str(case.dtype).removeprefix("torch.")
    table = Table(title=f"{case.size} (BxTxHxP), {dtype}, {where}", caption=CAPTION)
    table.add_column("")
    for heading in ("forward", "/limit", "+backward", "/limit", "to ours", "memory", "error"):
        table.add_column(heading, justify="right")
    key = f"forward+backward / {case.ours}"

    def cell(row: Figures, key: str, form: Callable[[float], str]) -> str:
        return form(row[key]) if key in row else ""

    for name, row in figures.items():
        table.add_row(
            name,
            cell(row, "forward", lambda value: f"{value * 1e3:.1f} ms"),
            cell(row, "forward / limit", "{:.2f}".format),
            cell(row, "forward+backward", lambda value: f"{value * 1e3:.1f} ms"),
            cell(row, "forward+backward / limit", "{:.2f}".format),
            "" if name == "limit" else cell(row, key, "{:.1f}x".format),
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
    parser.add_argument(
        "--cases", nargs="+", type=size, default=CASES, metavar="BxTxHxP", help="sizes (default: %(default)s)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where (default: %(default)s)")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32", help="of z (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES), help="candidates")
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each (default: %(default)s)")
    parser.add_argument(
        "--lengths", nargs="*", type=int, default=[1_000, 10_000, 100_000, 1_000_000],
        help="T of the series at B=1, H=2, P=32 that shows how time grows (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--peak", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: expected at least 1")
    made = partial(Case, device=arguments.device, dtype=DTYPES[arguments.dtype])
    if arguments.peak:
        print(json.dumps(peak(made(arguments.cases[0]), arguments.peak)))
        return
    keep_freed_memory()
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "cases": {}}
    if arguments.device == "cuda":
        results["card"] = torch.cuda.get_device_name()
    for case in map(made, arguments.cases):
        figures = measure(case, arguments.only, arguments.rounds)
        for name in figures:
            if "forward" in figures[name] and name != "limit" and sys.platform == "linux":
                figures[name] |= measure_peak(case, name)
        results["cases"][case.size] = figures
        show(case, figures)
    series = [made(f"1x{steps}x2x32") for steps in arguments.lengths]
    rounds = max(3, arguments.rounds // 3)
    results["lengths"] = {case.steps: measure(case, [case.ours], rounds)[case.ours] for case in series}
    for steps, row in results["lengths"].items():
        print(f"T = {steps:>9,}: {row['forward+backward'] / steps * 1e9:.0f} ns a step, error {row['error']:.1e}")
    if arguments.json:
        with atomic_write(arguments.json) as temporary:
            temporary.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
