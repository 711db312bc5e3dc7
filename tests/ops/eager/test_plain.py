"""The operators that a model folder carries do what those of the package do."""

from typing import Any

import pytest
import torch

from sioconv import ops
from sioconv.ops.eager import plain

SHAPES = [(2, 1, 3, 4), (2, 75, 3, 4), (1, 0, 3, 4), (2, 40, 1, 1)]


def arguments(shape: tuple[int, ...], per_channel: bool, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `scan`; every fifth step or so is a reset."""
    random = torch.Generator().manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    gates = shape if per_channel else shape[:3]
    return {
        "z": torch.randn(shape, generator=random).to(dtype),
        "log_a": -torch.rand(gates, generator=random).to(wide),
        "initial_state": torch.randn(shape[0], *shape[2:], generator=random).to(wide),
        "reset": torch.rand(shape[:2], generator=random) < 0.2,
        "reset_state": torch.randn(shape[2:], generator=random).to(wide),
        "output_final_state": True,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scans(shape: tuple[int, int, int, int], per_channel: bool, dtype: torch.dtype) -> None:
    given = arguments(shape, per_channel, dtype)
    for found, expected in zip(plain.scan(**given), ops.scan(**given), strict=True):
        torch.testing.assert_close(found, expected)
    wide = given["log_a"].dtype
    norm = {"norm_weight": torch.randn(shape[2], dtype=wide), "norm_bias": torch.randn(shape[2], dtype=wide)}
    for gate in (None, torch.randn(shape).to(dtype)):
        mixed = {**given, **norm, "eps": 1e-3, "gate": gate}
        pairs = zip(plain.scan_norm_gate(**mixed), ops.scan_norm_gate(**mixed), strict=True)
        for found, expected in pairs:
            torch.testing.assert_close(found, expected)
    given["output_final_state"] = False
    assert plain.scan(**given)[1] is None


@pytest.mark.parametrize("per_channel", [False, True])
def test_steps(per_channel: bool) -> None:
    given = arguments((2, 6, 3, 4), per_channel, torch.float32)
    for t in range(6):
        step = (given["z"][:, t], given["log_a"][:, t], given["initial_state"])
        for found, expected in zip(plain.step(*step), ops.step(*step), strict=True):
            assert torch.equal(found, expected)
