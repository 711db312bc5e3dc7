"""The models whose training steps are timed, all of nearly the same number of parameters, all in the same loop."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from sioconv.model.architecture import PRESETS, Architecture, parameter_count
from sioconv.model.baselines.architectures import build_baseline
from sioconv.model.causal_lm import SioConvForCausalLM
from sioconv.model.configuration import SioConvConfig

VOCABULARY = 8192
SIZES = {
    "17m": Architecture(hidden_size=384, num_hidden_layers=6, num_heads=6, intermediate_size=1024),
    "60m": Architecture(hidden_size=640, num_hidden_layers=10, num_heads=10, intermediate_size=1728),
    "125m": Architecture(hidden_size=768, num_hidden_layers=12, num_heads=12, intermediate_size=2048),
}


def build(arm: str, size: str) -> PreTrainedModel:
    """An arm's model with fresh weights.

    Raises:
        ImportError: the peer's package isn't installed.
    """
    return ARMS[arm](SIZES[size])


def parameters_of_ours(size: str) -> int:
    """What the others are matched to."""
    return parameter_count(SIZES[size], VOCABULARY)


def _ours(shape: Architecture, preset: str = "sioconv") -> SioConvForCausalLM:
    values = {name: getattr(shape, name) for name in vars(shape)} | PRESETS[preset]
    return SioConvForCausalLM(SioConvConfig(**values, vocab_size=VOCABULARY))


class _Mixer(nn.Module):
    """A layer of another package in the place of our mixer: no state is carried, no document begins inside."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """[B, T, D] to [B, T, D], and no state."""
        return self.layer(x), None


def _with_mixers(shape: Architecture, layer: Callable[[], nn.Module]) -> SioConvForCausalLM:
    """Our model with other mixers: embedding, norms, feed-forward layers and head are the same."""
    model = _ours(shape)
    for block in model.model.layers:
        cast(Any, block).mixer = _Mixer(layer())
    return model


class _Lstm(nn.LSTM):
    """torch's, in autocast's precision like every other arm, which `architecture: lstm` avoids for its rounding."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """[B, T, D] to the same."""
        y: Tensor = super().forward(x)[0]
        return y


def _lstm(shape: Architecture) -> PreTrainedModel:
    """An LSTM's 8 D² weights are twice our mixer's: the feed-forward layers, of 3 D a column, are narrower."""
    width = shape.hidden_size
    narrower = replace(shape, intermediate_size=round((shape.intermediate_size - 4 * width / 3) / 8) * 8)
    return _with_mixers(narrower, lambda: _Lstm(width, width, batch_first=True))


def _min_gru(shape: Architecture) -> PreTrainedModel:
    """minGRU's three D × 4/3 D matrices are as large as our four D × D."""
    from minGRU_pytorch.minGRU import minGRU

    return _with_mixers(shape, lambda: minGRU(shape.hidden_size, expansion_factor=4 / 3))


def _mambapy(shape: Architecture) -> PreTrainedModel:
    """Mamba has no feed-forward layers: two of its blocks, of 6 D² each, stand for one of ours."""
    from mambapy.mamba import MambaBlock, MambaConfig

    config = MambaConfig(d_model=shape.hidden_size, n_layers=2 * shape.num_hidden_layers)
    model = _with_mixers(shape, lambda: MambaBlock(config))
    for block in model.model.layers:
        cast(Any, block).ffn = MambaBlock(config)
    return model


ARMS: dict[str, Callable[[Architecture], PreTrainedModel]] = {
    "sioconv": _ours,
    "sioconv-2026": lambda shape: _ours(shape, "sioconv-2026"),
    "sioconv-2026b": lambda shape: _ours(shape, "sioconv-2026b"),
    "sioconv-2024": lambda shape: _ours(shape, "sioconv-2024"),
    "llama": lambda shape: build_baseline("llama", shape, VOCABULARY),
    "lstm": _lstm,
    "mingru": _min_gru,
    "mamba2": lambda shape: build_baseline("mamba2", shape, VOCABULARY),
    "mambapy": _mambapy,
}
DESCRIPTIONS = {
    "sioconv": "SioConv",
    "sioconv-2026": "SioConv, the preset of 2026",
    "sioconv-2026b": "SioConv, the second preset of 2026",
    "sioconv-2024": "SioConv, the preset of 2024",
    "llama": "Llama with SDPA (transformers)",
    "lstm": "LSTM (torch)",
    "mingru": "minGRU (minGRU-pytorch)",
    "mamba2": "Mamba-2 (transformers)",
    "mambapy": "Mamba (mambapy)",
}
