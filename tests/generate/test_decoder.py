import copy
import logging
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sioconv.generate.decoder import Decoder, Piece, TorchDecoder, pick_decoder
from sioconv.generate.native import NativeDecoder, why_not_native
from sioconv.generate.states.state import State
from sioconv.model import Architecture, SioConvForCausalLM
from tests.generate.test_engine import VOCABULARY, build

OPTIONS: list[dict[str, Any]] = [
    {},
    {"gate": "channel"},
    {"gate_bound": 8.0},
    {"gate": "channel", "gate_bound": 8.0, "input_scale": "variance"},
    {"input_scale": "mean", "output_gate": "normed"},
    {"output_gate": "state"},
    {"use_bias": False, "head_bias": False},
    {"embedding_max_norm": None},
    {"tie_word_embeddings": True},
    {"trapezoid": True},
    {"trapezoid": True, "gate": "channel", "input_scale": "variance"},
    {"conv_width": 2, "conv_on": "z_gate", "trapezoid": True},
    {"conv_width": 4, "conv_on": "z_gate", "gate": "channel", "output_gate": "state"},
    {"hidden_size": 24, "num_heads": 3, "intermediate_size": 20, "conv_width": 3, "conv_on": "z_gate"},
    {"hidden_size": 24, "num_heads": 3, "intermediate_size": 20},  # not whole vectors
    {"hidden_size": 64, "num_heads": 1},
    {"preset": "sioconv-2024", "initial_state_std": 1.0},
    {"bigram_rows": 3, "bigram_width": 32},
    {"bigram_rows": 1, "bigram_width": 20, "trapezoid": True},
]
IDS = [i * 31 % VOCABULARY for i in range(40)]


def reference(model: SioConvForCausalLM, ids: list[int]) -> torch.Tensor:
    """Logits [T, V] in fp64."""
    with torch.no_grad():
        logits: torch.Tensor = copy.deepcopy(model).double()(torch.tensor([ids])).logits[0]
    return logits


def read(decoder: Decoder, ids: list[int], pieces: list[int]) -> np.ndarray:
    """Logits after each piece of a text that is read in pieces of those lengths."""
    memory, logits, at = decoder.memory(State()), [], 0
    for length in pieces:
        logits.append(decoder.read([Piece(memory, ids[at : at + length], True)])[0])
        at += length
    return np.stack(logits)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_computes_the_model(options: dict[str, Any], dtype: torch.dtype) -> None:
    model = build(**options)
    if dtype == torch.bfloat16:  # the same numbers, kept in half the space
        for name, value in model.named_parameters():
            if value.dim() == 2 and not any(part in name for part in ("dt_proj", "mix_proj", "initial_state")):
                value.data = value.data.bfloat16()
    assert why_not_native(model) is None
    got = read(NativeDecoder(model), IDS, [1] * len(IDS))
    expected = reference(model.float(), IDS)
    torch.testing.assert_close(torch.from_numpy(got).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"bigram_rows": 3, "bigram_width": 20}, {"conv_width": 3, "conv_on": "z_gate"}]
)
@given(pieces=st.lists(st.integers(1, 13), min_size=1, max_size=9), others=st.integers(0, 3), threads=st.integers(1, 2))
@settings(max_examples=25)
def test_bits_depend_on_neither_pieces_nor_neighbours_nor_threads(
    pieces: list[int], others: int, threads: int, options: dict[str, Any]
) -> None:
    model = build(**options)
    decoder = NativeDecoder(model)
    ids = (IDS * 3)[: sum(pieces)]
    whole = read(decoder, ids, [1] * len(ids))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        memories = [decoder.memory(State()) for _ in range(others + 1)]
        at = 0
        for length in pieces:
            step = [Piece(memory, [(at + k) % VOCABULARY] * (k + 1), False) for k, memory in enumerate(memories[1:])]
            step.insert(others // 2, Piece(memories[0], ids[at : at + length], True))
            at += length
            assert np.array_equal(decoder.read(step)[0], whole[at - 1])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("options", [{}, {"conv_width": 3}, {"conv_width": 2, "conv_on": "z"}])
def test_torch_reads_many_rows_as_it_reads_one(options: dict[str, Any]) -> None:
    """What GPUs do, on the CPU: rows of one token in one forward pass."""
    model = build(**options)
    one, many = TorchDecoder(model), TorchDecoder(model)
    many._together = True
    prompts = [IDS[:3], IDS[5:6], IDS[7:20]]
    memories = {d: [d.memory(State()) for _ in prompts] for d in (one, many)}
    for step in range(4):
        ids = prompts if step == 0 else [[IDS[step + i]] for i in range(3)]
        logits = [
            decoder.read(
                [Piece(m, part, i != 1) for i, (m, part) in enumerate(zip(memories[decoder], ids, strict=True))]
            )
            for decoder in (one, many)
        ]
        assert logits[0].shape == (2, VOCABULARY)
        np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)
    for decoder in (one, many):
        assert decoder.freeze(memories[decoder][0], 6).tokens == 6


STATES: list[dict[str, Any]] = [
    {},
    {"bigram_rows": 3},
    {"conv_width": 2, "conv_on": "z_gate", "trapezoid": True},
    {"conv_width": 4, "conv_on": "z_gate"},
]


@pytest.mark.parametrize("options", STATES)
def test_a_frozen_state_never_changes(options: dict[str, Any]) -> None:
    for decoder in (NativeDecoder(build(**options)), TorchDecoder(build(**options))):
        memory = decoder.memory(State())
        decoder.read([Piece(memory, IDS[:5], False)])
        state = decoder.freeze(memory, 5)
        kept = {name: tensor.clone() for name, tensor in state.tensors.items()}
        decoder.read([Piece(decoder.copy(memory), IDS, False), Piece(memory, IDS, False)])
        decoder.read([Piece(decoder.memory(state), IDS, False)])
        assert kept and all(torch.equal(kept[name], tensor) for name, tensor in state.tensors.items())
        assert state.bytes == sum(tensor.nbytes for tensor in kept.values())


@pytest.mark.parametrize("options", STATES)
def test_states_of_both_decoders_are_the_same_file(options: dict[str, Any]) -> None:
    model = build(**options)
    native, plain = NativeDecoder(model), TorchDecoder(model)
    states = []
    for decoder in (native, plain):
        memory = decoder.memory(State())
        decoder.read([Piece(memory, IDS, False)])
        states.append(decoder.freeze(memory, len(IDS)))
    assert states[0].tensors.keys() == states[1].tensors.keys()
    for name, tensor in states[0].tensors.items():
        torch.testing.assert_close(tensor, states[1].tensors[name], rtol=1e-4, atol=1e-5)
    for state, decoder in zip(reversed(states), (native, plain), strict=True):  # each goes on from the other's
        memory = decoder.memory(state)
        logits = decoder.read([Piece(memory, IDS[:3], True)])
        expected = reference(model, IDS + IDS[:3])[-1:]
        torch.testing.assert_close(torch.from_numpy(logits).double(), expected, rtol=1e-4, atol=1e-4)


def test_models_that_the_kernel_doesn_t_know_take_torch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sioconv"):
        assert isinstance(pick_decoder(build()), NativeDecoder)
    assert isinstance(pick_decoder(build(conv_width=2)), TorchDecoder)
    assert isinstance(pick_decoder(build(norm_groups=2)), TorchDecoder)
    hooked = build()
    hooked.model.layers[0].mixer.z_proj.register_forward_hook(lambda *_: None)
    assert "hook" in str(why_not_native(hooked))
    adapted = build()

    class Adapter(nn.Linear):
        pass

    adapted.model.layers[1].ffn.up_proj = Adapter(32, 48)
    assert "Adapter" in str(why_not_native(adapted))
    assert "float64" in str(why_not_native(build().double()))


def test_every_option_of_the_architecture_is_known_here() -> None:
    """A new option changes what a model computes: teach the kernel, or `why_not_native`, then this list."""
    computed = {name for options in OPTIONS for name in options} | {"conv_width", "conv_on", "norm_groups"}
    sizes = {"num_hidden_layers", "state_norm_eps", "rms_norm_eps"}
    starts = {"timescale_max", "z_gain", "y_gain", "zero_out_projections", "embedding_std", "linear_std"}
    assert computed | sizes | starts == {field.name for field in fields(Architecture)}


def test_weights_that_change_between_two_texts_count() -> None:
    model = build()
    before = read(NativeDecoder(model), IDS, [40])
    with torch.no_grad():
        model.lm_head.weight[:] = -model.lm_head.weight
        model.model.layers[0].mixer.A_log += 1
    torch.testing.assert_close(
        torch.from_numpy(read(pick_decoder(model), IDS, [40])).double(),
        reference(model, IDS)[-1:],
        rtol=1e-4,
        atol=1e-4,
    )
    assert not np.allclose(before, read(pick_decoder(model), IDS, [40]))
