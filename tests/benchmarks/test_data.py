"""The benchmark of shards runs whole at a small size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def benchmark(*options: str) -> str:
    command = [sys.executable, "-m", "benchmarks.data", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_writes_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ("--megabytes", "0.2", "--rounds", "1", "--vocabulary", "600", "--json", str(out))
    printed = benchmark(*options)
    figures = json.loads(out.read_text())
    names = ["tokenizers encode_batch", "tokenizers encode_batch_fast", "sioconv, 1 worker", "datatrove Megatron"]
    assert set(names) <= set(figures["shards"])
    assert figures["shards"][names[0]]["/ encode_batch"] == 1
    assert all(speed["MB/s"] > 0 and name in printed for name, speed in figures["shards"].items())
    assert len(figures["cleaning"]) == 6 and all(speed > 0 for speed in figures["cleaning"].values())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is looked up in Linux's /proc")
def test_it_watches_memory(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    benchmark("--big", "0.004", "--json", str(out))
    figures = json.loads(out.read_text())["memory"]
    assert {"quarter 1", "quarter 4", "MB/s"} <= set(figures)
    assert figures["quarter 4"] > 50
