"""`causal_convolution` against a loop in float64: values and gradients at every size, over documents, from a tail."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sioconv.ops import causal_convolution
from sioconv.ops.cpu.elementwise.convolution_kernels import STEPS

# Of x and of the weight; relative errors of a result, of x's and the tail's gradients, and of the weight's gradient, as
# parts of the sum of what is added up. Rounding to bfloat16 once costs up to 2**-8.
KINDS = {
    (torch.float32, torch.float32): (5e-7, 5e-6),
    (torch.bfloat16, torch.float32): (4e-3, 5e-6),
    (torch.bfloat16, torch.bfloat16): (4e-3, 4e-3),
    (torch.float32, torch.bfloat16): (5e-7, 4e-3),
    (torch.float64, torch.float64): (1e-15, 1e-14),
}


@pytest.fixture(autouse=True, scope="module")
def every_size_by_the_kernel() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("sioconv.ops.convolution"), "SMALLEST", 1)
        yield


def by_a_loop(x: Tensor, weight: Tensor, tail: Tensor | None, reset: Tensor | None) -> Tensor:
    """Step by step, from the inputs of the step's document that have been seen."""
    rows = []
    for row in range(len(x)):
        seen = [] if tail is None else [*tail[row].unbind(-1)]
        steps = []
        for t in range(x.shape[1]):
            if reset is not None and reset[row, t]:
                seen = []
            seen.append(x[row, t])
            steps.append(sum(weight[:, k] * seen[-1 - k] for k in range(min(weight.shape[1], len(seen)))))
        rows.append(torch.stack(steps))
    return torch.stack(rows)


def values_and_gradients(
    function: Any, up: Tensor, x: Tensor, weight: Tensor, tail: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, ...]:
    """y and the gradients of x, of the tail where there is one, and of the weight."""
    leaves = [None if each is None else each.detach().requires_grad_() for each in (x, tail, weight)]
    y = function(leaves[0], leaves[2], leaves[1], reset)
    wanted = [each for each in leaves if each is not None]
    return y.detach(), *torch.autograd.grad(y, wanted, up, materialize_grads=True, allow_unused=True)


def assert_exact(x: Tensor, weight: Tensor, tail: Tensor | None, reset: Tensor | None, up: Tensor) -> None:
    wide = [None if each is None else each.double() for each in (up, x, weight, tail)]
    found = values_and_gradients(causal_convolution, up, x, weight, tail, reset)
    expected = values_and_gradients(by_a_loop, *wide, reset)
    terms = values_and_gradients(by_a_loop, *(None if each is None else each.abs() for each in wide), reset)
    of_steps, of_weight = KINDS[x.dtype, weight.dtype]
    kinds = [(x.dtype, of_steps)] * (len(found) - 1) + [(weight.dtype, of_weight)]
    for one, other, term, (dtype, limit) in zip(found, expected, terms, kinds, strict=True):
        assert one.dtype == dtype and one.shape == other.shape and one.is_contiguous()
        assert bool(((one.double() - other).abs() <= limit * term).all())


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LENGTHS = st.one_of(st.integers(1, 6), st.integers(STEPS - 2, STEPS + 2), st.just(2 * STEPS + 1))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_it_is_the_sum_at_every_size(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS, key=str)))
    taps, length, rows = data.draw(st.integers(2, 4)), data.draw(LENGTHS), data.draw(st.integers(1, 3))
    width = data.draw(st.sampled_from([1, 3, 31, 32, 33, 64, 70]))
    seed = data.draw(st.integers(0, 2**20))
    near = [n for n in (*range(6), *range(STEPS - 3, STEPS + 3)) if n < length]
    places = data.draw(st.none() | st.sets(st.tuples(st.integers(0, rows - 1), st.sampled_from(near))))
    reset = None if places is None else torch.zeros(rows, length, dtype=torch.bool)
    for row, step in places or ():
        reset[row, step] = True  # type: ignore[index]
    x, up = (some(rows, length, width, seed=seed + n).to(kind[0]) for n in range(2))
    tail = some(rows, width, taps - 1, seed=seed + 2).to(kind[0]) if data.draw(st.booleans()) else None
    assert_exact(x, some(width, taps, seed=seed + 3).to(kind[1]), tail, reset, up)


@pytest.mark.parametrize("taps", [2, 3, 4])
def test_documents_of_every_length_and_beginning(taps: int) -> None:
    """Every choice of beginnings among the first steps, a row for each, and the tail in front."""
    length = 6
    reset = torch.tensor([[bool(n >> t & 1) for t in range(length)] for n in range(2**length)])
    x, up = some(len(reset), length, 3), some(len(reset), length, 3, seed=1)
    assert_exact(x, some(3, taps, seed=2), some(len(reset), 3, taps - 1, seed=3), reset, up)


def test_another_document_counts_as_nothing_whatever_it_holds() -> None:
    x, reset = torch.ones(1, 4, 5), torch.tensor([[False, False, True, False]])
    x[0, 1], tail = torch.nan, torch.full((1, 5, 1), torch.inf)
    y = causal_convolution(x, torch.ones(5, 2), tail, reset)
    assert y[0, :, 0].isfinite().tolist() == [False, False, True, True]
    assert torch.equal(y[0, 2:, 0], torch.tensor([1.0, 2.0]))


def test_pieces_are_as_the_whole() -> None:
    x, weight = some(2, 90, 40), some(40, 4, seed=1)
    whole = causal_convolution(x, weight, None, None)
    rest = causal_convolution(x[:, 70:], weight, x[:, 67:70].transpose(1, 2), None)
    assert torch.equal(rest, whole[:, 70:])


def test_strided_inputs_and_gradients() -> None:
    x, up = (some(7, 10, 9, seed=n).transpose(0, 2)[1:, :, ::2] for n in range(2))  # [8, 10, 4]
    reset = torch.zeros(10, 16, dtype=torch.bool)
    reset[4, ::4] = True
    assert_exact(x, some(3, 8, seed=2).T[::2], some(8, 2, 4, seed=3).mT, reset.T[::2], up)


def test_a_tail_of_another_dtype_has_its_gradient() -> None:
    x, weight = some(1, 3, 5).to(torch.bfloat16), some(5, 2, seed=1)
    tail = some(1, 5, 1, seed=2).requires_grad_()
    y = causal_convolution(x, weight, tail, None)
    (found,) = torch.autograd.grad(y.sum(), tail)
    assert y.dtype == torch.bfloat16 and found.dtype == torch.float32
    torch.testing.assert_close(found[0], weight[:, 1:], rtol=4e-3, atol=0)


def test_large_results_are_streamed_and_the_number_of_threads_changes_nothing() -> None:
    threads = torch.get_num_threads()
    x, weight, up = some(3, 3000, 320), some(320, 3, seed=1), some(3, 3000, 320, seed=2)
    reset = torch.zeros(3, 3000, dtype=torch.bool)
    reset[:, 100] = True
    inputs = up, x, weight, some(3, 320, 2, seed=3), reset
    try:
        torch.set_num_threads(1)
        one = values_and_gradients(causal_convolution, *inputs)
        torch.set_num_threads(2)
        two = values_and_gradients(causal_convolution, *inputs)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, second) for first, second in zip(one, two, strict=True))
    plain = values_and_gradients(import_module("sioconv.ops.eager.convolution").causal_convolution, *inputs)
    for found, expected in zip(one, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3), (2, 4, 0)])
def test_nothing_gives_nothing(shape: tuple[int, int, int]) -> None:
    x, weight = torch.zeros(shape, requires_grad=True), torch.ones(shape[2], 3, requires_grad=True)
    y = causal_convolution(x, weight, None, torch.zeros(shape[:2], dtype=torch.bool))
    assert y.shape == shape
    assert [each.abs().sum() for each in torch.autograd.grad(y.sum(), (x, weight))] == [0, 0]


def test_small_and_half_inputs_are_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(import_module("sioconv.ops.convolution"), "_forward", never)
    x, weight = some(2, 5, 3), some(3, 2, seed=1)
    half = causal_convolution(x.half(), weight.half(), None, None)
    torch.testing.assert_close(half.float(), by_a_loop(x, weight, None, None), rtol=1e-2, atol=1e-2)
    mixed = causal_convolution(x.double(), weight, None, None)  # a kernel in float64 would read float32 as its bits
    torch.testing.assert_close(mixed, by_a_loop(x.double(), weight.double(), None, None))
    monkeypatch.setattr(import_module("sioconv.ops.convolution"), "SMALLEST", 31)
    torch.testing.assert_close(causal_convolution(x, weight, None, None), by_a_loop(x, weight, None, None))


@pytest.mark.parametrize(
    ("weight", "tail", "reset"),
    [
        ((4, 2), (2, 3, 1), (2, 5)),
        ((3, 2), (2, 3, 2), (2, 5)),
        ((3, 2), (1, 3, 1), (2, 5)),
        ((3, 2), (2, 3, 1), (2, 4)),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    weight: tuple[int, ...], tail: tuple[int, ...], reset: tuple[int, ...]
) -> None:
    """The kernel would read beyond them."""
    with pytest.raises(RuntimeError, match=r"causal_convolution: x .* don't fit"):
        causal_convolution(some(2, 5, 3), some(*weight), some(*tail), torch.zeros(reset, dtype=torch.bool))


def test_the_second_derivative_is_torch_s() -> None:
    x, weight, tail = (some(*shape).double().requires_grad_() for shape in ((2, 5, 4), (4, 3), (2, 4, 2)))
    reset = torch.zeros(2, 5, dtype=torch.bool)
    reset[1, 3] = True
    found = []
    for function in (causal_convolution, by_a_loop):
        y = function(x, weight, tail, reset).square().sum()
        slopes = torch.autograd.grad(y, (x, weight, tail), create_graph=True)
        found.append(torch.autograd.grad(sum(slope.square().sum() for slope in slopes), (x, weight, tail)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("reset", [None, torch.tensor([[True, False, True, False, False]]).expand(2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operators_keep_torch_s_rules(reset: Tensor | None, dtype: torch.dtype) -> None:
    x, tail = (some(*shape).to(dtype).requires_grad_() for shape in ((2, 5, 33), (2, 33, 2)))
    weight = some(33, 3).requires_grad_()
    torch.library.opcheck(torch.ops.sioconv.convolution.default, (x, weight, tail, reset))
