"""The sizes and choices that make one SioConv model differ from another, and the named families."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin


@dataclass
class Architecture:
    """Shape and options of a model (docs/decisions.md has the measurements behind the defaults).

    With D = hidden_size, H = num_heads, P = D / H.

    Args:
        preset: the family: `sioconv-2026b`, which recipes take where they name none; `sioconv-2026`; `sioconv`, whose
            values are the defaults below; or `sioconv-2024`. A recipe takes from it what it doesn't say; in Python
            write `Architecture(**PRESETS["sioconv-2026b"], hidden_size=512)`.
        hidden_size: D, the width of the residual stream.
        num_hidden_layers: number of blocks.
        num_heads: H; each head has one forget gate. Must divide hidden_size.
        intermediate_size: width of the feed-forward layer.
        gate: `head`, one forget gate per head and step, log_a [B, T, H]; `channel`, one per channel, [B, T, H, P].
        gate_bound: k of a forget gate that can't close quickly, log a = -k * softplus(A_log) * sigmoid(dt); None gives
            log a = -exp(A_log) * softplus(dt). dt = Linear_dt(x) [B, T, G], A_log [G], G = H or D (`gate`).
        timescale_max: the gates' timescales, -1 / log a, start log-spaced from 1 step to this many (the context's
            length, for instance), gate by gate; None draws them as Mamba-2 does, from about 1 to 1,000.
        conv_width: width W of a causal depthwise convolution, weights w [D, W], 0 for none;
            x_t <- sum_k w_k * x_{t-k}, 0 <= k < W, identity at the start (w_0 = 1; but see `z_gate`).
        conv_on: what it convolves: `mixer`, the mixer's input, which all that follows reads; `recurrence`, the same
            input, but the output's gate reads it as it was; `z`, z [B, T, D] before `input_scale`; `z_gate`, what
            SiLU makes z's gate of [B, T, D], where it starts as the step before (w_1 = 1): so a value can be written
            in places that its key, the token before it, chooses (the product of a shifted key with a value of H3, Fu
            et al. 2022, arXiv:2212.14052).
        input_scale: what z is multiplied by: `none`; `variance`, sqrt(1 - a^2), which keeps the state's variance
            that of z; `mean`, 1 - a, which makes the state a weighted mean of z.
        trapezoid: the recurrence reads l_t * z_t + (1 - l_t) * a_t * z_{t-1} in place of z_t (after `input_scale`),
            with l_t = sigmoid(Linear_mix(x_t)) [B, T, H], about 0.88 at the start, and 0 for z_{t-1} where a document
            begins.
        norm_groups: G, groups of channels that the state's normalisation takes the statistics of, with one affine pair
            each; None: one a head. Must divide hidden_size.
        output_gate: what SiLU(Linear_ygate(x)) multiplies: `projected`, Linear_y(norm(c)); `normed`, norm(c), before
            Linear_y; `state`, c, before the normalisation.
        z_gain: gain of the Xavier initialisation of the layers that make z.
        y_gain: the same for the layers that make y from the state.
        zero_out_projections: Linear_y of the mixer and the last layer of the feed-forward start at exactly 0, so that
            every block starts as the identity.
        embedding_std: standard deviation that the embedding starts with, before `embedding_max_norm`.
        linear_std: standard deviation that the feed-forward and the head start with, their biases at 0; None draws
            both uniformly from +- 1 / sqrt(inputs), as torch does.
        initial_state_std: standard deviation that the learned initial state starts with.
        state_norm_eps: epsilon of the normalisation of the state.
        rms_norm_eps: epsilon of the RMSNorms.
        use_bias: biases on the linear layers (the forget gate's always has one).
        head_bias: a bias on the output head.
        embedding_max_norm: embedding rows longer than this are scaled down to it when looked up; None leaves them.
        tie_word_embeddings: the head uses the embedding's matrix.
        bigram_rows: rows of a second, hashed table, in vocabularies, which is read by a token together with the one
            before it and added to the embedding: x_t + Linear_out(B[h(y_t, y_{t-1})]) (5 was measured); 0 for none.
        bigram_width: columns of that table; Linear_out [bigram_width -> D] has no bias and starts at exactly 0.
    """

    preset: str = "sioconv"
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_heads: int = 8
    intermediate_size: int = 512
    gate: Literal["head", "channel"] = "head"
    gate_bound: float | None = None
    timescale_max: float | None = None
    conv_width: int = 0
    conv_on: Literal["mixer", "recurrence", "z", "z_gate"] = "mixer"
    input_scale: Literal["none", "variance", "mean"] = "none"
    trapezoid: bool = False
    norm_groups: int | None = None
    output_gate: Literal["projected", "normed", "state"] = "projected"
    z_gain: float = 1.0
    y_gain: float = 0.01
    zero_out_projections: bool = False
    embedding_std: float = 1.0
    linear_std: float | None = None
    initial_state_std: float = 0.0
    state_norm_eps: float = 1e-5
    rms_norm_eps: float = 1e-6
    use_bias: bool = True
    head_bias: bool = True
    embedding_max_norm: float | None = 1.0
    tie_word_embeddings: bool = False
    bigram_rows: int = 0
    bigram_width: int = 64

    def check(self) -> None:
        """Raises ValueError, naming the field, where a value can't be built."""
        for name in ("hidden_size", "num_hidden_layers", "num_heads", "intermediate_size", "bigram_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a positive number")
        if self.preset not in PRESETS:
            raise ValueError(f"preset: {self.preset!r} is not known: choose from {', '.join(PRESETS)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads: {self.num_heads} does not divide hidden_size {self.hidden_size}")
        if self.norm_groups is not None and (self.norm_groups < 1 or self.hidden_size % self.norm_groups):
            raise ValueError(f"norm_groups: {self.norm_groups} does not divide hidden_size {self.hidden_size}")
        if not 0 <= self.conv_width <= 4 or self.conv_width == 1:
            raise ValueError(f"conv_width: {self.conv_width} is none of 0, 2, 3, 4")
        if self.bigram_rows < 0:
            raise ValueError(f"bigram_rows: {self.bigram_rows} is not a number of 0 or more: 0 is for no table")
        for field in fields(Architecture):
            if get_origin(field.type) is Literal and getattr(self, field.name) not in get_args(field.type):
                choices = ", ".join(get_args(field.type))
                raise ValueError(f"{field.name}: {getattr(self, field.name)!r} is none of {choices}")
        for name in (
            "gate_bound",
            "state_norm_eps",
            "rms_norm_eps",
            "embedding_max_norm",
            "embedding_std",
            "linear_std",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}: {value} is not a positive number")
        for name in ("z_gain", "y_gain", "initial_state_std"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)} is not a number of 0 or more")
        if self.timescale_max is not None and not 1 < self.timescale_max < math.inf:
            raise ValueError(f"timescale_max: {self.timescale_max} is not above 1 step: null draws the timescales")

    @property
    def head_dim(self) -> int:
        """P, channels per head."""
        return self.hidden_size // self.num_heads

    @property
    def conv_past(self) -> int:
        """Steps before a step that the convolution reads, W - 1; 0 without one."""
        return max(self.conv_width - 1, 0)

    @property
    def groups(self) -> int:
        """G, groups of the state's normalisation."""
        return self.norm_groups or self.num_heads


@dataclass(frozen=True)
class ParameterSizes:
    """Parameters by what happens to them.

    Attributes:
        all: every one.
        matrices: in linear layers, the head among them: what the products multiply with.
        block_matrices: in the blocks' linear layers except the forget gate's, which stays in fp32.
        hidden_linear: in all linear layers but the head.
        blocks: in blocks.
    """

    all: int
    matrices: int
    block_matrices: int
    hidden_linear: int
    blocks: int

    @property
    def root(self) -> int:
        """Outside of the blocks: embedding, last norm, head."""
        return self.all - self.blocks


def parameter_sizes(config: Architecture, vocab_size: int) -> ParameterSizes:
    """The trained parameters of the language model, every option counted.

    With V = vocab_size, D = hidden_size, F = intermediate_size, H = num_heads, L = num_hidden_layers, W = conv_width,
    A = H or, with `channel` gates, D, G = norm_groups or H, R = bigram_rows, K = bigram_width, b = 1 with `use_bias`
    and m = 1 with `trapezoid`, else 0:

        matrices  4 D^2 + m D H + 3 D F             of a block: z, its gate, y, its gate; mixture with z_{t-1}; ffn
        gate      D A                               of a block: dt's matrix
        block     matrices + gate + 4 bD + 2 A + D + 2G + DW + mH + b (2F + D) + 2 D
                                                    biases, dt's bias and A_log, initial state, norm, conv, mixture's
                                                    bias, ffn's biases, two RMSNorms
        bigrams   (R V + D) K, 0 for R = 0          table and its projection
        model     V D + bigrams + L block + D + head
                                                    embedding, bigrams, blocks, last RMSNorm
        head      V D, 0 if it is tied to the embedding; and V with `head_bias`
    """
    width, heads, ffn, depth = config.hidden_size, config.num_heads, config.intermediate_size, config.num_hidden_layers
    gates = heads if config.gate == "head" else width
    bias, mixed = int(config.use_bias), int(config.trapezoid)
    matrices = 4 * width**2 + mixed * width * heads + 3 * width * ffn
    linear = matrices + width * gates
    mixer = 4 * bias * width + 2 * gates + width + 2 * config.groups + width * config.conv_width + mixed * heads
    block = linear + mixer + bias * (2 * ffn + width) + 2 * width
    embedding = vocab_size * width
    table = config.bigram_rows * vocab_size * config.bigram_width
    projection = width * config.bigram_width if config.bigram_rows else 0
    head = (0 if config.tie_word_embeddings else embedding) + (vocab_size if config.head_bias else 0)
    return ParameterSizes(
        all=embedding + table + projection + depth * block + width + head,
        matrices=projection + depth * linear + embedding,
        block_matrices=depth * matrices,
        hidden_linear=projection + depth * linear,
        blocks=depth * block,
    )


def parameter_count(config: Architecture, vocab_size: int) -> int:
    """Number of trained parameters of the language model, every option counted; see `parameter_sizes`."""
    return parameter_sizes(config, vocab_size).all


# Fields that came after models had fingerprints, each with the value that a model from before them has.
NEWER_FIELDS: dict[str, Any] = {
    "trapezoid": False,
    "norm_groups": None,
    "zero_out_projections": False,
    "embedding_std": 1.0,
    "linear_std": None,
    "bigram_rows": 0,
    "bigram_width": 64,
}

# `sioconv-2024` is the model of the talk, parameter for parameter; each later family differs from the one before only
# where a measurement in docs/experiments.md says so. Families don't change: models were made of them.
_START_OF_2026: dict[str, Any] = {
    "z_gain": 1.0,
    "y_gain": 1.0,
    "initial_state_std": 0.0,
    "timescale_max": 32.0,
    "zero_out_projections": True,
    "embedding_std": 0.02,
    "embedding_max_norm": None,
    "linear_std": 0.02,
}
PRESETS: dict[str, dict[str, Any]] = {
    "sioconv-2024": {"preset": "sioconv-2024", "z_gain": 0.01, "initial_state_std": 1.0},
    "sioconv": {"preset": "sioconv", "z_gain": 1.0, "initial_state_std": 0.0},
    "sioconv-2026": {"preset": "sioconv-2026", "trapezoid": True, **_START_OF_2026},
    "sioconv-2026b": {"preset": "sioconv-2026b", "conv_width": 2, "conv_on": "z_gate", **_START_OF_2026},
}
BEST_PRESET = "sioconv-2026b"  # that of recipes that name none
