"""The precision that follows from what the machine does faster."""

from importlib import import_module

import pytest
import torch

from sioconv.errors import UserError
from sioconv.ops.linear import product
from sioconv.train import speed
from sioconv.train.speed import matrix_speed, pick_precision, synchronize

CPU = torch.device("cpu")


def test_what_is_asked_for_is_taken() -> None:
    assert pick_precision("fp32", CPU) is torch.float32
    assert pick_precision("bf16", CPU) is torch.bfloat16
    assert pick_precision("fp16", CPU) is torch.float16
    with pytest.raises(UserError, match="fp8"):
        pick_precision("fp8", CPU)


@pytest.mark.parametrize(("factor", "wanted"), [(2.5, torch.bfloat16), (1.2, torch.float32), (0.5, torch.float32)])
def test_a_cpu_takes_bf16_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, factor: float, wanted: torch.dtype
) -> None:
    speeds = {torch.float32: 1e9, torch.bfloat16: factor * 1e9}
    monkeypatch.setattr(speed, "matrix_speed", lambda _, dtype: speeds[dtype])
    assert pick_precision("auto", CPU) is wanted


def test_mps_takes_fp32() -> None:
    assert pick_precision("auto", torch.device("mps")) is torch.float32


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measures_a_product(dtype: torch.dtype, onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("sioconv.ops.linear"), "_FASTER", onednn)
    products = []
    monkeypatch.setattr(speed, "product", lambda left, right: products.append(left.dtype) or product(left, right))
    synchronize(CPU)
    assert matrix_speed(CPU, dtype, size=32, seconds=0.0) > 0
    assert bool(products) == (onednn and dtype == torch.float32)
