"""`rms_norm` against torch's in float64: values and gradients at every width, of every dtype."""

from collections.abc import Iterator
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sioconv.ops import rms_norm

EPS = 1e-6
# Of x and the weight, of the result; relative errors of the result, of x's gradient and of the weight's. Rounding to
# bfloat16 once costs up to 2**-8.
KINDS = {
    (torch.float32, torch.float32): (2e-7, 3e-7, 1e-6),
    (torch.float32, torch.bfloat16): (4e-3, 3e-7, 1e-6),
    (torch.bfloat16, torch.bfloat16): (4e-3, 4e-3, 4e-3),
    (torch.float64, torch.float64): (1e-15, 1e-15, 1e-15),
}


@pytest.fixture(autouse=True, scope="module")
def every_size_by_the_kernel() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("sioconv.ops.rms_norm"), "SMALLEST", 1)
        yield


def run(x: Tensor, weight: Tensor, up: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = rms_norm(x, weight, EPS, dtype)
    return y.detach(), *torch.autograd.grad(y, (x, weight), up)


def expected(x: Tensor, weight: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    x, weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    y = F.rms_norm(x, weight.shape, weight, EPS)
    return y.detach(), *torch.autograd.grad(y, (x, weight), up.double())


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(KINDS, key=str)),
    st.sampled_from([(1,), (3, 5), (64,), (65,), (2, 64), (7, 1, 37)]),
    st.one_of(st.integers(1, 70), st.sampled_from([96, 128, 384, 401])),
    st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_it_is_torch_s(kind: tuple[torch.dtype, torch.dtype], rows: tuple[int, ...], width: int, size: float) -> None:
    dtype, result = kind
    random = torch.Generator().manual_seed(width)
    x, up = (torch.randn(*rows, width, generator=random) for _ in range(2))
    x, weight, up = (size * x).to(dtype), torch.randn(width, generator=random).to(dtype), up.to(result)
    found = run(x, weight, up, result)
    assert [each.dtype for each in found] == [result, dtype, dtype]
    exact = expected(x, weight, up)
    # The gradients are sums whose terms may cancel (x's do where a row has one channel): the terms add to the scale.
    row_scales = (x.double().square().mean(-1, keepdim=True) + EPS).rsqrt()
    slopes = up.double() * row_scales
    terms = (torch.zeros(()), slopes * weight.double(), (slopes * x.double()).abs().flatten(0, -2).sum(0))
    for one, other, term, limit in zip(found, exact, terms, KINDS[kind], strict=True):
        assert one.shape == other.shape
        assert float((one.double() - other).norm()) <= limit * float(other.norm() + term.norm())


def test_half_weights_and_strided_rows() -> None:
    x = torch.randn(6, 9, 40).transpose(0, 1)
    weight = torch.randn(40).to(torch.bfloat16)
    found = run(x, weight, torch.ones(x.shape), torch.float32)
    torch.testing.assert_close(found[0].double(), expected(x, weight, torch.ones(x.shape))[0], rtol=1e-6, atol=1e-6)


def test_the_number_of_threads_changes_nothing_and_large_results_are_streamed() -> None:
    threads = torch.get_num_threads()
    x, weight, up = torch.randn(6000, 384), torch.randn(384), torch.randn(6000, 384)
    try:
        torch.set_num_threads(1)
        one = run(x, weight, up, torch.float32)
        torch.set_num_threads(2)
        two = run(x, weight, up, torch.float32)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, second) for first, second in zip(one, two, strict=True))
    for found, exact in zip(one, expected(x, weight, up), strict=True):
        assert float((found.double() - exact).norm() / exact.norm()) < 1e-6


def test_small_empty_and_half_inputs_are_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(8)
    assert rms_norm(torch.zeros(0, 8), weight, EPS).shape == (0, 8)
    x = torch.randn(3, 8, dtype=torch.float16)
    assert torch.equal(rms_norm(x, weight.half(), EPS), F.rms_norm(x, (8,), weight.half(), EPS))
    monkeypatch.setattr(import_module("sioconv.ops.rms_norm"), "SMALLEST", 1000)
    small = torch.randn(3, 8)
    assert torch.equal(rms_norm(small, weight, EPS), F.rms_norm(small, (8,), weight, EPS))


def test_the_second_derivative_is_torch_s() -> None:
    # In float64: float32's rounding in sums that cancel would need a bound that knows the terms.
    x, weight = (
        torch.randn(3, 8, dtype=torch.float64, requires_grad=True),
        torch.ones(8, dtype=torch.float64, requires_grad=True),
    )
    found = []
    for function in (rms_norm, lambda x, weight, eps: F.rms_norm(x, (8,), weight, eps)):
        slopes = torch.autograd.grad(function(x, weight, EPS).square().sum(), (x, weight), create_graph=True)
        found.append(torch.autograd.grad(sum(slope.square().sum() for slope in slopes), (x, weight)))
    torch.testing.assert_close(*found)


def test_the_operator_keeps_torch_s_rules() -> None:
    x, weight = torch.randn(3, 40, requires_grad=True), torch.randn(40, requires_grad=True)
    torch.library.opcheck(torch.ops.sioconv.rms_norm.default, (x, weight, EPS, torch.float32))
