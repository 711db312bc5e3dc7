"""The vectors of the CPU kernels: what they read, write and compute, against numpy."""

from typing import Any

import numba
import numpy as np
import pytest
import torch

from sioconv.ops import scan
from sioconv.ops.cpu.vectors import (
    decays,
    first_lanes,
    four_sums,
    lane_sum,
    load,
    load_like,
    prefetch,
    select,
    store,
    stream,
    tree_sum,
    zeros,
)

Array = np.ndarray[Any, Any]


@numba.njit
def _decays(log_a: Array, a: Array, a_minus_1: Array, registers: Any, width: int) -> None:
    for i in range(0, log_a.size, width):
        decay, decrement = decays(load(log_a, i, None, registers))
        store(a, i, None, decay)
        store(a_minus_1, i, None, decrement)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decays_are_exact_to_about_one_rounding(dtype: Any) -> None:
    log_a = np.concatenate([-np.logspace(-12, 2.8, 200_000), np.logspace(-9, 1.9, 10_000)]).astype(dtype)
    log_a = log_a[: log_a.size // 16 * 16]
    a, a_minus_1 = np.empty_like(log_a), np.empty_like(log_a)
    _decays(log_a, a, a_minus_1, (0,), 64 // log_a.itemsize)
    exact, limits = log_a.astype(np.longdouble), np.finfo(dtype)
    normal = np.exp(exact) > limits.tiny
    assert np.max(np.abs(a - np.exp(exact))[normal] / np.exp(exact)[normal]) < limits.eps
    assert np.max(np.abs(a_minus_1 - np.expm1(exact)) / np.abs(np.expm1(exact))) < 1.5 * limits.eps
    assert (a[np.exp(exact) < limits.tiny / 2] == 0).all()  # no denormal numbers


def test_decays_of_what_is_no_usual_number() -> None:
    log_a = np.array([0.0, -0.0, -1e4, -np.inf, np.nan, *[-1.0] * 11], np.float32)
    a, a_minus_1 = np.empty_like(log_a), np.empty_like(log_a)
    _decays(log_a, a, a_minus_1, (0,), 16)
    assert a[:4].tolist() == [1, 1, 0, 0]
    assert a_minus_1[:4].tolist() == [0, 0, -1, -1]
    assert np.isnan(a[4])
    assert np.isnan(a_minus_1[4])


@numba.njit
def _copy_some(source: Array, to: Array, count: int, registers: Any) -> Any:
    like = zeros(source, registers)
    mask = first_lanes(True, count, like)
    vector = load(source, 0, mask, registers)
    store(to, 0, mask, vector)
    return lane_sum(vector), lane_sum(select(mask, like + 1.0, like))


@pytest.mark.parametrize("registers", [(0,), (0,) * 2, (0,) * 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_a_mask_keeps_reading_and_writing_inside(count: int, dtype: torch.dtype, registers: tuple[int, ...]) -> None:
    numbers = torch.arange(1, count + 1).to(dtype)  # shorter than a vector
    to = torch.full((100,), 7.0, dtype=dtype)
    arrays = [(values.view(torch.uint16) if dtype == torch.bfloat16 else values).numpy() for values in (numbers, to)]
    total, ones = _copy_some(*arrays, count, registers)
    assert to.tolist() == [*range(1, count + 1), *[7.0] * (100 - count)]
    assert (total, ones) == (count * (count + 1) / 2, count)


@numba.njit
def _stream_all(source: Array, to: Array, registers: Any) -> None:
    stream(to, 0, load(source, 0, None, registers))


def test_streaming_writes_what_storing_writes() -> None:
    source, to = torch.randn(64), torch.zeros(64)
    assert to.data_ptr() % 64 == 0
    _stream_all(source.numpy(), to.numpy(), (0,) * 4)
    torch.testing.assert_close(to, source, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_results_written_past_the_caches_are_the_same(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = torch.randn(3, 40, 2, 64).to(dtype).requires_grad_()
    log_a = (-torch.rand(3, 40, 2)).requires_grad_()

    def run() -> list[torch.Tensor]:
        c, _ = scan(z, log_a, backend="cpu")
        return [c.detach(), *torch.autograd.grad(c.float().square().sum(), (z, log_a))]

    stored = run()
    monkeypatch.setattr("sioconv.ops.cpu.scan.STREAM_BYTES", 0)
    torch.testing.assert_close(run(), stored, rtol=0, atol=0)


@numba.njit
def _sums(numbers: Array, sums: Array, together: Array, registers: Any, width: int) -> None:
    rows = tuple_of_rows(numbers, registers, width)
    sums[0], sums[1], sums[2], sums[3] = tree_sum(rows[0]), tree_sum(rows[1]), tree_sum(rows[2]), tree_sum(rows[3])
    store(together, 0, None, four_sums(rows[0], rows[1], rows[2], rows[3]))


@numba.njit
def tuple_of_rows(numbers: Array, registers: Any, width: int) -> Any:
    return (
        load(numbers, 0, None, registers), load(numbers, width, None, registers),
        load(numbers, 2 * width, None, registers), load(numbers, 3 * width, None, registers),
    )  # fmt: skip


@pytest.mark.parametrize("registers", [(0,), (0,) * 2])
def test_four_sums_are_the_same_bits_as_one_by_one(registers: tuple[int, ...]) -> None:
    width = 16 * len(registers)
    for seed in range(20):
        random = np.random.default_rng(seed)
        numbers = (random.standard_normal(4 * width) * 10.0 ** random.integers(-4, 5, 4 * width)).astype(np.float32)
        sums, together = np.empty(4, np.float32), np.empty(4, np.float32)
        _sums(numbers, sums, together, registers, width)
        assert sums.tobytes() == together.tobytes()
        np.testing.assert_allclose(sums, numbers.reshape(4, width).astype(np.float64).sum(1), rtol=1e-3)


@numba.njit
def _few(numbers: Array, to: Array, count: int, like: Array, registers: Any) -> None:
    nothing = zeros(like, registers)
    four = four_sums(nothing, nothing, nothing, nothing)
    mask = first_lanes(True, count, four)
    prefetch(numbers, -(2**40))
    prefetch(numbers, 2**40)
    store(to, 0, mask, load_like(numbers, 0, mask, four))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_four_lanes_read_and_write_no_more_than_there_is(count: int, dtype: torch.dtype) -> None:
    numbers = torch.arange(1, min(count, 4) + 1).to(dtype)
    source = numbers.view(torch.uint16).numpy() if dtype == torch.bfloat16 else numbers.numpy()
    to = np.full(6, 7.0, np.float32)
    _few(source, to, count, np.empty(1, np.float32), (0,))
    assert to.tolist() == [*numbers.tolist(), *[7.0] * (6 - len(numbers))]
