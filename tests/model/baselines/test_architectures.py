"""Models of other architectures: as large as ours, and documents that are packed into one row."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sioconv.errors import UserError
from sioconv.model import Architecture, parameter_count
from sioconv.model.baselines.architectures import (
    MODEL_TYPES,
    OUT_PROJECTIONS,
    build_baseline,
    describe_baseline,
    nearest_size,
)

NAMES = ("llama", "lstm", "mingru", "mamba2")
IDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "intermediate_size": 64}
SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "demo": ({"hidden_size": 256, "num_hidden_layers": 3, "intermediate_size": 512}, 6144),
    "25m": ({"hidden_size": 384, "num_hidden_layers": 7, "num_heads": 6, "intermediate_size": 1024}, 16_384),
    "125m": ({"hidden_size": 768, "num_hidden_layers": 12, "num_heads": 12, "intermediate_size": 2048}, 32_768),
    "narrow ffn": ({"hidden_size": 256, "num_hidden_layers": 8, "num_heads": 4, "intermediate_size": 256}, 2048),
    "tied, options": (
        {"hidden_size": 192, "num_hidden_layers": 5, "num_heads": 6, "intermediate_size": 512, "conv_width": 4}
        | {"tie_word_embeddings": True, "gate": "channel", "use_bias": False, "head_bias": False},
        4096,
    ),
}


def make(name: str, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return build_baseline(name, Architecture(**SMALL | options), 40, **IDS)


def documents(ids: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """[1, T] reset and position_ids of one row of documents."""
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    assert positions.shape == ids.shape
    return positions == 0, positions


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_as_many_parameters(name: str, shape: str) -> None:
    """Within 3 %, and nearer than with another width or number of layers."""
    options, vocabulary = SHAPES[shape]
    architecture = Architecture(**options)
    target = parameter_count(architecture, vocabulary)
    with torch.device("meta"):
        model = build_baseline(name, architecture, vocabulary, **IDS)
    assert model.num_parameters() == pytest.approx(target, rel=0.03)
    layers = model.base_model.layers
    if name == "mamba2":
        unit = sum(parameter.numel() for parameter in layers[0].parameters())
    else:
        unit = 8 * 3 * architecture.hidden_size * len(layers)
    assert abs(model.num_parameters() - target) <= unit / 2


@dataclass
class Sized:
    """A model of which only the size is known."""

    parameters: int

    def num_parameters(self) -> int:
        return self.parameters


@pytest.mark.parametrize(("target", "n"), [(1_000 + 7 * 12, 12), (1_000 + 7 * 12 + 3, 12), (1_000 + 7 * 12 + 4, 13)])
def test_solving_is_exact(target: int, n: int) -> None:
    assert nearest_size(lambda n: Sized(1_000 + 7 * n), target) == n  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("tied", [False, True])
def test_what_a_baseline_takes_from_the_shape(tied: bool) -> None:
    options = {"rms_norm_eps": 1e-4, "tie_word_embeddings": tied, "hidden_size": 96}
    llama, lstm, mingru, mamba2 = (make(name, **options).config for name in NAMES)
    assert tuple(config.model_type for config in (llama, lstm, mingru, mamba2)) == MODEL_TYPES
    for config in (llama, lstm, mingru, mamba2):
        assert (config.hidden_size, config.vocab_size, config.tie_word_embeddings) == (96, 40, tied)
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)
    assert (llama.num_hidden_layers, llama.num_attention_heads, llama.num_key_value_heads) == (2, 4, 4)
    assert llama._attn_implementation == "sdpa"
    assert lstm.num_hidden_layers <= 2 and mingru.num_hidden_layers == 2
    assert (mamba2.expand, mamba2.head_dim, mamba2.num_heads, mamba2.state_size, mamba2.chunk_size) == (
        2, 64, 3, 128, 256,
    )  # fmt: skip
    assert llama.rms_norm_eps == lstm.rms_norm_eps == mingru.rms_norm_eps == mamba2.layer_norm_epsilon == 1e-4
    assert make("mamba2", hidden_size=36).config.head_dim == 36  # 64 doesn't divide 72


@pytest.mark.parametrize(("name", "count"), [("llama", 4), ("lstm", 2), ("mingru", 4), ("mamba2", 1)])
def test_blocks_start_as_the_identity_where_ours_do(name: str, count: int) -> None:
    """An LSTM's own output has no linear layer to start at 0."""
    usual, model = make(name), make(name, zero_out_projections=True)
    zero = {key for key, value in model.named_parameters() if "norm" not in key and not value.any()}
    found = zero - {key for key, value in usual.named_parameters() if not value.any()}
    layers = model.config.num_hidden_layers if name == "mamba2" else 1
    assert len(found) == count * layers and all(key.split(".")[-2] in OUT_PROJECTIONS for key in found)


def test_an_lstm_keeps_a_feed_forward_layer() -> None:
    """Its own weights are twice our mixer's: where nothing is left for the rest, it has fewer layers."""
    options, vocabulary = SHAPES["narrow ffn"]
    config = build_baseline("lstm", Architecture(**options), vocabulary).config
    assert config.num_hidden_layers < 8
    assert config.intermediate_size >= 128
    one = build_baseline("lstm", Architecture(**options | {"num_hidden_layers": 1}), vocabulary).config
    assert (one.num_hidden_layers, one.intermediate_size) == (1, 8)


def test_heads_that_cannot_be_rotated() -> None:
    with pytest.raises(UserError, match=r"architecture llama: heads of 3 channels .* choose model\.num_heads"):
        make("llama", hidden_size=12)


def test_a_baseline_in_a_line() -> None:
    model = make("llama")
    assert describe_baseline(model) == (
        f"hidden_size 32, num_hidden_layers 2, num_attention_heads 4, intermediate_size "
        f"{model.config.intermediate_size}; {sum(p.numel() for p in model.parameters()):,} parameters"
    )


def test_packed_documents_of_a_llama_equal_separate_ones() -> None:
    """The norms round to fp32, whatever the weights are in."""
    model = make("llama").double().train()
    ids = torch.randint(0, 40, (1, 14))
    lengths = [5, 1, 8]
    reset, positions = documents(ids, lengths)
    grad_output = torch.randn(1, 14, 32, dtype=torch.float64)
    packed = model.base_model(ids, reset=reset, position_ids=positions, cache=None, use_cache=False).last_hidden_state
    parameters = [parameter for name, parameter in model.named_parameters() if name != "lm_head.weight"]
    together = torch.autograd.grad(packed, parameters, grad_output)
    pieces = [model.base_model(piece, use_cache=False).last_hidden_state for piece in ids.split(lengths, dim=1)]
    separate = torch.cat(pieces, dim=1)
    torch.testing.assert_close(packed, separate, rtol=1e-6, atol=1e-7)
    for first, second in zip(together, torch.autograd.grad(separate, parameters, grad_output), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)
    alone = model.base_model(ids, use_cache=False).last_hidden_state
    assert float((alone - packed).detach().abs().max()) > 1e-2


def test_a_mamba2_reads_on_into_the_next_document() -> None:
    """What its note and the documentation say. The beginning of a row is exact."""
    model = make("mamba2").train()
    ids = torch.randint(0, 40, (1, 14))
    reset, positions = documents(ids, [5, 9])
    packed = model.base_model(ids, reset=reset, position_ids=positions, cache=None, use_cache=False).last_hidden_state
    first, second = (model.base_model(piece, use_cache=False).last_hidden_state for piece in ids.split([5, 9], dim=1))
    torch.testing.assert_close(packed[:, :5], first, rtol=1e-4, atol=1e-5)
    assert float((packed[:, 5:] - second).detach().abs().max()) > 1e-2
