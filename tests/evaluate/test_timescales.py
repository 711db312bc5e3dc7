"""Timescales of forget gates that are known."""

import math
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sioconv.evaluate.timescales import timescales
from sioconv.model import SioConvForCausalLM

Pair = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]


def model_with(gates: Tensor) -> SioConvForCausalLM:
    """Something with one layer whose forget gates are the same at every step; notes the lengths that it reads."""
    lengths: list[int] = []

    def forget_gates(ids: Tensor) -> list[Tensor]:
        lengths.append(ids.shape[1])
        return [gates.expand(1, ids.shape[1], *gates.shape)]

    fake = SimpleNamespace(device=torch.device("cpu"), forget_gates=forget_gates, lengths=lengths)
    return cast(SioConvForCausalLM, fake)


def test_after_a_timescale_a_share_of_1_over_e_is_left(tiny_model: Pair) -> None:
    gates = torch.tensor([0.99, 0.5, 0.9]).log()
    [layer] = timescales(model_with(gates), tiny_model[1], ["宮城県", "川"])
    assert layer == sorted(layer)
    for gate, steps in zip((0.5, 0.9, 0.99), layer, strict=True):
        assert gate**steps == pytest.approx(math.exp(-1), rel=1e-5)


def test_a_head_that_never_forgets_is_at_the_end_of_the_scale(tiny_model: Pair) -> None:
    [layer] = timescales(model_with(torch.tensor([0.0, -1e-9, -1e-5])), tiny_model[1], ["川"])
    assert layer == pytest.approx([1e5, 1e6, 1e6])


def test_gates_per_channel_count_one_by_one(tiny_model: Pair) -> None:
    [layer] = timescales(model_with(torch.full((2, 3), -0.1)), tiny_model[1], ["川"])
    assert layer == pytest.approx([10.0] * 6)


def test_only_the_beginning_of_a_long_text_is_read(tiny_model: Pair) -> None:
    model = model_with(torch.tensor([-1.0]))
    timescales(model, tiny_model[1], ["川" * 100, "川"], max_tokens=7)
    assert model.lengths[0] == 7 and model.lengths[1] < 7


def test_a_models_gates_are_averaged_over_all_tokens(tiny_model: Pair) -> None:
    model, tokenizer = tiny_model
    texts = ["宮城県は、日本の県である。", "The river."]
    found = timescales(model, tokenizer, texts)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    for number, layer in enumerate(found):
        gates = torch.cat([model.forget_gates(torch.tensor([row]))[number][0] for row in ids])  # [all tokens, H]
        assert layer == pytest.approx((-1 / gates.mean(0)).sort().values.tolist(), rel=1e-5)


def test_no_text_no_timescales(tiny_model: Pair) -> None:
    assert timescales(*tiny_model, []) == []
