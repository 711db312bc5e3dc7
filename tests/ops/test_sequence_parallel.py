"""A sequence split over processes against the float64 loop in one process. Run by torchrun, this file is a worker."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sioconv.ops import scan, scan_sequence_parallel

NAMES = ("c", "final_state", "z", "log_a", "initial_state", "reset_state")
LEAVES = NAMES[2:]
GATES = torch.tensor([0.0, -1e-7, -1e-3, -0.05, -5.0, -90.0, -1e4])
# Lengths of the pieces on two and three ranks, with equal, unequal and empty ones.
PIECES = {2: [(30, 30), (1, 64), (0, 40), (40, 0), (0, 0)], 3: [(20, 20, 20), (2, 1100, 31), (25, 0, 40), (0, 9, 0)]}
RESETS = ("none", "some", "all")


class Case(NamedTuple):
    """What the ranks run: the dtype of z, the pieces' lengths, and the options."""

    pieces: tuple[int, ...]
    dtype: torch.dtype
    per_channel: bool
    resets: str
    backend: str

    def inputs(self) -> dict[str, Tensor]:
        """The whole sequence and the weights of its loss, in float64, exactly representable in z's dtype."""
        random = torch.Generator().manual_seed(sum(self.pieces))
        batch, length, heads, channels = 2, sum(self.pieces), 3, 5
        shape = (batch, length, heads, channels)
        gates = shape if self.per_channel else shape[:3]
        slow = torch.rand(gates, generator=random) < 0.9  # enough slow gates for states to reach the next piece
        kind = torch.where(
            slow, torch.randint(4, gates, generator=random), torch.randint(len(GATES), gates, generator=random)
        )
        share = {"none": 0.0, "some": 0.02, "all": 1.0}[self.resets]
        values = {
            "z": torch.randn(shape, generator=random).to(self.dtype),
            "log_a": GATES[kind],
            "initial_state": torch.randn(batch, heads, channels, generator=random),
            "reset_state": torch.randn(heads, channels, generator=random),
            "weight": torch.randn(shape, generator=random),
            "final_weight": torch.randn(batch, heads, channels, generator=random),
        }
        reset = torch.rand(batch, length, generator=random) < share
        return {name: value.double() for name, value in values.items()} | {"reset": reset}


def all_cases(ranks: int) -> list[Case]:
    float64 = [
        Case(pieces, torch.float64, per_channel, resets, "cpu")
        for pieces in PIECES[ranks]
        for per_channel in (False, True)
        for resets in RESETS
    ]
    others = [
        Case(PIECES[ranks][1], dtype, per_channel, "some", backend)
        for dtype in (torch.float32, torch.bfloat16)
        for per_channel in (False, True)
        for backend in ("cpu", "chunked")
    ]
    return float64 + others


def prepare(inputs: dict[str, Tensor], case: Case, dtype: torch.dtype, span: slice) -> dict[str, Tensor]:
    """One rank's arguments, leaves that gradients are asked for."""
    state = torch.float64 if dtype == torch.float64 else torch.float32
    arguments = {
        name: (inputs[name][:, span] if name in ("z", "log_a") else inputs[name])
        .to(dtype if name == "z" else state, copy=True)
        .requires_grad_()
        for name in LEAVES
        if name != "reset_state" or case.resets != "none"
    }
    return arguments if case.resets == "none" else arguments | {"reset": inputs["reset"][:, span]}


def results(c: Tensor, final: Tensor | None, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    assert final is not None
    slopes = {name: leaves[name].grad for name in LEAVES if name in leaves}
    missing = [name for name, slope in slopes.items() if slope is None]
    assert not missing, f"no gradient for {missing}"
    return {"c": c.detach(), "final_state": final.detach()} | {n: s for n, s in slopes.items() if s is not None}


def work(folder: Path) -> None:
    """Runs all cases as one rank of a group and writes what it got, a list in the order of the cases."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    found = []
    for case in all_cases(ranks):
        start = sum(case.pieces[:rank])
        span = slice(start, start + case.pieces[rank])
        inputs = case.inputs()
        arguments = prepare(inputs, case, case.dtype, span)
        c, final = scan_sequence_parallel(
            **arguments, group=dist.group.WORLD, output_final_state=True, backend=case.backend
        )
        # Every rank's final state counts, with another weight, and must give its gradient.
        last = (final * inputs["final_weight"] * (rank + 1)).sum()
        ((c.double() * inputs["weight"][:, span]).sum() + last).backward()
        found.append(results(c, final, arguments))
    torch.save(found, folder / f"{rank}.pt")
    torch.save(without_final_state(rank), folder / f"state_unasked_{rank}.pt")
    dist.destroy_process_group()


def without_final_state(rank: int) -> list[Tensor]:
    """c and z's gradient where z alone is given, what isn't finite stays before a reset, and no state is asked for."""
    z = torch.ones(1, 4, 1, 2, dtype=torch.float64) * (rank + 1)
    z[0, 0] = torch.nan if rank == 0 else 1
    z.requires_grad_()
    reset = torch.tensor([[False, rank == 0, False, False]])
    log_a = torch.full((1, 4, 1), -0.1, dtype=torch.float64)
    c, final = scan_sequence_parallel(z, log_a, group=None, reset=reset)
    assert final is None
    c.nan_to_num().square().sum().backward()
    assert z.grad is not None
    again, _ = scan_sequence_parallel(z, log_a, group=None, backend="chunked")
    with pytest.raises(RuntimeError, match="twice"):
        torch.autograd.grad(again.sum(), z, create_graph=True)
    return [c.detach(), z.grad]


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The number of processes, and the folder that they have written into."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={request.param}"]
    done = subprocess.run(
        [*command, __file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return request.param, folder


def error(found: Tensor, expected: Tensor) -> float:
    """Root-mean-square error relative to the expected values' root mean square; absolute where these are 0."""
    assert found.shape == expected.shape
    assert found.isfinite().all()
    scale = float(expected.norm()) or 1.0
    return float((found.double() - expected).norm()) / scale


def test_pieces_equal_the_whole(ranks: tuple[int, Path]) -> None:
    count, folder = ranks
    runs = [torch.load(folder / f"{rank}.pt") for rank in range(count)]
    for case, *pieces in zip(all_cases(count), *runs, strict=True):
        inputs = case.inputs()
        leaves = prepare(inputs, case, torch.float64, slice(None))
        c, final = scan(**leaves, output_final_state=True, backend="reference")
        assert final is not None
        each = count * (count + 1) // 2
        ((c * inputs["weight"]).sum() + (final * inputs["final_weight"] * each).sum()).backward()
        for name, expected in results(c, final, leaves).items():
            parts = [piece[name] for piece in pieces]
            if name == "final_state":
                assert all(torch.equal(part, parts[0]) for part in parts)
                found = parts[0]
            elif name in ("initial_state", "reset_state"):
                found = sum(parts, torch.zeros_like(parts[0]))
                assert name == "reset_state" or all(not part.any() for part in parts[1:])
            else:
                found = torch.cat(parts, dim=1)
            assert error(found, expected) <= limit(case, name), (case, name)


def limit(case: Case, name: str) -> float:
    forward = name in ("c", "final_state")
    if case.dtype == torch.float64:
        return 1e-12
    if case.dtype == torch.bfloat16 and name in ("c", "z", "log_a", "initial_state", "reset_state"):
        return 4e-3 if forward else 8e-3
    return 1e-6 if forward and case.backend == "cpu" else 1e-5


def test_what_is_not_finite_does_not_cross_a_reset(ranks: tuple[int, Path]) -> None:
    count, folder = ranks
    runs = [torch.load(folder / f"state_unasked_{rank}.pt") for rank in range(count)]
    c, slope = (torch.cat(parts, dim=1) for parts in zip(*runs, strict=True))
    assert c[:, 0].isnan().all()
    assert c[:, 1:].isfinite().all()
    z = torch.cat([torch.full((1, 4, 1, 2), rank + 1.0, dtype=torch.float64) for rank in range(count)], dim=1)
    z[0, 4::4] = 1
    z.requires_grad_()
    whole, _ = scan(z[:, 1:], torch.full((1, 4 * count - 1, 1), -0.1, dtype=torch.float64), backend="reference")
    whole.square().sum().backward()
    torch.testing.assert_close(c[:, 1:], whole)
    torch.testing.assert_close(slope[:, 1:], z.grad[:, 1:])


def test_one_process_alone_needs_a_group() -> None:
    z, log_a = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3)
    with pytest.raises(RuntimeError, match="group"):
        scan_sequence_parallel(z, log_a, group=None)
    arguments: dict[str, Any] = {"initial_state": torch.zeros(1, 4, 3)}
    with pytest.raises(ValueError, match="initial_state"):
        scan_sequence_parallel(z, log_a, group=None, **arguments)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
