"""The benchmark of the recurrence runs whole at a small size, and its gate keeps out what computes something else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("resource")  # Windows has none

from benchmarks.scan import Case, check, measure
from benchmarks.scan_peers import CANDIDATES, Candidate

ROOT = Path(__file__).parents[2]


def test_it_writes_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.scan", "--cases", "2x40x2x8", "--rounds", "2", "--lengths", "50"]
    command += ["--only", "sioconv cpu", "torch loop", "log space", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    (figures,) = results["cases"].values()
    assert set(figures) == {"limit", "sioconv cpu", "torch loop", "log space"}
    assert figures["sioconv cpu"]["error"] < 1e-6
    for name in ("sioconv cpu", "torch loop", "log space"):
        row = figures[name]
        assert row["forward"] > 0
        assert row["forward+backward / limit"] > 0
        others = {"limit", "sioconv cpu", "torch loop", "log space"} - {name}
        assert {key.removeprefix("forward / ") for key in row if key.startswith("forward / ")} == others
        assert row["forward / limit"] == pytest.approx(row["forward"] / figures["limit"]["forward"])
        assert row["peak_bytes"] >= 4 * (2 * 1280 + 160)  # the inputs at least
    assert results["lengths"]["50"]["error"] < 1e-6


@pytest.mark.parametrize("name", ["sioconv chunked", "torch loop", "log space"])
def test_what_it_compares_computes_the_recurrence(name: str) -> None:
    assert check(CANDIDATES[name](), Case("2x33x2x4")) < 1e-4


def test_a_peer_of_another_device_is_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(measure(Case("1x4x1x4"), ["sioconv triton"], 1)) == {"limit"}
    assert "sioconv triton is left out: it runs on cuda only" in capsys.readouterr().err


def test_sizes_that_are_none_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scan", "--cases", "nonsense"], capture_output=True, text=True, cwd=ROOT,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "'nonsense': expected four whole numbers" in done.stderr


def test_a_wrong_candidate_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = Candidate(lambda z, log_a: (z, log_a), lambda z, log_a: torch.cumsum(z, dim=1) + 0 * log_a.sum())
    monkeypatch.setitem(CANDIDATES, "sum", lambda: wrong)
    figures = measure(Case("2x33x2x4"), ["sum"], 1)
    assert "sum is not timed" in capsys.readouterr().err
    assert "forward" not in figures["sum"]
    assert figures["sum"]["error"] > 0.1
