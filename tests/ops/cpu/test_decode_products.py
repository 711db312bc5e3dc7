"""Products with codes, against numpy in float64: what was prepared of x is exact, and so is the sum."""

from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sioconv.model.quantised import GROUP, pack
from sioconv.ops.cpu.decode_products import project
from sioconv.ops.cpu.integers.inputs import Inputs
from tests.ops.cpu.integers.test_inputs import codes_of, prepared

Array = np.ndarray[Any, Any]


@numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def _project(
    line: Array, like: Array, bits: Array, first: int, last: int, k: int, size: int, x: Any, rows: int, y: Array
) -> None:
    project(line, 0, like, bits, first, last, k, size, x, rows, y, True)


class Product:
    """A matrix of random codes and scales with a bias, as it lies in memory.

    Args:
        codes: int8 [M, K].
        bits: 8 or 4.
        bias: whether there is one.
    """

    def __init__(self, codes: Array, bits: int, bias: bool, random: np.random.Generator) -> None:
        (self.size, self.k), self.bits = codes.shape, bits
        numbers = torch.from_numpy(codes)
        groups = 1 if bits == 8 else self.k // GROUP
        scales = torch.from_numpy(random.uniform(0.5, 2, (self.size, groups))).bfloat16()
        self.bias = random.standard_normal(self.size).astype(np.float32) if bias else None
        self.exact = codes.astype(np.float64) * scales.double().repeat_interleave(self.k // groups, 1).numpy()
        self._kept = (numbers if bits == 8 else pack(numbers)).numpy(), scales.view(torch.int16).numpy()
        places = [array.ctypes.data for array in self._kept]
        bias_at = 0 if self.bias is None else self.bias.ctypes.data
        self._line = np.array([places[0], bias_at, *((places[1], 0) if bits == 8 else (0, places[1]))], np.int64)

    def times(self, inputs: Inputs, rows: int, first: int = 0, last: int | None = None) -> Array:
        """y [R, M]; what isn't asked for is NaN."""
        y = np.full(rows * self.size, np.nan, np.float32)
        like, last = self._kept[0].reshape(-1)[:1], self.size if last is None else last
        _project(self._line, like, np.empty(1, np.uint16), first, last, self.k, self.size, inputs, rows, y)
        return y.reshape(rows, self.size)


def expected(product: Product, inputs: Inputs, rows: int) -> tuple[Array, Array]:
    """Exact results with what was prepared of x, [R, M], and the sums of the products' sizes."""
    x = codes_of(inputs, rows, product.k, product.bits) * inputs.scales.astype(np.float64)[:, None]
    result = x @ product.exact.T
    return result if product.bias is None else result + product.bias, np.abs(x) @ np.abs(product.exact).T


@given(
    st.sampled_from([8, 4]), st.integers(1, 9), st.integers(1, 11), st.integers(1, 300), st.booleans(),
    st.integers(0, 2**31), st.data(),
)  # fmt: skip
@settings(max_examples=60)
def test_products_are_exact_and_the_same_bits_in_any_company(
    bits: int, rows: int, size: int, k: int, bias: bool, seed: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    k = k if bits == 8 else -(-k // GROUP) * GROUP
    codes = random.integers(-127, 128, (size, k)) if bits == 8 else random.integers(-8, 8, (size, k))
    product = Product(codes.astype(np.int8), bits, bias, random)
    x = random.standard_normal((rows, k)) ** 3
    inputs = prepared(x, bits)
    whole = product.times(inputs, rows)
    result, sizes = expected(product, inputs, rows)
    assert (np.abs(whole - result) <= 1e-6 * (sizes + np.abs(result)) + 1e-30).all()
    for row in range(rows):
        assert product.times(prepared(x[row : row + 1], bits), 1)[0].tobytes() == whole[row].tobytes()
    first = data.draw(st.integers(0, size - 1))
    last = data.draw(st.integers(first + 1, size))
    part = product.times(inputs, rows, first, last)
    assert part[:, first:last].tobytes() == whole[:, first:last].tobytes()
    assert np.isnan(part[:, :first]).all() and np.isnan(part[:, last:]).all()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("k", [8192, 8193, 16384, 65536])
def test_the_longest_sums_don_t_overflow(bits: int, k: int) -> None:
    random = np.random.default_rng(0)
    k = k if bits == 8 else -(-k // GROUP) * GROUP
    product = Product(np.full((5, k), -128 if bits == 8 else -8, np.int8), bits, False, random)
    for rows in (1, 4):
        inputs = prepared(np.full((rows, k), 3.0), bits)
        result, _ = expected(product, inputs, rows)
        np.testing.assert_allclose(product.times(inputs, rows), result, rtol=3e-6)
        np.testing.assert_allclose(result, 3 * product.exact.sum(1) * np.ones((rows, 1)), rtol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_no_number_stays_so_in_its_row_alone(bits: int) -> None:
    random = np.random.default_rng(0)
    product = Product(random.integers(-8, 8, (7, 96)).astype(np.int8), bits, True, random)
    x = random.standard_normal((6, 96))
    x[1, 5], x[4, 95], x[2] = np.nan, -np.inf, 0
    found = product.times(prepared(x, bits), 6)
    assert (~np.isfinite(found[[1, 4]])).all() and np.isfinite(found[[0, 2, 3, 5]]).all()
    assert found[2].tolist() == product.bias.tolist()
