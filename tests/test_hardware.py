"""Which device is taken, and how a wrong one is refused."""

import platform
import sys
from importlib import import_module

import numpy as np
import pytest
import torch

import sioconv
from sioconv import hardware
from sioconv.errors import UserError
from sioconv.hardware import (
    describe_device,
    describe_machine,
    describe_versions,
    matrix_speed,
    memory_of,
    pick_device,
    pick_precision,
    synchronize,
    usable_cores,
    use_large_pages,
)
from sioconv.ops.linear import product

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "wanted"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_fastest_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, wanted: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == torch.device(wanted)


def test_a_name_is_taken_as_it_is() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert describe_device(torch.device("cpu")) == f"cpu ({torch.get_num_threads()} threads)"


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match="auto, cpu, cuda or mps") as refused:
        pick_device(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["meta", "privateuseone", "xla", "hpu", "cpu:x", "", "\ud800"])
def test_a_device_that_holds_no_numbers_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match=r"can't be used: .*: try auto, cpu, cuda or mps") as refused:
        pick_device(name)
    assert "\n" not in str(refused.value)


def test_the_memory_of_this_machine_is_known() -> None:
    memory = memory_of(torch.device("cpu"))
    assert memory is None or memory > 1 << 28
    assert memory_of(torch.device("meta")) is None


def test_what_is_asked_for_is_taken() -> None:
    assert pick_precision("fp32", CPU) is torch.float32
    assert pick_precision("bf16", CPU) is torch.bfloat16
    assert pick_precision("fp16", CPU) is torch.float16
    with pytest.raises(UserError, match="fp8"):
        pick_precision("fp8", CPU)
    with pytest.raises(UserError, match=r"^precision: 'fp8' .* give one of them"):  # of evaluate as well as of train
        pick_precision("fp8", CPU)


@pytest.mark.parametrize(("factor", "wanted"), [(2.5, torch.bfloat16), (1.2, torch.float32), (0.5, torch.float32)])
def test_a_cpu_takes_bf16_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, factor: float, wanted: torch.dtype
) -> None:
    speeds = {torch.float32: 1e9, torch.bfloat16: factor * 1e9}
    monkeypatch.setattr(hardware, "matrix_speed", lambda _, dtype: speeds[dtype])
    assert pick_precision("auto", CPU) is wanted


def test_mps_takes_fp32() -> None:
    assert pick_precision("auto", torch.device("mps")) is torch.float32


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measures_a_product(dtype: torch.dtype, onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("sioconv.ops.linear"), "_FASTER", onednn)
    products = []
    monkeypatch.setattr(hardware, "product", lambda left, right: products.append(left.dtype) or product(left, right))
    synchronize(CPU)
    assert matrix_speed(CPU, dtype, size=32, seconds=0.0) > 0
    assert bool(products) == (onednn and dtype == torch.float32)


def test_machine() -> None:
    machine = describe_machine()
    assert all(machine.values())
    assert machine["cores"] == str(usable_cores()) and usable_cores() >= 1
    assert platform.system() in machine["system"]


def test_versions() -> None:
    versions = describe_versions()
    assert versions["sioconv"] == sioconv.__version__
    assert versions["python"] == platform.python_version()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_large_pages_keep_what_is_in_memory() -> None:
    """Also around it, and where nothing is; pieces side by side are taken together."""
    numbers = np.random.default_rng(0).integers(0, 256, 9 * 2**20, np.uint8)
    before, start = numbers.copy(), numbers.ctypes.data
    third = numbers.size // 3
    use_large_pages([(start + 2 * third, third), (start, third), (start + third, third), (2**21, 2**22), (start, 0)])
    assert np.array_equal(numbers, before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked")
def test_only_whole_large_pages_inside_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    class Library:
        @staticmethod
        def madvise(start: int, size: int, advice: int) -> int:
            assert advice == 25
            asked.append((start, size))
            return -1  # what is refused is no error

    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda _: Library)
    large = 2**21
    use_large_pages([(large - 5, large), (2 * large + 4000, 2 * large), (9 * large, large - 1), (20 * large, large)])
    assert asked == [(large, large), (2 * large, large), (3 * large, large), (20 * large, large)]
