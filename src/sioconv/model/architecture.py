"""The sizes and choices that make one SioConv model differ from another, and the two named families."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass
class Architecture:
    """Shape and options of a model (docs/decisions.md has the measurements behind the defaults).

    With D = hidden_size, H = num_heads, P = D / H.

    Args:
        preset: the family, `sioconv` or `sioconv-2024`. A recipe takes from it what it doesn't say; in Python write
            `Architecture(**PRESETS["sioconv-2024"], hidden_size=512)`.
        hidden_size: D, the width of the residual stream.
        num_hidden_layers: number of blocks.
        num_heads: H; each head has one forget gate. Must divide hidden_size.
        intermediate_size: width of the feed-forward layer.
        gate: `head`, one forget gate per head and step, log_a [B, T, H]; `channel`, one per channel, [B, T, H, P].
        conv_width: width W of a causal depthwise convolution on the mixer's input, 0 for none;
            x_t <- sum_k w_k * x_{t-k}, 0 <= k < W, identity at the start (w_0 = 1).
        input_scale: what z is multiplied by: `none`; `variance`, sqrt(1 - a^2), which keeps the state's variance
            that of z; `mean`, 1 - a, which makes the state a weighted mean of z.
        z_gain: gain of the Xavier initialisation of the layers that make z.
        y_gain: the same for the layers that make y from the state.
        initial_state_std: standard deviation that the learned initial state starts with.
        state_norm_eps: epsilon of the normalisation of the state.
        rms_norm_eps: epsilon of the RMSNorms.
        use_bias: biases on the linear layers (the forget gate's always has one).
        head_bias: a bias on the output head.
        embedding_max_norm: embedding rows longer than this are scaled down to it when looked up; None leaves them.
        tie_word_embeddings: the head uses the embedding's matrix.
    """

    preset: str = "sioconv"
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_heads: int = 8
    intermediate_size: int = 512
    gate: Literal["head", "channel"] = "head"
    conv_width: int = 0
    input_scale: Literal["none", "variance", "mean"] = "none"
    z_gain: float = 1.0
    y_gain: float = 0.01
    initial_state_std: float = 0.0
    state_norm_eps: float = 1e-5
    rms_norm_eps: float = 1e-6
    use_bias: bool = True
    head_bias: bool = True
    embedding_max_norm: float | None = 1.0
    tie_word_embeddings: bool = False

    def check(self) -> None:
        """Raises ValueError, naming the field, where a value can't be built."""
        for name in ("hidden_size", "num_hidden_layers", "num_heads", "intermediate_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a positive number")
        if self.preset not in PRESETS:
            raise ValueError(f"preset: {self.preset!r} is not known: choose from {', '.join(PRESETS)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads: {self.num_heads} does not divide hidden_size {self.hidden_size}")
        if not 0 <= self.conv_width <= 4 or self.conv_width == 1:
            raise ValueError(f"conv_width: {self.conv_width} is none of 0, 2, 3, 4")
        if self.gate not in ("head", "channel"):
            raise ValueError(f"gate: {self.gate!r} is neither head nor channel")
        if self.input_scale not in ("none", "variance", "mean"):
            raise ValueError(f"input_scale: {self.input_scale!r} is none of none, variance, mean")
        if self.embedding_max_norm is not None and self.embedding_max_norm <= 0:
            raise ValueError(f"embedding_max_norm: {self.embedding_max_norm} is not positive: null sets no limit")

    @property
    def head_dim(self) -> int:
        """P, channels per head."""
        return self.hidden_size // self.num_heads


# `sioconv-2024` is the model of the talk, parameter for parameter; `sioconv` differs from it only where a measurement
# in docs/experiments.md says so.
PRESETS: dict[str, dict[str, Any]] = {
    "sioconv-2024": {"preset": "sioconv-2024", "z_gain": 0.01, "initial_state_std": 1.0},
    "sioconv": {"preset": "sioconv", "z_gain": 1.0, "initial_state_std": 0.0},
}
