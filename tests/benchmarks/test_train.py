"""The benchmark of training runs whole at a small size, for every arm and in both dtypes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("resource")  # Windows has none

from benchmarks.train.arms import ARMS, build, parameters_of_ours
from benchmarks.train.measure import Entry, Group, measure
from benchmarks.train.profile import KINDS, times

ROOT = Path(__file__).parents[2]
PEERS = {"mingru": "minGRU_pytorch", "mambapy": "mambapy"}  # not in the environment of the tests


def test_it_writes_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.train", "--tokens", "64", "--lengths", "16", "32", "--compiled"]
    command += ["--rounds", "2", "--only", "17m, T = 32", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())["results"]
    found = {(result["arm"], result["dtype"]) for result in results}
    assert {(arm, dtype) for arm in ("sioconv", "llama", "lstm") for dtype in ("fp32", "bf16")} <= found
    for result in results:
        assert len(result["seconds"]) == 2
        assert result["tokens_per_second"] == pytest.approx(64 / (sum(result["seconds"]) / 2))
        used = 6 * result["matrix_parameters"] * result["tokens_per_second"] / result["limit"]
        assert result["utilisation"] == pytest.approx(used)


@pytest.mark.parametrize("arm", list(ARMS))
def test_arms_have_as_many_parameters_as_ours(arm: str) -> None:
    if arm in PEERS:
        pytest.importorskip(PEERS[arm])
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build(arm, "17m").parameters())
    # Two of mambapy's blocks are larger than one of ours by their small matrices, and can't be made narrower.
    assert count == pytest.approx(parameters_of_ours("17m"), rel=0.06 if arm == "mambapy" else 0.03)


def test_what_cannot_run_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("No module named 'peer'")

    monkeypatch.setitem(ARMS, "mingru", missing)  # type: ignore[arg-type]
    told: list[str] = []
    group = Group("g", "17m", (Entry("mingru", 8, 1), Entry("sioconv", 8, 1)))
    (result,) = measure(group, ["fp32"], 1, told.append)
    assert result.arm == "sioconv"
    assert told == ["g: mingru in fp32 is left out: No module named 'peer'"]


def test_times_of_a_step_by_what_they_are_for() -> None:
    found = times("sioconv", "17m", 64, 1, "fp32")
    assert set(found) <= {*KINDS, "everything else"}
    assert max(found, key=lambda kind: found[kind]) == "matrix products"
    assert found["recurrence, norm of the state"] > 0
    assert found["clipping and optimizer"] > 0
