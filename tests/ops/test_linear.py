"""`linear` by oneDNN against torch's in float64: values, first and second derivatives, and where it is torch's."""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sioconv.model.architecture import Architecture
from sioconv.model.layers import SioConvLayer
from sioconv.ops import fast_products, linear
from sioconv.ops.linear import fast_products_on

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
ROWS = [(512,), (4, 256), (3, 4, 64), (1, 1280), (1, 1000), (3, 171), (2, 3, 1500)]


@pytest.fixture(autouse=True, scope="module")
def by_onednn() -> Iterator[None]:
    """Whatever the processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("sioconv.ops.linear"), "_FASTER", True)
        yield


def inputs(rows: tuple[int, ...], width: int, wide: int, bias: bool) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(width)
    shapes = [(*rows, width), (wide, width), *([(wide,)] if bias else [])]
    return tuple(torch.randn(shape, generator=random).requires_grad_() for shape in shapes)


def called(function: Callable[[], object]) -> dict[str, int]:
    """The operators of ours that a call runs, and how often."""
    with torch.profiler.profile() as recorded:
        function()
    return {event.key: event.count for event in recorded.key_averages() if event.key.startswith("sioconv::")}


def relative_error(found: Tensor, exact: Tensor, terms: Tensor | None = None) -> float:
    """Of a sum, relative to the sum of its terms' absolute values."""
    return float((found.double() - exact).norm() / (exact if terms is None else terms).norm())


def values_and_slopes(inputs: list[Tensor], up: Tensor) -> list[Tensor]:
    """torch's, in float64."""
    inputs = [each.requires_grad_() for each in inputs]
    y = F.linear(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, up)]


def magnitudes(inputs: list[Tensor], up: Tensor) -> tuple[list[Tensor], Tensor]:
    return [each.detach().abs() for each in inputs], up.double().abs()


@settings(max_examples=50)
@given(st.sampled_from(ROWS), st.integers(1, 70), st.integers(1, 70), st.booleans(), st.booleans())
def test_it_is_torch_s(rows: tuple[int, ...], width: int, wide: int, bias: bool, turned: bool) -> None:
    x, *others = inputs(rows, width, wide, bias)
    if turned:
        x = x.detach().transpose(0, -2).contiguous().transpose(0, -2).requires_grad_()
    up = torch.randn(*rows, wide)
    found = linear(x, *others)
    results = [found.detach(), *torch.autograd.grad(found, (x, *others), up)]
    wide_inputs = [each.detach().double() for each in (x, *others)]
    exact, terms = values_and_slopes(wide_inputs, up.double()), values_and_slopes(*magnitudes(wide_inputs, up))
    for result, other, term in zip(results, exact, terms, strict=True):
        assert result.shape == other.shape
        assert result.is_contiguous()
        assert relative_error(result, other, term) < 1e-6


def test_second_derivatives() -> None:
    one = inputs((2, 256), 5, 7, bias=False)
    two = tuple(each.detach().double().requires_grad_() for each in one)
    found = []
    for x, weight in (one, two):
        slopes = torch.autograd.grad(linear(x, weight).square().sum(), (x, weight), create_graph=True)
        found.append(torch.autograd.grad(sum(slope.square().sum() for slope in slopes), (x, weight)))
    for slope, exact in zip(*found, strict=True):
        assert relative_error(slope, exact) < 1e-5


def squares(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A function of all numbers of a product, whose second derivatives aren't zero."""
    return linear(x, weight, bias).tanh().square().sum()


def test_derivatives_in_every_mode_are_those_in_float64() -> None:
    """Forward mode, batches of gradients, and each over the other: none is lost behind the kernels."""
    given = tuple(each.detach() for each in inputs((512,), 3, 2, bias=True))
    exact, which = tuple(each.double() for each in given), (1, 2)

    def curvature(*each: Tensor) -> Any:  # forward over reverse, and reverse over forward
        return [jacfwd(grad(squares, 1), 1)(*each), jacrev(jacfwd(squares, 1), 1)(*each)]

    modes: list[Callable[..., Any]] = [
        lambda *each: jvp(squares, each, each)[1],
        jacfwd(squares, which),
        jacrev(squares, which),
        lambda *each: vmap(grad(squares, which), (0, None, None))(torch.stack([each[0], 2 * each[0]]), *each[1:]),
        curvature,
    ]
    for mode in modes:
        for found, expected in zip(tree_leaves(mode(*given)), tree_leaves(mode(*exact)), strict=True):
            assert expected.abs().max() > 0.01
            torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_a_tangent_or_a_batch_that_comes_with_the_gradient_alone_is_not_lost() -> None:
    """The forward pass was by kernels, and only the backward pass is transformed."""
    x, weight, bias = inputs((2, 300), 8, 6, bias=True)
    y = linear(x, weight, bias)
    ups = torch.randn(2, *y.shape)
    expected = [torch.autograd.grad(y, (x, weight, bias), up, retain_graph=True) for up in ups]
    batched = torch.autograd.grad(y, (x, weight, bias), ups, retain_graph=True, is_grads_batched=True)
    for n, slopes in enumerate(expected):
        for found, slope in zip(batched, slopes, strict=True):
            torch.testing.assert_close(found[n], slope, atol=1e-4, rtol=1e-4)
    with forward_ad.dual_level():
        found = torch.autograd.grad(y, (x, weight, bias), forward_ad.make_dual(*ups), retain_graph=True)
        tangents = [forward_ad.unpack_dual(each).tangent for each in found]
    for tangent, slope in zip(tangents, expected[1], strict=True):
        assert tangent is not None
        torch.testing.assert_close(tangent, slope, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dual", [False, True])
def test_derivatives_through_a_layer(dual: bool) -> None:
    """Of 512 steps, so that its products take the kernels, along one direction of its input and of all weights."""
    torch.manual_seed(0)
    layer = SioConvLayer(Architecture(hidden_size=8, num_heads=2, gate="head", z_gain=1.0, y_gain=1.0))
    weights = {name: value.detach() for name, value in layer.named_parameters()}
    x = torch.randn(1, 512, 8)
    directions = {name: torch.randn_like(value) for name, value in weights.items()}, torch.randn_like(x)

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, weights, (x,))[0]
        return y.square().mean()

    def tangent(weights: dict[str, Tensor], x: Tensor, along: tuple[dict[str, Tensor], Tensor]) -> Tensor:
        if not dual:
            return jvp(loss, (weights, x), along)[1]
        with forward_ad.dual_level():
            pairs = {name: forward_ad.make_dual(value, along[0][name]) for name, value in weights.items()}
            found = forward_ad.unpack_dual(loss(pairs, forward_ad.make_dual(x, along[1]))).tangent
        assert found is not None
        return found

    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}, x.clone().requires_grad_()
    slopes = torch.autograd.grad(loss(*leaves), [*leaves[0].values(), leaves[1]])
    expected = sum(
        (slope * way).sum() for slope, way in zip(slopes, [*directions[0].values(), directions[1]], strict=True)
    )
    wide = {name: value.double() for name, value in weights.items()}
    along = {name: value.double() for name, value in directions[0].items()}, directions[1].double()
    exact = tangent(wide, x.double(), along)
    assert exact.abs() > 0.01
    torch.testing.assert_close(tangent(weights, x, directions).double(), exact, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(torch.as_tensor(expected).double(), exact, atol=1e-4, rtol=1e-3)


def test_only_what_is_wanted_is_computed() -> None:
    x, weight, bias = inputs((512,), 5, 7, bias=True)
    products = {"sioconv::linear": 2, "sioconv::linear_weight_gradient": 1}
    assert called(lambda: linear(x, weight, bias).sum().backward()) == products
    assert called(lambda: linear(x, weight.detach(), bias).sum().backward()) == {"sioconv::linear": 2}
    del products["sioconv::linear"]
    assert called(lambda: linear(x.detach(), weight).sum().backward()) == {"sioconv::linear": 1, **products}


def test_many_rows_of_fp32_take_it_and_nothing_else() -> None:
    x, weight, bias = inputs((2, 300), 8, 6, bias=True)
    assert called(lambda: linear(x, weight, bias)) == {"sioconv::linear": 1}
    with torch.no_grad():
        assert called(lambda: linear(x, weight)) == {"sioconv::linear": 1}
    with torch.autocast("cpu", torch.bfloat16):
        assert called(lambda: linear(x, weight)) == {}
        assert linear(x, weight).dtype == torch.bfloat16
    assert called(lambda: linear(x[:, :255], weight)) == {}
    assert called(lambda: linear(x[:0], weight)) == {}
    assert called(lambda: linear(x[0, 0], weight)) == {}
    assert called(lambda: linear(x.double(), weight.double())) == {}
    assert linear(x.to("meta"), weight.to("meta")).is_meta


def test_the_operators_keep_torch_s_rules() -> None:
    x, weight, bias = inputs((2, 300), 8, 6, bias=True)
    torch.library.opcheck(torch.ops.sioconv.linear.default, (x, weight, bias))
    torch.library.opcheck(torch.ops.sioconv.linear_weight_gradient.default, (linear(x, weight).detach(), x.detach()))


def test_torch_s_own_modules_take_it_inside() -> None:
    """Whatever class of module calls `torch.nn.functional.linear`."""
    x, layer = torch.randn(2, 300, 8), nn.Linear(8, 6)
    assert called(lambda: layer(x)) == {}
    with fast_products(x):
        assert called(lambda: layer(x).sum().backward()) == {"sioconv::linear": 1, "sioconv::linear_weight_gradient": 1}
        assert called(lambda: layer(x[:, :200])) == {}
        found = layer(x)
    torch.testing.assert_close(found, layer(x))
    for other in (x[:1], x.double(), x.to("meta")):
        with fast_products(other):
            assert called(lambda: layer(x)) == {}  # nothing was entered
    with torch.autocast("cpu", torch.bfloat16), fast_products(x):
        assert called(lambda: layer(x)) == {}
    with fast_products_on(x.device, torch.bfloat16):
        assert called(lambda: layer(x)) == {}
    with fast_products_on(x.device, torch.float32):
        assert called(lambda: layer(x)) == {"sioconv::linear": 1}


def test_tensors_that_stand_for_others_take_torch_s() -> None:
    class Other(Tensor):
        pass

    x, weight = torch.randn(600, 8), torch.randn(6, 8)
    expected = x @ weight.T
    found = []

    def products() -> None:
        found.append(linear(x, weight.as_subclass(Other)).as_subclass(Tensor))
        found.append(torch.func.vmap(lambda row: linear(row, weight))(x.expand(2, -1, -1))[0])
        found.append(torch.func.jvp(lambda each: linear(x, each), (weight,), (weight,))[1])
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(weight, weight)
            found.append(torch.autograd.forward_ad.unpack_dual(linear(x, dual)).tangent)

    assert called(products) == {}
    assert called(lambda: linear(x, weight)) == {"sioconv::linear": 1}
    for each in found:
        torch.testing.assert_close(each, expected)


@pytest.mark.parametrize("frozen", [False, True])
def test_its_operations_are_counted_as_torch_s(frozen: bool) -> None:
    counts = []
    for rows in (511, 512):
        x, weight, bias = inputs((rows,), 8, 6, bias=True)
        with FlopCounterMode(display=False) as counter:
            linear(x, weight.detach() if frozen else weight, bias).sum().backward()
        counts.append(counter.get_total_flops() / rows)
    assert counts == [2 * 8 * 6 * (2 if frozen else 3)] * 2
