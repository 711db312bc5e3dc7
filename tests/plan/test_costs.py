"""Predicted parameters, moments and activations against real models; what fits a card."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from sioconv.model import Architecture, SioConvConfig, SioConvForCausalLM
from sioconv.model.architecture import parameter_sizes
from sioconv.plan import costs
from sioconv.recipe.schema import load_recipe
from sioconv.run.stages import plan_costs
from sioconv.train.config import TrainConfig
from sioconv.train.distributed import World
from sioconv.train.step import Stepper
from tests.train import small

OPTIONS: list[dict[str, Any]] = [
    {},
    {"output_gate": "normed"},
    {"output_gate": "state"},
    {"gate": "channel"},
    {"conv_width": 4},
    {"conv_width": 2, "conv_on": "z_gate", "trapezoid": True},
    {"trapezoid": True},
    {"trapezoid": True, "gate": "channel"},
    {"norm_groups": 2},
    {"input_scale": "variance", "intermediate_size": 192},
    {"tie_word_embeddings": True, "head_bias": False},
    {"bigram_rows": 3, "bigram_width": 64},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_and_moments_are_those_of_a_real_step(options: dict[str, Any], optimizer: str) -> None:
    config = small.make_config(1, optimizer=optimizer)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "intermediate_size": 48}
    model = SioConvForCausalLM(SioConvConfig(vocab_size=small.VOCABULARY, **(sizes | options)))
    stepper = Stepper(model, config, World(torch.device("cpu")), torch.float32)
    stepper.update(1e-3, stepper.gradients(small.Windows().batch(0, config.batch_size)))
    found = costs.memory(model.config, config, small.VOCABULARY, 1, element=4)
    assert found.weights == found.gradients == sum(p.nbytes for p in model.parameters())
    states = [state for each in stepper.optimizers for state in each.state.values()]
    real = sum(v.nbytes for state in states for v in state.values() if isinstance(v, torch.Tensor) and v.dim() > 0)
    assert found.moments == real
    assert parameter_sizes(model.config, small.VOCABULARY).matrices == stepper.matrix_parameters
    assert parameter_sizes(model.config, small.VOCABULARY).blocks == sum(
        p.numel() for p in model.model.layers.parameters()
    )


def saved_bytes(model: nn.Module, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of the tensors that a forward pass leaves for the backward pass, the weights and their copies aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {tuple(parameter.shape) for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.untyped_storage().data_ptr()
        turned = tuple(tensor.shape[::-1])
        if address not in weights and not {tuple(tensor.shape), turned} & shapes:
            kept[address] = tensor  # kept alive, so that no other takes its address
        return tensor

    reset = torch.zeros(2, tokens // 2, dtype=torch.bool)
    reset[:, 5] = True
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16) if dtype == torch.bfloat16 else nullcontext(),
    ):
        model(torch.randint(0, small.VOCABULARY, (2, tokens // 2)), reset=reset, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_within_a_tenth_of_what_autograd_saves(
    options: dict[str, Any], recompute: bool, dtype: torch.dtype
) -> None:
    sizes: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 3, "num_heads": 4, "intermediate_size": 128}
    model = SioConvForCausalLM(SioConvConfig(vocab_size=small.VOCABULARY, **(sizes | options))).train()
    tokens, element = 1024, dtype.itemsize
    predicted = costs.activation_bytes(model.config, tokens, element, recompute)
    if recompute:  # the blocks' inputs stay; the inside of one is measured without recomputation, as it is made again
        inside = [saved_bytes_of_depth(model, depth, tokens, dtype) for depth in (1, 2)]
        model.gradient_checkpointing_enable({"use_reentrant": False})
        real = saved_bytes(model.model, tokens, dtype) + inside[1] - inside[0]
    else:
        real = saved_bytes(model.model, tokens, dtype)
    assert predicted == pytest.approx(real, rel=0.1)


def saved_bytes_of_depth(model: SioConvForCausalLM, depth: int, tokens: int, dtype: torch.dtype) -> int:
    config = SioConvConfig(**(model.config.to_dict() | {"num_hidden_layers": depth}))
    return saved_bytes(SioConvForCausalLM(config).train().model, tokens, dtype)


@pytest.mark.parametrize("name", ["sioconv-2024-1.6b.yaml", "ja-en-1.6b.yaml"])
def test_the_large_recipes_have_the_parameters_that_are_predicted(name: str) -> None:
    recipe = load_recipe([name])
    said = plan_costs(recipe)
    with torch.device("meta"):
        values = {field: getattr(recipe.model, field) for field in Architecture.__dataclass_fields__}
        model = SioConvForCausalLM(SioConvConfig(vocab_size=said["vocabulary"], **values))
    assert said["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    here = said["this_machine"]
    assert here["speed"] > 1e8
    assert here["tokens"] == recipe.train.tokens  # None in the recipe of the talk, which has no budget
    assert (here["seconds"] is None) == (here["tokens"] is None)
    if name == "ja-en-1.6b.yaml":
        assert said["parameters"] == pytest.approx(1.6e9, rel=0.07)  # what it is called
        by_card = {(row["card"], row["cards"]): row for row in said["estimates"]}
        assert by_card["H100 SXM", 1]["fits"] and not by_card["RTX 4090", 1]["fits"]
        assert by_card["H100 SXM", 1]["seconds"] > 4 * by_card["H100 SXM", 8]["seconds"]


def test_what_this_machine_takes_follows_from_its_speed() -> None:
    model, vocabulary = Architecture(hidden_size=64, num_hidden_layers=2, num_heads=4, intermediate_size=128), 512
    operations = sum(costs.operations_per_token(model, vocabulary))
    budget = costs.on_this_machine(model, TrainConfig(tokens=10**6), vocabulary, "cpu", 1e12)
    assert budget["tokens_per_second"] == pytest.approx(costs.UTILISATION * 1e12 / operations)
    assert budget["seconds"] == pytest.approx(10**6 / budget["tokens_per_second"])
    minutes = costs.on_this_machine(model, TrainConfig(minutes=2), vocabulary, "cpu", 1e12)
    assert minutes["seconds"] == pytest.approx(120)
    assert minutes["tokens"] == pytest.approx(120 * budget["tokens_per_second"])
    recomputed = TrainConfig(tokens=10**6, activation_checkpointing=True)
    slower = costs.on_this_machine(model, recomputed, vocabulary, "cpu", 1e12)
    assert slower["seconds"] == pytest.approx(4 / 3 * budget["seconds"])


def test_a_card_that_is_too_small_is_told_what_fits() -> None:
    model = Architecture(hidden_size=2048, num_hidden_layers=36, intermediate_size=4096)
    train = TrainConfig(tokens=10**9, sequence_length=1024, batch_size=8)
    card = costs.CARDS[1]
    found = costs.estimate(model, train, 8192, card, 1)
    assert found is not None and not found.fits and found.seconds is None
    assert found.largest is not None and 10**8 < found.largest < 10**9
    assert found.largest * 16 < costs.USABLE * card.memory
    small_one = costs.estimate(replace(model, hidden_size=256, num_hidden_layers=3), train, 8192, card, 1)
    assert small_one is not None and small_one.fits and small_one.seconds
    assert costs.estimate(model, train, 8192, card, 64) is None  # eight windows for 64 cards


def test_settings_that_make_it_fit_are_said() -> None:
    model = Architecture(hidden_size=512, num_hidden_layers=12, intermediate_size=1024)
    train = TrainConfig(tokens=10**9, sequence_length=2048, batch_size=64)
    found = costs.estimate(model, train, 8192, costs.CARDS[1], 1)
    assert found is not None and found.fits and found.settings["accumulation"] > 1
    assert "activation_checkpointing" not in found.settings  # smaller pieces are enough, and cost nothing
    chosen = replace(train, **found.settings)
    assert found.memory == costs.memory(model, chosen, 8192, 1).total
    assert costs.memory(model, train, 8192, 1).total > costs.USABLE * costs.CARDS[1].memory
