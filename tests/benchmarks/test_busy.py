"""The benchmark of a busy machine: its tables and its medians; it runs whole at one round."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.busy import show

ROOT = Path(__file__).parents[2]


def test_ratios_are_taken_round_by_round(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    show({"training": {"1": {"passive": [10.0, 40.0, 20.0], "one thread": [10.0, 20.0, 20.0]}}})
    shown = capsys.readouterr().out
    assert "1 spinning" in shown and "20 (1.00)" in shown  # ratios 1, 2, 1


@pytest.mark.slow
def test_it_writes_every_rounds_speed(tmp_path: Path) -> None:
    out = tmp_path / "busy.json"
    ways = ("passive", "one thread")
    command = [sys.executable, "-m", "benchmarks.busy", "--rounds", "1", "--loads", "0", "1", "--json", str(out)]
    subprocess.run([*command, "--ways", *ways], cwd=ROOT, check=True, capture_output=True)
    found = json.loads(out.read_text())["tokens_per_second"]
    assert set(found) == {"training", "generation", "evaluation"}
    assert all(set(speeds) == set(ways) and speeds[way][0] > 0 for loads in found.values() for speeds in loads.values()
               for way in ways)  # fmt: skip
