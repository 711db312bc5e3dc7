"""The benchmark of the loader runs whole at a small size."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_writes_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.data_loader", "--length", "64", "--tokens", "40000"]
    done = subprocess.run(
        [*command, "--seconds", "0.1", "--json", str(out)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    speeds = json.loads(out.read_text())
    assert set(speeds) == {"windows", "whole documents", "lanes"}
    for name, speed in speeds.items():
        assert speed["made"] > 0
        assert 0 <= speed["waited"] < 1
        assert 0 <= speed["waited_with_prefetch"] < 1
        assert f"| {name} | {speed['made']:,.0f} |" in done.stdout
