"""The layer alone: what it computes, and that cutting, packing and padding a sequence change nothing."""

import math
import pickle
from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from transformers.trainer_pt_utils import nested_detach

from sioconv.model import Architecture, LayerState, SioConvForCausalLM, SioConvLayer

LENGTH = 9


@pytest.fixture
def layer(model: SioConvForCausalLM) -> SioConvLayer:
    mixer: SioConvLayer = model.model.layers[0].mixer
    return mixer


@pytest.fixture
def x() -> Tensor:
    """[2, 9, 12] float64."""
    return torch.randn(2, LENGTH, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def alone(layer: SioConvLayer, x: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
    """One document [T, D] from the initial state or from `state`: y [T, D] and the state."""
    y, state = layer(x.unsqueeze(0), state)
    assert state is not None
    return y[0], state


def row(state: LayerState, i: int) -> LayerState:
    return LayerState(*(None if tensor is None else tensor[i : i + 1] for tensor in state))


def assert_same_state(state: LayerState, expected: LayerState) -> None:
    for tensor, other in zip(state, expected, strict=True):
        torch.testing.assert_close(tensor, other)


def loop(layer: SioConvLayer, x: Tensor) -> Tensor:
    """The layer's definition, written down step by step for one document [T, D]."""
    config, c, outputs, z_before, z_gates = layer.config, layer.initial_state, [], [], []
    last_z = torch.zeros_like(c)
    heads, weights = config.num_heads, layer.conv_weight

    def convolve(inputs: list[Tensor]) -> Tensor:
        return sum(weights[:, k] * inputs[-1 - k] for k in range(min(config.conv_width, len(inputs))))

    for t in range(x.shape[0]):
        xt, x_gate = x[t], x[t]
        if weights is not None and config.conv_on in ("mixer", "recurrence"):
            xt = convolve(list(x[: t + 1]))
            x_gate = xt if config.conv_on == "mixer" else x_gate
        dt = layer.dt_proj(xt)
        if config.gate_bound is None:
            rate = layer.A_log.exp() * F.softplus(dt)  # one per head, or per channel
        else:
            rate = config.gate_bound * F.softplus(layer.A_log) * dt.sigmoid()
        log_a = -rate.view(heads, -1)  # [H, 1] or [H, P]
        z_gates.append(layer.z_gate_proj(xt))
        z_gate = convolve(z_gates) if config.conv_on == "z_gate" else z_gates[-1]
        z_before.append(layer.z_proj(xt) * F.silu(z_gate))
        z = (convolve(z_before) if config.conv_on == "z" else z_before[-1]).view(heads, -1)
        if config.input_scale == "variance":
            z = z * (1 - torch.exp(2 * log_a)).sqrt()
        elif config.input_scale == "mean":
            z = z * (1 - torch.exp(log_a))
        if config.trapezoid:
            share = layer.mix_proj(xt).sigmoid().view(heads, 1)
            last_z, z = z, share * z + (1 - share) * torch.exp(log_a) * last_z
        c = torch.exp(log_a) * c + z
        gate = F.silu(layer.y_gate_proj(x_gate)).view(heads, -1)
        seen = (c * gate if config.output_gate == "state" else c).view(config.norm_groups or heads, -1)
        mean, variance = seen.mean(-1, keepdim=True), seen.var(-1, unbiased=False, keepdim=True)
        norm = (seen - mean) / (variance + config.state_norm_eps).sqrt()
        norm = norm * layer.state_norm.weight[:, None] + layer.state_norm.bias[:, None]
        norm = norm.view(heads, -1) * gate if config.output_gate == "normed" else norm
        y = layer.y_proj(norm.flatten())
        outputs.append(y * gate.flatten() if config.output_gate == "projected" else y)
    return torch.stack(outputs)


def test_it_computes_its_definition(layer: SioConvLayer, x: Tensor) -> None:
    y, _ = layer(x)
    torch.testing.assert_close(y, torch.stack([loop(layer, document) for document in x]))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_pieces_equal_the_whole(layer: SioConvLayer, x: Tensor, size: int, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        whole, last = layer(x)
        pieces, state = [], None
        for piece in x.split(size, dim=1):
            y, state = layer(piece, state)
            pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    assert_same_state(state, last)


def test_a_piece_may_be_empty(layer: SioConvLayer, x: Tensor) -> None:
    _, state = layer(x)
    y, after = layer(x[:, :0], state)
    assert y.shape == (2, 0, 12)
    assert_same_state(after, state)


def test_the_state_is_made_only_when_it_is_wanted(layer: SioConvLayer, x: Tensor) -> None:
    with torch.no_grad():
        for piece in (x, x[:, :1]):
            assert layer(piece, output_state=False)[1] is None


@pytest.mark.parametrize("grad", [True, False])
def test_a_reset_starts_a_new_document(layer: SioConvLayer, x: Tensor, grad: bool) -> None:
    """Also in the piece after it, where the convolution's tail must hold nothing from before the reset."""
    reset = torch.zeros(2, LENGTH, dtype=torch.bool)
    reset[0, [2, 3, 7]] = True
    with torch.set_grad_enabled(grad):
        for end in range(8, LENGTH):
            y, state = layer(x[:, :end], reset=reset[:, :end])
            rest, _ = layer(x[:, end:], state, reset=reset[:, end:])
            y = torch.cat([y, rest], dim=1)
            expected = [alone(layer, document)[0] for document in x[0].split([2, 1, 4, 2])]
            torch.testing.assert_close(y[0], torch.cat(expected))
            torch.testing.assert_close(y[1], alone(layer, x[1])[0])


def test_a_reset_at_one_step_of_decoding(layer: SioConvLayer, x: Tensor) -> None:
    with torch.no_grad():
        _, state = layer(x[:, :-1])
        y, _ = layer(x[:, -1:], state, reset=torch.tensor([[True], [False]]))
        torch.testing.assert_close(y[0], alone(layer, x[0, -1:])[0])
        torch.testing.assert_close(y[1], layer(x)[0][1, -1:])


MASKS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1]],
    "right": [[1, 1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0]],
    "both": [[0, 1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 1]],
    "inside": [[1, 1, 0, 0, 1, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0, 1, 1, 1]],
    "nothing but padding": [[0, 0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]],
}


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("name", MASKS)
def test_padding_changes_nothing(layer: SioConvLayer, x: Tensor, name: str, warm: bool) -> None:
    """Neither what the layer makes of other steps nor the state that it carries on, convolution's tail included."""
    mask = torch.tensor(MASKS[name], dtype=torch.bool)
    _, state = layer(x.flip(1))
    state = state if warm else None
    y, after = layer(torch.where(mask.unsqueeze(-1), x, 1e3), state, mask=mask)
    for i, real in enumerate(mask):
        if real.any():
            expected, last = alone(layer, x[i, real], None if state is None else row(state, i))
            torch.testing.assert_close(y[i, real], expected)
            assert_same_state(row(after, i), last)
        elif state is not None:
            assert_same_state(row(after, i), row(state, i))


@pytest.mark.parametrize("name", MASKS)
def test_padding_that_is_not_finite_reaches_nothing(layer: SioConvLayer, x: Tensor, name: str) -> None:
    """Neither forward nor backward: weights get no 0 * NaN."""
    mask = torch.tensor(MASKS[name], dtype=torch.bool)
    found = []
    for padding in (0.0, torch.nan):
        layer.zero_grad()
        y, state = layer(torch.where(mask.unsqueeze(-1), x, padding), mask=mask)
        assert state is not None
        (y[mask].square().sum() + state.c.square().sum()).backward()
        found.append([y[mask].detach(), state.c.detach(), *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_document_that_is_not_finite_leaves_the_others(layer: SioConvLayer, x: Tensor) -> None:
    """In its own row behind a reset, and in the other row."""
    reset = torch.zeros(2, LENGTH, dtype=torch.bool)
    reset[0, 4] = True
    there = torch.ones(2, LENGTH, dtype=torch.bool)
    there[0, :4] = False
    found = []
    for value in (0.0, torch.nan):
        leaf = torch.where(there.unsqueeze(-1), x, value).requires_grad_()
        y, state = layer(leaf, reset=reset)
        assert state is not None
        (grad_output,) = torch.autograd.grad(y.square().sum() + state.c.sum(), leaf)
        assert y[~there].isnan().all() == math.isnan(value)
        found.append([y[there].detach(), *(each.detach() for each in state if each is not None), grad_output[there]])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_reset_at_padding_is_none(layer: SioConvLayer, x: Tensor) -> None:
    """transformers gives position 0 to padding, which would otherwise begin a document behind a text."""
    mask = torch.tensor(MASKS["right"], dtype=torch.bool)
    _, state = layer(x, mask=mask, reset=~mask)
    _, expected = layer(x, mask=mask)
    assert_same_state(state, expected)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_finite_and_reach_every_parameter(layer: SioConvLayer, x: Tensor, masked: bool) -> None:
    """The grad_output of sqrt(1 - a^2) is infinite at padding, where log a is set to 0."""
    mask = torch.tensor(MASKS["both"], dtype=torch.bool) if masked else None
    y, _ = layer(x.requires_grad_(), mask=mask)
    (y[mask] if masked else y).square().sum().backward()
    for name, parameter in [*layer.named_parameters(), ("x", x)]:
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    if masked:
        assert not x.grad[~mask].any()


@pytest.mark.parametrize("masked", [False, True])
def test_every_derivative_of_a_layer(layer: SioConvLayer, x: Tensor, masked: bool) -> None:
    """Forward mode, second derivatives and per-sample gradients, of what a user of the layer calls."""
    mask = torch.tensor(MASKS["both"], dtype=torch.bool)[:, :4] if masked else None
    x = x[:, :4].clone().requires_grad_()

    def call(x: Tensor) -> Tensor:
        y: Tensor = layer(x, mask=mask)[0]
        return y if mask is None else y.masked_fill(~mask.unsqueeze(-1), 0)

    options = {"fast_mode": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(call, x, check_forward_ad=True, **options)
    assert torch.autograd.gradgradcheck(call, x, check_fwd_over_rev=True, **options)
    parameters = {name: value.detach() for name, value in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = functional_call(layer, parameters, (x.unsqueeze(0),))[0]
        return y.square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, x.detach())
    for i in range(2):
        expected = torch.autograd.grad(layer(x[i : i + 1])[0].square().sum(), list(layer.parameters()))
        for one, other in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(one[i], other)


def test_forget_gates_are_at_most_one(layer: SioConvLayer, x: Tensor) -> None:
    config = layer.config
    log_a = layer.log_forget_gate(x * 100)
    assert (log_a <= 0).all()
    assert log_a.shape == ((2, LENGTH, 3) if config.gate == "head" else (2, LENGTH, 3, config.head_dim))


def test_gates_stay_fp32_under_autocast(layer: SioConvLayer, x: Tensor) -> None:
    layer, x = layer.float().requires_grad_(False), x.float()
    expected, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        log_a = layer.log_forget_gate(x)
        y, state = layer(x)
    assert log_a.dtype == state.c.dtype == torch.float32
    torch.testing.assert_close(log_a, layer.log_forget_gate(x), rtol=0, atol=0)
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


def test_a_wrong_size_is_named() -> None:
    with pytest.raises(ValueError, match="num_heads: 5"):
        SioConvLayer(Architecture(hidden_size=12, num_heads=5))


def test_a_state_is_built_from_one_iterable(layer: SioConvLayer, x: Tensor) -> None:
    """As transformers' Trainer builds tuples and lists: `type(state)(f(tensor) for tensor in state)`."""
    _, state = layer(x)
    for again in (LayerState(tensor for tensor in state), LayerState(list(state)), LayerState(*state)):
        assert type(again) is LayerState and again.c is state.c and again.conv is state.conv
    assert LayerState(state.c).conv is None
    with pytest.raises(TypeError):
        LayerState([state.c])
    nested = nested_detach((state, [state]))  # type: ignore[no-untyped-call]
    assert torch.equal(nested[0].c, state.c) and type(nested[1][0]) is LayerState
    loaded = pickle.loads(pickle.dumps(LayerState(state.c.detach())))
    assert type(loaded) is LayerState and torch.equal(loaded.c, state.c)


def test_a_state_is_copied_outside_no_grad(layer: SioConvLayer, x: Tensor) -> None:
    _, state = layer(x)
    copied = deepcopy(state)
    assert type(copied) is LayerState and torch.equal(copied.c, state.c) and copied.c is not state.c


def test_shapes_on_the_meta_device(model: SioConvForCausalLM, x: Tensor) -> None:
    """Forward and backward, whole sequences and single steps, without computing."""
    with torch.device("meta"):
        layer = SioConvLayer(model.config)
        y, state = layer(torch.randn(*x.shape), mask=torch.ones(x.shape[:2], dtype=torch.bool))
        y, state = layer(torch.randn(*x.shape), state, reset=torch.zeros(x.shape[:2], dtype=torch.bool))
        y.sum().backward()
        with torch.no_grad():
            step, state = layer(torch.randn(x.shape[0], 1, x.shape[2]), state)
    assert y.shape == x.shape and y.is_meta and step.shape == (x.shape[0], 1, x.shape[2])
    assert state.c.is_meta and state.c.shape == (x.shape[0], layer.config.num_heads, layer.config.head_dim)
    assert all(parameter.grad is not None for parameter in layer.parameters())
