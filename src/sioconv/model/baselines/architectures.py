"""Models of other architectures to compare with, as large as the SioConv model that a recipe describes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Mamba2Config, Mamba2ForCausalLM, PreTrainedModel

from sioconv.errors import UserError
from sioconv.model.architecture import Architecture, parameter_count
from sioconv.model.baselines.frame import RecurrentForCausalLM
from sioconv.model.baselines.lstm import LstmConfig, LstmForCausalLM
from sioconv.model.baselines.min_gru import MinGruConfig, MinGruForCausalLM

# Of what a folder's config.json says.
MODEL_TYPES = (LlamaConfig.model_type, LstmConfig.model_type, MinGruConfig.model_type, Mamba2Config.model_type)
# What a user should know of how a type of model is trained.
NOTES = {
    Mamba2Config.model_type: "mamba2: transformers' Mamba-2 has no resets: its state flows from one document of a "
    "window into the next"
}
STEP = 8  # widths that are solved for are multiples of this: products of other sizes are slow on tensor cores
OUT_PROJECTIONS = ("o_proj", "down_proj", "out_proj")  # the last layers of the blocks' branches, where they are linear
SHOWN = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_heads", "intermediate_size", "state_size")

Build = Callable[[int], PreTrainedModel]


def build_baseline(name: str, shape: Architecture, vocab_size: int, **token_ids: int | None) -> PreTrainedModel:
    """A model of another architecture with fresh weights and as many parameters as SioConv's of this shape, or nearly.

    It takes D = hidden_size, rms_norm_eps and tie_word_embeddings from the shape, and initialises as its authors do,
    but for the linear layers that end a block's branches: with `zero_out_projections` they start at 0, as ours do.

    - `llama`: transformers' Llama with the shape's layers and heads; the width of its feed-forward layers is solved
      for, a multiple of 8.
    - `lstm`: `LstmForCausalLM` with the shape's layers; the width of its feed-forward layers is solved for as well. An
      LSTM has twice as many weights as our mixer: where less than D / 2 would be left, there are fewer layers.
    - `mingru`: `MinGruForCausalLM` with the shape's layers, 1.5 times as wide inside; the width of its feed-forward
      layers is solved for.
    - `mamba2`: transformers' Mamba-2 (twice as wide inside, heads of 64 channels, a state of 128, one group); the
      number of layers is solved for, so that the sizes differ by half a layer at most.

    Args:
        name: llama, lstm, mingru or mamba2.
        shape: describes the SioConv model.
        vocab_size: V.
        token_ids: `bos_token_id`, `eos_token_id`, `pad_token_id`.

    Raises:
        UserError: a Llama can't have such heads.
    """
    common: dict[str, Any] = {"vocab_size": vocab_size, "hidden_size": shape.hidden_size, **token_ids}
    common["tie_word_embeddings"] = shape.tie_word_embeddings
    target = parameter_count(shape, vocab_size)
    if name == "llama":
        build = _llama(shape, common)
    elif name == "lstm":
        layers, least = shape.num_hidden_layers, shape.hidden_size // (2 * STEP)
        while layers > 1 and nearest_size(_recurrent(LstmForCausalLM, shape, common, layers), target) < least:
            layers -= 1
        build = _recurrent(LstmForCausalLM, shape, common, layers)
    elif name == "mingru":
        build = _recurrent(MinGruForCausalLM, shape, common, shape.num_hidden_layers)
    else:
        build = _mamba2(shape, common)
    model = build(max(1, nearest_size(build, target)))
    if shape.zero_out_projections:
        for module in [module for name, module in model.named_modules() if name.endswith(OUT_PROJECTIONS)]:
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
    return model


def nearest_size(build: Build, target: int) -> int:
    """The n for which `build(n)` has nearest to `target` parameters, which may be below 1; n adds equally many each."""
    with torch.device("meta"):
        one, two = (build(n).num_parameters() for n in (1, 2))
    return 1 + round((target - one) / (two - one))


def describe_baseline(model: PreTrainedModel) -> str:
    """A baseline's sizes in a line."""
    sizes = ", ".join(f"{key} {getattr(model.config, key)}" for key in SHOWN if hasattr(model.config, key))
    return f"{sizes}; {model.num_parameters():,} parameters"


def _llama(shape: Architecture, common: dict[str, Any]) -> Build:
    if shape.head_dim % 2:
        raise UserError(
            f"architecture llama: heads of {shape.head_dim} channels can't be rotated in pairs: choose model.num_heads "
            "so that hidden_size / num_heads is even"
        )

    def build(n: int) -> PreTrainedModel:
        config = LlamaConfig(
            intermediate_size=STEP * n,
            num_hidden_layers=shape.num_hidden_layers,
            num_attention_heads=shape.num_heads,
            rms_norm_eps=shape.rms_norm_eps,
            max_position_embeddings=32_768,  # a note for others: nothing is sized by it
            **common,
        )
        return LlamaForCausalLM(config)

    return build


def _recurrent(kind: type[RecurrentForCausalLM], shape: Architecture, common: dict[str, Any], layers: int) -> Build:
    def build(n: int) -> PreTrainedModel:
        config: Any = kind.config_class
        return kind(
            config(intermediate_size=STEP * n, num_hidden_layers=layers, rms_norm_eps=shape.rms_norm_eps, **common)
        )

    return build


def _mamba2(shape: Architecture, common: dict[str, Any]) -> Build:
    inner = 2 * shape.hidden_size
    head_dim = next(size for size in range(min(64, inner), 0, -1) if inner % size == 0)

    def build(layers: int) -> PreTrainedModel:
        config = Mamba2Config(
            num_hidden_layers=layers,
            num_heads=inner // head_dim,
            head_dim=head_dim,
            n_groups=1,
            layer_norm_epsilon=shape.rms_norm_eps,
            initializer_range=0.02,
            rescale_prenorm_residual=True,
            **common,
        )
        return Mamba2ForCausalLM(config)

    return build
