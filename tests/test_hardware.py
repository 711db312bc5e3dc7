"""Which device is taken, and how a wrong one is refused."""

import pytest
import torch

from sioconv.errors import UserError
from sioconv.hardware import describe_device, memory_of, pick_device


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
