"""What is told of a state is what becomes of it when its parts are taken away."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer.tokenizer import encode_texts
from sioconv.errors import UserError
from sioconv.evaluate.bits import document_nats
from sioconv.inspect import measure
from sioconv.inspect.measure import inspect_text
from sioconv.inspect.view import as_json
from sioconv.model import SioConvForCausalLM
from tests.model.test_options import OPTIONS

TinyModel = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]
TEXT = "川は山から海へ流れる。"
MakeModel = Callable[..., SioConvForCausalLM]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: TinyModel) -> PreTrainedTokenizerFast:
    return tiny_model[1]


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return [tokenizer.bos_token_id, *encode_texts(tokenizer, [text])[0]]


@torch.no_grad()
def last_state(model: SioConvForCausalLM, ids: list[int], layer: int, without: int | None) -> Tensor:
    """c of one layer in the end [H, P], float64, without what one step (-1: the state before them) brought to it."""

    def change(_: object, given: tuple[Any, ...]) -> tuple[Any, ...]:
        z, log_a, gate, carried, *rest = given
        if without == -1:
            carried = torch.zeros_like(carried)
        elif without is not None:
            z = z.clone()
            z[:, without] = 0
        return (z, log_a, gate, carried, *rest)

    cache = model.new_cache()
    hook = model.model.layers[layer].mixer.state_norm.register_forward_pre_hook(change)
    try:
        model(torch.tensor([ids]), cache=cache, use_cache=True)
    finally:
        hook.remove()
    return cache.layers[layer].state.c[0].double()


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_weighs_what_the_state_loses_without_it(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    model = make_model(tokenizer, **{"initial_state_std": 1.0, **OPTIONS[name], "head_bias": True})
    ids = ids_of(tokenizer, TEXT)
    seen = inspect_text(model, tokenizer, [TEXT])
    for number, layer in enumerate(seen.layers):
        whole = last_state(model, ids, number, None)
        parts = torch.stack([whole - last_state(model, ids, number, step) for step in range(-1, len(ids))])
        torch.testing.assert_close(parts.sum(0), whole, atol=1e-4, rtol=1e-4)  # nothing is missing
        weights = parts.norm(dim=-1).T  # [H, 1 + W]
        expected = (weights / weights.sum(1, keepdim=True)).numpy()
        np.testing.assert_allclose(layer.shares, expected, atol=2e-5)
        for head, reach in enumerate(layer.reach):
            assert layer.shares[head, -reach:].sum() >= 0.9 - 1e-12
            assert reach == 1 or layer.shares[head, 1 - reach :].sum() < 0.9


def test_surprise_is_that_of_bits_per_byte(tiny_model: TinyModel) -> None:
    model, tokenizer = tiny_model
    seen = inspect_text(model, tokenizer, [TEXT[:4], TEXT[4:]])
    [(_, nats)] = document_nats(model, [ids_of(tokenizer, TEXT)])
    assert seen.bits == pytest.approx(nats / math.log(2), rel=1e-6)
    assert (seen.tokens, seen.text_bytes, seen.first) == (len(ids_of(tokenizer, TEXT)) - 1, len(TEXT.encode()), 0)
    assert math.isnan(seen.surprise[0])
    assert np.nansum(seen.surprise) == pytest.approx(seen.bits)
    assert b"".join(seen.pieces).decode() == TEXT


@pytest.mark.parametrize("name", ["head", "channel", "trapezoid", "conv", "z's gate"])
def test_a_window_is_the_end_of_the_whole(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    options = {
        "head": {},
        "channel": {"gate": "channel"},
        "trapezoid": {"trapezoid": True},
        "conv": {"conv_width": 3},
        "z's gate": {"conv_width": 2, "conv_on": "z_gate"},
    }
    model, text = make_model(tokenizer, **options[name]), TEXT * 6
    whole = inspect_text(model, tokenizer, [text])
    monkeypatch.setattr(measure, "PIECE", 7)
    for window in (1, 10, 33):
        part = inspect_text(model, tokenizer, [text], window)
        assert (part.tokens, len(part.pieces), part.first) == (whole.tokens, window, whole.tokens + 1 - window)
        assert part.bits == pytest.approx(whole.bits, rel=1e-6)
        np.testing.assert_allclose(part.surprise, whole.surprise[-window:], rtol=1e-4)
        assert part.pieces == whole.pieces[-window:]
        for one, other in zip(part.layers, whole.layers, strict=True):
            for name in ("half", "gate", "least", "most"):
                np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5)
            relative = one.shares[:, 1:] / one.shares[:, -1:]
            np.testing.assert_allclose(relative, other.shares[:, -window:] / other.shares[:, -1:], rtol=1e-4, atol=1e-7)


def test_half_is_forgotten_after_so_many_steps(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(tokenizer)
    mixer = model.model.layers[0].mixer
    with torch.no_grad():
        mixer.dt_proj.weight.zero_()
        mixer.A_log.zero_()
        steps = torch.tensor([1.0, 10.0, 1000.0, math.inf])
        mixer.dt_proj.bias.copy_(torch.log(torch.expm1(math.log(2) / steps)).clamp(min=-200))
    layer = inspect_text(model, tokenizer, [TEXT]).layers[0]
    np.testing.assert_allclose(layer.half[:3], [1, 10, 1000], rtol=1e-5)
    assert layer.half[3] == measure.MOST
    np.testing.assert_allclose(layer.gate, 0.5 ** (1 / layer.half), rtol=1e-9)
    np.testing.assert_allclose([layer.least, layer.most], [layer.gate, layer.gate], rtol=1e-6)


def test_what_a_program_gets_is_json_with_all_of_it(tiny_model: TinyModel) -> None:
    seen = inspect_text(*tiny_model, [TEXT])
    values = json.loads(json.dumps(as_json(seen), allow_nan=False))
    assert b"".join(bytes.fromhex(token["bytes"]) for token in values["window"]).decode() == TEXT
    assert values["window"][0]["bits"] is None
    assert sum(token["bits"] or 0 for token in values["window"]) == pytest.approx(values["bits"])
    before = np.mean([layer["before"] for layer in values["layers"]])
    assert sum(token["weight"] for token in values["window"]) + before == pytest.approx(1)
    strongest = values["window"][-1]["strongest"]
    shares = np.stack([layer.shares[:, -1] for layer in seen.layers])
    assert shares[strongest["layer"] - 1, strongest["head"] - 1] == strongest["share"] == shares.max()


def test_no_text_and_no_window_are_refused(tiny_model: TinyModel) -> None:
    with pytest.raises(UserError, match="no text to inspect"):
        inspect_text(*tiny_model, ["", ""])
    with pytest.raises(UserError, match="window out of range: 0"):
        inspect_text(*tiny_model, [TEXT], 0)


def test_broken_weights_are_said_to_be_broken(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(tokenizer)
    with torch.no_grad():
        model.lm_head.bias[3] = math.nan
    with pytest.raises(UserError, match="weights are broken"):
        inspect_text(model, tokenizer, [TEXT])
