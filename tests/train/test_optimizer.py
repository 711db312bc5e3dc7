"""Which weights decay, and the shape of the learning rate."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sioconv.model import SioConvForCausalLM
from sioconv.train.config import TrainConfig
from sioconv.train.optimizer import build_optimizers, learning_rate
from tests.train.small import make_baseline


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("width", [0, 3])
def test_exactly_the_weights_of_linear_layers_decay(
    make_model: Callable[..., SioConvForCausalLM], tied: bool, width: int
) -> None:
    model = make_model(tie_word_embeddings=tied, conv_width=width, bigram_rows=width)
    (optimizer,) = build_optimizers(model, TrainConfig(tokens=1, weight_decay=0.25))
    names = {parameter: name for name, parameter in model.named_parameters()}
    decays = {
        names[parameter]: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]
    }
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    matrices = {name for name, decay in decays.items() if decay}
    assert matrices == linear - ({"lm_head.weight"} if tied else set())
    assert {decays[name] for name in matrices} == {0.25}
    assert decays.keys() == set(names.values())  # every parameter is trained, once
    assert "model.embed_tokens.weight" not in matrices


def test_frozen_weights_are_left_out(make_model: Callable[..., SioConvForCausalLM]) -> None:
    model = make_model()
    model.lm_head.requires_grad_(False)
    (optimizer,) = build_optimizers(model, TrainConfig(tokens=1))
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_one_step_is_adamw_with_decoupled_decay() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    before = {name: value.clone() for name, value in layer.named_parameters()}
    config = TrainConfig(tokens=1, lr=0.1, weight_decay=0.5)
    (optimizer,) = build_optimizers(layer, config)
    (layer(torch.randn(4, 3, dtype=torch.float64)) ** 2).sum().backward()
    optimizer.step()
    for name, decay in (("weight", 0.5), ("bias", 0.0)):
        value = layer.get_parameter(name)
        assert value.grad is not None
        # In the first step both bias-corrected means are those of the gradient itself: it moves by lr · sign.
        wanted = before[name] * (1 - 0.1 * decay) - 0.1 * value.grad / (value.grad.abs() + 1e-8)
        torch.testing.assert_close(value.data, wanted.detach(), rtol=1e-9, atol=1e-9)


def test_rises_stays_and_falls() -> None:
    config = TrainConfig(tokens=1, lr=2.0, warmup=0.1, decay=0.3)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([2.0 * n / 10 for n in range(1, 11)])
    assert rates[9:71] == [2.0] * 62
    assert rates[70:] == pytest.approx([2.0 * n / 30 for n in range(30, 0, -1)])


def test_without_warmup_and_decay_it_is_constant() -> None:
    config = TrainConfig(tokens=1, lr=2.0, warmup=0.0, decay=0.0)
    assert {learning_rate(step, 50, config) for step in range(50)} == {2.0}


@given(
    steps=st.integers(1, 400),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: sum(pair) <= 1),
    lr=st.floats(1e-6, 1.0),
)
def test_stays_in_its_range_and_never_jumps(steps: int, shares: tuple[float, float], lr: float) -> None:
    config = TrainConfig(tokens=1, lr=lr, warmup=shares[0], decay=shares[1])
    config.check()
    rates = [learning_rate(step, steps, config) for step in range(steps)]
    assert all(0 < rate <= lr for rate in rates)
    # One step's slope: the whole height over the length of the ramp; ramps shorter than a step don't count.
    up, down = (1 / (share * steps) if share * steps >= 1 else 0.0 for share in shares)
    for first, second in pairwise(rates):
        assert -down * lr * (1 + 1e-9) - 1e-15 <= second - first <= up * lr * (1 + 1e-9) + 1e-15
    rising = [second > first for first, second in pairwise(rates)]
    falling = [second < first for first, second in pairwise(rates)]
    if True in rising and True in falling:
        assert max(i for i, is_up in enumerate(rising) if is_up) < falling.index(True)


def test_cosine_rises_and_falls_to_zero() -> None:
    config = TrainConfig(tokens=1, lr=2.0, warmup=0.1, schedule="cosine")
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([2.0 * n / 10 for n in range(1, 11)])
    assert rates[55] == pytest.approx(1.0)  # half-way down
    assert 0 < rates[99] < 1e-3 * 2
    assert all(second < first for first, second in pairwise(rates[10:]))


@pytest.mark.parametrize("tied", [False, True])
def test_muon_takes_the_matrices_of_the_blocks(make_model: Callable[..., SioConvForCausalLM], tied: bool) -> None:
    model = make_model(tie_word_embeddings=tied)
    adamw, muon = build_optimizers(model, TrainConfig(tokens=1, optimizer="muon", weight_decay=0.25))
    names = {parameter: name for name, parameter in model.named_parameters()}
    taken = {names[parameter] for group in muon.param_groups for parameter in group["params"]}
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert taken == linear - {"lm_head.weight"}
    decays = {names[p]: group["weight_decay"] for group in adamw.param_groups for p in group["params"]}
    assert decays.keys() == set(names.values()) - taken
    assert {name for name, decay in decays.items() if decay} == (set() if tied else {"lm_head.weight"})
    assert {group["weight_decay"] for group in muon.param_groups} == {0.25}


@pytest.mark.parametrize("tied", [False, True])
def test_the_matrices_of_an_lstm_are_matrices(tied: bool) -> None:
    model = make_baseline("lstm", tie_word_embeddings=tied)
    names = {parameter: name for name, parameter in model.named_parameters()}
    inside = {name for parameter, name in names.items() if parameter.dim() == 2 and name.startswith("model.layers")}
    assert any(name.endswith("lstm.weight_hh_l0") for name in inside)
    head = set() if tied else {"lm_head.weight"}
    (adamw,) = build_optimizers(model, TrainConfig(tokens=1, weight_decay=0.25))
    decays = {names[p] for group in adamw.param_groups if group["weight_decay"] for p in group["params"]}
    assert decays == inside | head
    adamw, muon = build_optimizers(model, TrainConfig(tokens=1, optimizer="muon", weight_decay=0.25))
    assert {names[p] for group in muon.param_groups for p in group["params"]} == inside
    assert {names[p] for group in adamw.param_groups if group["weight_decay"] for p in group["params"]} == head
