"""`cross_entropy_` against torch's in float64, by the kernel and in plain torch (float16)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sioconv.ops import cross_entropy_

# Largest absolute error of a loss at losses up to 100, and of the gradient relative to its row.
LIMITS = {
    torch.float32: (2e-5, 2e-6),
    torch.bfloat16: (2e-5, 4e-3),
    torch.float16: (2e-5, 1e-3),
    torch.float64: (1e-13, 1e-14),
}


def expected(logits: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    exact = logits.detach().double().requires_grad_()
    losses = F.cross_entropy(exact, targets, reduction="none", ignore_index=-100)
    (slope,) = torch.autograd.grad(losses.sum() * scale, exact)
    return losses.detach(), slope.detach()


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(sorted(LIMITS, key=str)),
    st.integers(1, 5),
    st.one_of(st.integers(1, 70), st.sampled_from([96, 1024, 8191])),
    st.sampled_from([0.1, 1.0, 10.0]),
    st.integers(0, 2**31),
)
def test_it_is_torch_s(dtype: torch.dtype, rows: int, vocabulary: int, size: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = (size * torch.randn(rows, vocabulary, generator=random)).to(dtype)
    targets = torch.randint(0, vocabulary, (rows,), generator=random)
    targets[torch.rand(rows, generator=random) < 0.2] = -100
    losses, slope = expected(logits, targets, 0.5)
    found = cross_entropy_(logits, targets, 0.5)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float((found.double() - losses).abs().max()) <= LIMITS[dtype][0]
    assert float((logits.double() - slope).abs().max()) <= LIMITS[dtype][1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_impossible_token_has_a_finite_loss(dtype: torch.dtype) -> None:
    logits = torch.tensor([[200.0, 0.0, -200.0]], dtype=dtype)  # exp(-400) is 0
    assert cross_entropy_(logits, torch.tensor([2])).tolist() == [400.0]
    assert logits.tolist() == [[1.0, 0.0, -1.0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_not_a_number_is_seen_in_the_loss(bad: float, dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 40, dtype=dtype)
    logits[1, 17] = bad
    losses = cross_entropy_(logits, torch.tensor([3, 5]))
    assert losses[0].item() == pytest.approx(math.log(40), rel=1e-6)
    assert not math.isfinite(losses[1].item())


def test_the_number_of_threads_changes_nothing() -> None:
    threads, logits, targets = torch.get_num_threads(), torch.randn(50, 999), torch.randint(0, 999, (50,))
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            own = logits.clone()
            results.append((cross_entropy_(own, targets), own))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_nothing_and_what_is_refused() -> None:
    assert cross_entropy_(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)).shape == (0,)
    with pytest.raises(ValueError, match="contiguous"):
        cross_entropy_(torch.zeros(5, 3).T, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(IndexError, match="target 5 of 5"):
        cross_entropy_(torch.zeros(1, 5), torch.tensor([5]))


def test_autograd_notices_that_saved_logits_have_changed() -> None:
    x = torch.randn(2, 5, requires_grad=True)
    logits = x.tanh()  # saves its result
    cross_entropy_(logits.detach(), torch.tensor([1, 2]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logits.sum().backward()
