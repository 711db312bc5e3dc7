"""The derivation as a process: what it writes, how a case ends that is too large, and that a wrong step is found."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the benchmark limits and reads memory as Linux does", allow_module_level=True)

ROOT = Path(__file__).parents[2]
STEPS = ["lstm", "input_gated", "equation", "matrix_channel", "matrix_head", "scan", "attention"]
# Each breaks one step; the checks that compare it must say so, and no others.
BROKEN = {
    "steps.LSTM.forward = scaled(steps.LSTM.forward)": ["lstm"],
    "steps.InputGatedLSTM.forward = scaled(steps.InputGatedLSTM.forward)": ["lstm", "input_gated"],
    "steps.loop = scaled(steps.loop)": ["input_gated", "equation"],
    # Both matrix steps take the same function: they stay equal to each other.
    "steps.matrix = scaled(steps.matrix)": ["equation", "matrix_head"],
    "steps.fast = scaled(steps.fast)": ["matrix_head"],
    "steps.fast = bent(steps.fast)": ["matrix_head"],
    "steps.fast = void(steps.fast)": ["matrix_head"],
}
BREAK = """
import sys, torch
import benchmarks.story.steps as steps
scaled = lambda function: lambda *inputs: function(*inputs) * (1 + 1e-4)
bent = lambda function: lambda *inputs: function(*inputs).detach() + 0 * function(*inputs)  # right but for the gradient
void = lambda function: lambda *inputs: function(*inputs) * float("nan")
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500
    )


def test_it_checks_measures_and_writes(tmp_path: Path) -> None:
    figures, picture = tmp_path / "story.json", tmp_path / "story.svg"
    options = ["--lengths", "600,20", "--batches", "1", "--memory", "16MiB", "--seconds", "100"]
    done = run("-m", "benchmarks.story", *options, "--json", str(figures), "--picture", str(picture))
    assert done.returncode == 0, done.stderr
    assert "batch 1, forward + backward" in done.stdout
    assert "doesn't fit" in done.stdout
    assert "</svg>" in picture.read_text()
    report: dict[str, Any] = json.loads(figures.read_text())
    assert (report["width"], report["heads"], report["memory_budget_bytes"]) == (256, 8, 16 * 2**20)
    assert report["machine"]["cores"]
    assert report["versions"]["torch"]
    assert {check["dtype"] for check in report["checks"]} == {"float64", "float32"}
    for dtype in ("float64", "float32"):
        pairs = [(check["first"], check["second"]) for check in report["checks"] if check["dtype"] == dtype]
        assert pairs == list(pairwise(STEPS[:6]))
    assert all(check["passed"] and 0 <= check["error"] <= check["limit"] for check in report["checks"])
    cases = {(case["step"], case["length"], case["training"]): case for case in report["cases"]}
    assert len(report["cases"]) == len(cases) == 7 * 2 * 2
    for (step, length, _), case in cases.items():
        if step.startswith("matrix") and length == 600:  # M of 8 heads alone is 11 MiB, and twice that while it is made
            assert (case["outcome"], case["seconds"], case["peak_bytes"], case["runs"]) == ("memory", None, None, 0)
        elif length == 20:
            assert case["outcome"] == "measured"
            assert case["seconds"] > 0
            assert case["runs"] > 0
            assert case["peak_bytes"] >= 0
    assert cases["matrix_channel", 20, False]["peak_bytes"] > 4 * 256 * 20 * 20  # M of every channel
    longest = {(row["step"], row["training"]): row["length"] for row in report["longest_that_fits"]}
    assert longest.keys() == {(step, training) for step in STEPS for training in (False, True)}


def test_a_case_over_the_time_limit_is_stopped_and_longer_ones_are_not_tried() -> None:
    code = """
from contextlib import closing
from benchmarks.story.case import Case, CaseProcess
from benchmarks.story.measure import Result, _foresee
with closing(CaseProcess(Case("input_gated", 1, 30_000), 2**30)) as process:
    print(process.run(False, 0.01).outcome)

def foresee(outcome, seconds, peak, *lengths, of=True):
    results = {("matrix_head", of): [Result("matrix_head", 1, 100, of, outcome, seconds, 1, peak)]}
    print(*(_foresee(results, "matrix_head", length, True, 400 * 2**20, 5.0) for length in lengths))

foresee("measured", 2.0, 100 * 2**20, 200, 250, 251, 300)  # fills 400 MiB at twice the length
foresee("measured", 5.0, 100 * 2**20, 150, 300)
foresee("time", None, None, 200)
foresee("memory", None, None, 100, of=False)
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["time", "None None memory memory", "time memory", "time", "memory"]


def test_a_broken_step_stops_it_with_exit_code_1(tmp_path: Path) -> None:
    figures = tmp_path / "story.json"
    code = f"{BREAK}steps.fast = scaled(steps.fast)\nfrom benchmarks.story.__main__ import main\nsys.exit(main())"
    done = run("-c", code, "--json", str(figures))
    assert done.returncode == 1, done.stderr
    assert "5 T x T matrix per head = 6 scan, float64: DIFFERENT" in " ".join(done.stderr.split())
    assert not figures.exists()


def test_every_check_compares_its_two_steps() -> None:
    code = BREAK + "before = dict(vars(steps)), steps.LSTM.forward, steps.InputGatedLSTM.forward\n"
    for change in BROKEN:
        code += f"{change}\nprint(*(check.first for check in steps.check_steps() if not check.passed), sep=',')\n"
        code += "vars(steps).update(before[0]); steps.LSTM.forward, steps.InputGatedLSTM.forward = before[1:]\n"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    found = [line.split(",") for line in done.stdout.splitlines()]
    assert found == [2 * names for names in BROKEN.values()]  # in float64, then in float32


def test_bad_options_end_with_exit_code_2() -> None:
    cases = [
        (["--lengths", "100,0"], "--lengths: '100,0'"),
        (["--lengths", "ten"], "--lengths: 'ten'"),
        (["--memory", "8"], "as 8GiB"),
        (["--memory", "900000GiB"], "give less"),
        (["--picture", "story.bmp"], "story.bmp"),
        (["--seconds", "0"], "--seconds is 0"),
    ]
    code = f"""
import sys
from benchmarks.story.__main__ import main
for options in {[options for options, _ in cases]!r}:
    try:
        main(options)
    except SystemExit as end:
        print(end.code, file=sys.stderr)
"""
    lines = [line for line in run("-c", code).stderr.splitlines() if not line.startswith((" ", "usage"))]
    assert len(lines) == 2 * len(cases)
    for (_, words), message, exit_code in zip(cases, lines[::2], lines[1::2], strict=True):
        assert words in message
        assert exit_code == "2"


def test_help_has_an_example() -> None:
    done = run("-m", "benchmarks.story", "--help")
    assert done.returncode == 0
    assert "example: python -m benchmarks.story" in done.stdout
