"""Two processes that train one model equal one process that does; real processes, started by torchrun, over gloo."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sioconv.errors import UserError
from sioconv.train.checkpoint import checkpoints
from sioconv.train.distributed import World, join_world, lost_processes
from sioconv.train.step import rows_and_micro_batches
from tests.train import small
from tests.train.launch import finish, torchrun
from tests.train.worker import work

ALONE = World(torch.device("cpu"))
RECOMPUTED = {"accumulation": 4, "activation_checkpointing": True, "batch_size": 8}
CASES: dict[str, dict[str, Any]] = {
    "gradients in fp64": {"gradients": True, "double": True, "accumulation": 4},
    "fp64": {"double": True},
    "fp32": {},
    "fp32, recomputed and accumulated": RECOMPUTED,
    "tied, convolution": {"model": {"tie_word_embeddings": True, "conv_width": 2}, "schedule": "cosine"},
    "carried state": {"carry_state": True, "accumulation": 4},
    "bigrams, carried state, fp64": {
        "model": {"bigram_rows": 2, "bigram_width": 8},
        "double": True,
        "carry_state": True,
        "accumulation": 4,
    },
    "state tuning, gradients in fp64": {"only": "initial_state", "gradients": True, "double": True, "accumulation": 4},
    "state tuning, fp64": {"only": "initial_state", "double": True, "model": {"tie_word_embeddings": True}},
    "state tuning, bf16": {"only": "initial_state", "precision": "bf16", "lr": 0.1, "accumulation": 4},
    "muon": {"optimizer": "muon"},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "llama, fp64": {"architecture": "llama", "double": True},
    "lstm, fp64": {"architecture": "lstm", "double": True},
    "mingru, fp64": {"architecture": "mingru", "double": True},
    "mamba2, fp64": {"architecture": "mamba2", "double": True},
    "lstm, carried state, fp64": {"architecture": "lstm", "double": True, "carry_state": True, "accumulation": 4},
    **{
        f"{name}, recomputed and accumulated, fp64": {"architecture": name, "double": True} | RECOMPUTED
        for name in ("llama", "lstm", "mingru", "mamba2")
    },
    **{f"{name}, bf16": {"architecture": name, "precision": "bf16"} for name in ("llama", "lstm", "mingru", "mamba2")},
}
# Largest difference of the weights, of the losses and of the gradients' norms, these two relative.
LIMITS = {
    "fp64": (1e-10, 1e-10, 1e-10),
    # transformers computes the forget rates in fp32: their gradients are summed over a process's rows in it.
    "mamba2, fp64": (1e-7, 1e-10, 1e-10),
    "mamba2, recomputed and accumulated, fp64": (1e-7, 1e-10, 1e-10),
    "state tuning, fp64": (1e-10, 1e-10, 1e-10),
    "state tuning, bf16": (None, 1e-2, None),
    "muon": (None, 1e-2, None),
    "bf16": (None, 1e-2, None),
    "fp16": (None, 1e-2, None),
}
# AdamW's first steps have one size whatever the gradient's: rounding that turns a sign shows in later norms.
FP32_LIMITS = (1e-6, 1e-6, 5e-6)
TUNING = list(CASES).index("state tuning, fp64")


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((value.double() - second[name].double()).abs().max()) for name, value in first.items())


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """One test for all cases, because starting the processes is what takes the time."""
    cases = [values | {"run": str(tmp_path / f"run-{n}"), "log_every": 1} for n, values in enumerate(CASES.values())]
    # The last one finds the checkpoints of state tuning, whose frozen weights aren't in them.
    process = torchrun(["-m", "tests.train.worker", str(tmp_path), json.dumps([*cases, cases[TUNING]])], 2)
    alone = [work(values | {"run": str(tmp_path / f"alone-{n}")}, ALONE) for n, values in enumerate(cases)]
    ((code, said),) = finish([process])
    assert code == 0, said
    for number, name in enumerate(CASES):
        together = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        if "gradients" in name:
            check_gradients(alone[number], together)
        else:
            check_training(name, alone[number], together)
    first, again = (torch.load(tmp_path / f"{number}.pt", weights_only=True) for number in (TUNING, len(CASES)))
    assert largest_difference(first["weights"], again["weights"]) == 0.0
    newest = checkpoints(tmp_path / f"run-{TUNING}" / "checkpoints" / "pretrain")[-1]
    shutil.rmtree(newest)  # one process goes on from what two have left before
    resumed = work(cases[TUNING], ALONE)
    assert largest_difference(first["weights"], resumed["weights"]) < 1e-10
    assert newest.exists()


def check_gradients(alone: dict[str, Any], together: dict[str, Any]) -> None:
    assert alone["loss"] == pytest.approx(together["loss"], rel=1e-12)
    assert largest_difference(alone["gradients"], together["gradients"]) < 1e-12
    assert max(float(gradient.abs().max()) for gradient in alone["gradients"].values()) > 1e-3


def check_training(name: str, alone: dict[str, Any], together: dict[str, Any]) -> None:
    weights, losses, norms = LIMITS.get(name) or LIMITS.get(name.rpartition(", ")[2], FP32_LIMITS)
    assert len(alone["rows"]) == len(together["rows"]) == 8, name
    for (loss, norm), (other_loss, other_norm) in zip(alone["rows"], together["rows"], strict=True):
        assert other_loss == pytest.approx(loss, rel=losses), name
        if norms:
            assert other_norm == pytest.approx(norm, rel=norms), name
    if weights:
        assert largest_difference(alone["weights"], together["weights"]) < weights, name
    assert alone["rows"][-1][0] < alone["rows"][0][0], name  # it did learn something


def test_the_processes_share_out_the_windows() -> None:
    config = small.make_config(batch_size=12, accumulation=2)
    shares = [rows_and_micro_batches(config, World(torch.device("cpu"), rank, 3)) for rank in range(3)]
    assert [row for rows, _ in shares for row in rows] == list(range(12))
    config = small.make_config(batch_size=24, accumulation=8)
    assert [rows_and_micro_batches(config, World(torch.device("cpu"), 0, size))[1] for size in (1, 2, 4, 8, 24)] == [
        8,
        4,
        2,
        1,
        1,
    ]
    with pytest.raises(
        UserError, match=r"train\.batch_size: 24 windows .* 5 processes in 1 micro-batches.*multiple of 5"
    ):
        rows_and_micro_batches(config, World(torch.device("cpu"), 0, 5))


def test_one_process_agrees_with_itself() -> None:
    assert ALONE.sums(1.5, True) == [1.5, True]
    assert ALONE.share("x") == "x"
    assert ALONE.agree(lambda: 3) == [3]
    assert ALONE.leader(lambda: 4) == 4
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.leads, world.mesh) == (0, 1, True, None)


def test_what_torch_says_of_a_lost_process_becomes_one_line() -> None:
    with pytest.raises(UserError, match="another process of this run has stopped") as told, lost_processes():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547]\nConnection closed by peer [127.0.0.1]:4711")
    assert "\n" not in str(told.value)
    with pytest.raises(RuntimeError, match="shapes"), lost_processes():
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "process 2 of 2"),
    ],
)
def test_a_launchers_mistakes_are_named(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=named), join_world("cpu"):
        pass
