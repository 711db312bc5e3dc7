"""`silu_gate` against x * SiLU(gate) in float64: values, gradients, every size and layout."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sioconv.ops import silu_gate
from sioconv.ops.cpu.elementwise.silu_gate_kernels import CHUNK
from sioconv.ops.eager import plain

LIMITS = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float64: 2e-15}
CANCELLED = {torch.float32: 1.0, torch.bfloat16: 1e-4, torch.float64: 1.0}
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny / 1e-7  # what is below is rounded to a fixed step


@pytest.fixture(autouse=True, scope="module")
def every_size_by_the_kernel() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("sioconv.ops.silu_gate"), "SMALLEST", 1)
        yield


def values_and_gradients(function: Any, x: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    x, gate = x.detach().requires_grad_(), gate.detach().requires_grad_()
    y = function(x, gate)
    return y.detach(), *torch.autograd.grad(y, (x, gate), up)


def assert_exact(x: Tensor, gate: Tensor, up: Tensor) -> None:
    found = values_and_gradients(silu_gate, x, gate, up)
    expected = values_and_gradients(plain.silu_gate, x.double(), gate.double(), up.double())
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == x.dtype
        # The slope of the gate crosses zero, where terms as large as x * up cancel.
        size = other.abs() + CANCELLED[x.dtype] * (x.double() * up.double()).abs() + SMALLEST_NORMAL
        assert float(((one.double() - other).abs() / size).max()) <= LIMITS[x.dtype]


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.integers(1, 200), st.integers(CHUNK - 40, CHUNK + 40), st.integers(2 * CHUNK, 2 * CHUNK + 3)),
    st.sampled_from(sorted(LIMITS, key=str)),
    st.integers(0, 2**31),
)
def test_it_is_the_product_at_every_size(size: int, dtype: torch.dtype, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x, gate, up = (torch.randn(size, generator=random).to(dtype) for _ in range(3))
    assert_exact(x, 4 * gate, up)


@pytest.mark.parametrize("dtype", list(LIMITS))
def test_gates_of_every_size(dtype: torch.dtype) -> None:
    sizes = [0.0, 1e-30, 1e-8, 0.3, 1.0, 20.0, 87.0, 89.0, 200.0, 1e4]
    gate = torch.tensor(sizes + [-size for size in sizes]).to(dtype)
    assert_exact(torch.ones_like(gate), gate, torch.ones_like(gate))


def test_what_is_not_a_number_stays_so() -> None:
    gate = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
    x = torch.tensor([1.0, 1.0, 1.0, float("nan")])
    torch.testing.assert_close(silu_gate(x, gate), x * F.silu(gate), equal_nan=True)


def test_strided_inputs_and_gradients() -> None:
    x, gate, up = (torch.randn(7, 5, 9).transpose(0, 2)[1:, :, ::2] for _ in range(3))
    assert_exact(x, gate, up)


def test_large_results_are_streamed_and_the_number_of_threads_changes_nothing() -> None:
    threads = torch.get_num_threads()
    x, gate, up = (torch.randn(2048, 1100) for _ in range(3))
    try:
        torch.set_num_threads(1)
        one = values_and_gradients(silu_gate, x, gate, up)
        torch.set_num_threads(2)
        two = values_and_gradients(silu_gate, x, gate, up)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, second) for first, second in zip(one, two, strict=True))
    for found, expected in zip(one, values_and_gradients(plain.silu_gate, x, gate, up), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("x", "gate"), [((0, 3), (0, 3)), ((2, 1), (2, 3))])
def test_empty_and_broadcast_tensors_are_torch_s(x: tuple[int, ...], gate: tuple[int, ...]) -> None:
    left, right = torch.randn(x), torch.randn(gate)
    assert torch.equal(silu_gate(left, right), left * F.silu(right))


def test_mixed_dtypes_are_promoted() -> None:
    assert silu_gate(torch.ones(3), torch.ones(3, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_second_derivative_is_torch_s() -> None:
    x, gate = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
    found = []
    for function in (silu_gate, lambda x, gate: x * F.silu(gate)):
        slopes = torch.autograd.grad(function(x, gate).sum(), (x, gate), create_graph=True)
        found.append(torch.autograd.grad(sum(slope.square().sum() for slope in slopes), (x, gate)))
    torch.testing.assert_close(*found)


def test_the_operators_keep_torch_s_rules() -> None:
    x, gate = torch.randn(33, requires_grad=True), torch.randn(33, requires_grad=True)
    torch.library.opcheck(torch.ops.sioconv.silu_gate.default, (x, gate))
