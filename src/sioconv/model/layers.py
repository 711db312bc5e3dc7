"""The mixer and its block in plain PyTorch: needs torch and `sioconv.ops`, nothing else."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sioconv.model.architecture import Architecture
from sioconv.model.convolution import Steps, convolve, mix_with_last
from sioconv.ops import fast_products, normalise_heads, rms_norm, scan, scan_norm_gate, silu_gate, step

MIX_BIAS = 2.0  # of the mixture with the last z: sigmoid(2) = 0.88 of this one at the start


class _StateTensors(NamedTuple):
    c: Tensor
    conv: Tensor | None
    z: Tensor | None


class LayerState(_StateTensors):
    """What a layer carries from one call to the next: a named tuple.

    Tools that map over tensors build it from an iterable of the three, as they build tuples and lists.

    Attributes:
        c: the memory, [B, H, P], fp32.
        conv: the last W - 1 inputs of the convolution (x, z or what its gate is made of), [B, D, W - 1]; None without
            one.
        z: the last z, [B, H, P], where the recurrence reads a mixture with it (`trapezoid`); else None.
    """

    __slots__ = ()

    def __new__(cls, c: Tensor | Iterable[Tensor | None], conv: Tensor | None = None, z: Tensor | None = None) -> Self:
        if isinstance(c, Tensor):
            return super().__new__(cls, c, conv, z)
        return cls._make(c)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy that a gradient runs through: `copy.deepcopy` refuses tensors that were computed from parameters."""
        return type(self)(None if tensor is None else tensor.clone() for tensor in self)


class SioConvLayer(nn.Module):
    """The gated linear recurrence c_t = a_t * c_{t-1} + z_t with its gates, normalisation and output.

    z_t = Linear_z(x_t) * SiLU(Linear_zgate(x_t)), log a_t = -exp(A_log) * softplus(Linear_dt(x_t)),
    y_t = Linear_y(norm(c_t)) * SiLU(Linear_ygate(x_t)); norm is over the P channels of one head and step.
    The options of `Architecture` change each of these (docs/model.md).

    Example:
        >>> layer = SioConvLayer(Architecture(hidden_size=64, num_heads=4))
        >>> y, state = layer(torch.randn(2, 10, 64))
        >>> y, state = layer(torch.randn(2, 1, 64), state)

    Raises:
        ValueError: a size or option of the architecture can't be built.
    """

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        Architecture.check(config)
        self.config = config
        width, heads = config.hidden_size, config.num_heads
        gates = heads if config.gate == "head" else width
        self.z_proj = nn.Linear(width, width, bias=config.use_bias)
        self.z_gate_proj = nn.Linear(width, width, bias=config.use_bias)
        self.y_proj = nn.Linear(width, width, bias=config.use_bias)
        self.y_gate_proj = nn.Linear(width, width, bias=config.use_bias)
        # Whatever the default dtype: half a precision would round long memories away.
        wide = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.dt_proj = nn.Linear(width, gates, dtype=wide)
        self.A_log = nn.Parameter(torch.empty(gates, dtype=wide))
        self.mix_proj = nn.Linear(width, heads) if config.trapezoid else None
        self.state_norm = NormedScan(config.groups, config.state_norm_eps, config.output_gate)
        self.initial_state = nn.Parameter(torch.empty(heads, width // heads, dtype=wide))
        self.conv_weight = nn.Parameter(torch.empty(width, config.conv_width)) if config.conv_width else None
        with torch.no_grad():
            for name, value in self.initial_values().items():
                self.get_parameter(name).copy_(value)

    def initial_values(self) -> dict[str, Tensor]:
        """Fresh starting values of the layer's parameters by name.

        The forget gates start as in Mamba-2 (Dao & Gu 2024, arXiv:2405.21060): rate exp(A_log) uniform in [1, 16], step
        softplus(dt bias) log-uniform in [0.001, 0.1], so that memories span from one to a thousand steps. With
        `timescale_max` the product of the two is 1 / timescale, the timescales log-spaced. A bounded gate starts with
        the same products, half open (dt bias 0). The mixture with the last z starts nearly as z alone, whatever x is.
        """
        config, gates, wide = self.config, self.A_log.shape[0], self.A_log.dtype
        values: dict[str, Tensor] = {}
        gains = {
            "z_proj": config.z_gain,
            "z_gate_proj": config.z_gain,
            "y_proj": config.y_gain,
            "y_gate_proj": config.y_gain,
        }
        for name, gain in gains.items():
            values[f"{name}.weight"] = nn.init.xavier_normal_(torch.empty_like(self.z_proj.weight), gain)
            if config.use_bias:
                values[f"{name}.bias"] = torch.zeros(config.hidden_size)
        if config.zero_out_projections:
            values["y_proj.weight"].zero_()
        dt = torch.exp(torch.empty(gates, dtype=wide).uniform_(math.log(0.001), math.log(0.1)))
        values["dt_proj.weight"] = nn.init.xavier_normal_(torch.empty_like(self.dt_proj.weight), 0.01)
        rate = torch.empty(gates, dtype=wide).uniform_(1, 16)
        if config.timescale_max is not None:
            dt = torch.logspace(0, -math.log10(config.timescale_max), gates, dtype=wide) / rate
        if config.gate_bound is None:
            values["dt_proj.bias"] = _softplus_inverse(dt)
            values["A_log"] = rate.log()
        else:
            values["dt_proj.bias"] = torch.zeros(gates)
            values["A_log"] = _softplus_inverse(2 * dt * rate / config.gate_bound)
        values["state_norm.weight"] = torch.ones(config.groups)
        values["state_norm.bias"] = torch.zeros(config.groups)
        values["initial_state"] = torch.randn(config.num_heads, config.head_dim, dtype=wide) * config.initial_state_std
        if config.conv_width:
            one_tap = torch.zeros(config.hidden_size, config.conv_width)
            one_tap[:, 1 if config.conv_on == "z_gate" else 0] = 1.0
            values["conv_weight"] = one_tap
        if config.trapezoid:
            values["mix_proj.weight"] = torch.zeros(config.num_heads, config.hidden_size)
            values["mix_proj.bias"] = torch.full((config.num_heads,), MIX_BIAS)
        return values

    def log_forget_gate(self, x: Tensor) -> Tensor:
        """log a_t <= 0 in fp32, [B, T, H] or [B, T, H, P], from the mixer's input x [B, T, D].

        Computed outside autocast: bf16 can't represent a memory of more than about 256 steps.
        """
        with without_autocast(x.device.type):
            x = x.to(self.A_log.dtype)  # that of dt_proj, which a tool may have put its own layer in the place of
            with fast_products(x):
                return self.gate_of(self.dt_proj(x))

    def gate_of(self, dt: Tensor) -> Tensor:
        """log a_t in fp32 from what `dt_proj` gives, [B, T, H] or [B, T, D]."""
        dt, rate = at_least_fp32(dt), at_least_fp32(self.A_log)
        if self.config.gate_bound is None:
            log_a = -torch.exp(rate) * F.softplus(dt)
        else:
            log_a = -self.config.gate_bound * F.softplus(rate) * torch.sigmoid(dt)
        if self.config.gate == "head":
            return log_a
        return log_a.view(*log_a.shape[:-1], self.config.num_heads, self.config.head_dim)

    def forward(
        self,
        x: Tensor,
        state: LayerState | None = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        output_state: bool = True,
    ) -> tuple[Tensor, LayerState | None]:
        """Mixes a piece of sequence and carries the state on.

        Args:
            x: input [B, T, D].
            state: what the call before returned; None starts from the learned initial state.
            mask: [B, T] bool, False at padding, which then changes neither the state nor any output of other steps.
            reset: [B, T] bool, True where a new document begins: the state starts again from the learned initial state.
                No document begins at padding.
            output_state: whether the state after the last step is wanted.

        Returns:
            y [B, T, D] in x's dtype (autocast's, under autocast), and the state or None.
        """
        x = x.to(matmul_dtype(x))
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)  # a NaN in padding would reach the weights' gradients as 0 * NaN
            reset = None if reset is None else reset & mask
        steps = Steps(mask, reset)

        x, x_gate, tail = self._convolve_input(x, state, steps)  # what z and the forget gate, and what the output reads
        z, tail = self._input(x, tail, state, steps)  # [B, T, H, P]
        log_a = self.log_forget_gate(x)  # [B, T, H] or [B, T, H, P]
        z, last_z = self._weigh_input(x, z, log_a, state, steps)
        if mask is not None:  # after the projections, so that their biases leak nothing
            z = z.masked_fill(~mask[..., None, None], 0)
            log_a = log_a.masked_fill(~mask.view(*mask.shape, *[1] * (log_a.dim() - 2)), 0)

        with fast_products(x_gate):
            gate = self.y_gate_proj(x_gate)  # [B, T, D]
        projected = self.config.output_gate == "projected"
        inner_gate = None if projected else F.silu(gate).view_as(z)  # [B, T, H, P]
        start = at_least_fp32(self.initial_state)  # [H, P]
        carried = start.expand(x.shape[0], -1, -1) if state is None else state.c
        normed, final = self.state_norm(z, log_a, inner_gate, carried, start, reset, output_state)
        normed = normed.flatten(-2)  # [B, T, D]
        with fast_products(normed):
            y = self.y_proj(normed)
        if projected:
            y = silu_gate(y, gate)
        return y, LayerState(final, tail, last_z) if output_state and final is not None else None

    def _convolve_input(
        self, x: Tensor, state: LayerState | None, steps: Steps
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x [B, T, D] for z and the forget gate, x for the output's gate, and the convolution's new tail.

        Both are x itself, and there is no tail, where the convolution isn't on x.
        """
        if self.conv_weight is None or self.config.conv_on in ("z", "z_gate"):
            return x, x, None
        convolved, tail = convolve(x, self.conv_weight, None if state is None else state.conv, steps)
        return convolved, convolved if self.config.conv_on == "mixer" else x, tail

    def _input(
        self, x: Tensor, tail: Tensor | None, state: LayerState | None, steps: Steps
    ) -> tuple[Tensor, Tensor | None]:
        """z [B, T, H, P] from x [B, T, D], and the convolution's tail, which is new where it is on z or its gate."""
        with fast_products(x):
            value, gate = self.z_proj(x), self.z_gate_proj(x)  # [B, T, D]
        on, before = self.config.conv_on, None if state is None else state.conv
        if self.conv_weight is not None and on == "z_gate":
            gate, tail = convolve(gate, self.conv_weight, before, steps)
        z: Tensor = silu_gate(value, gate)  # [B, T, D]
        if self.conv_weight is not None and on == "z":
            z, tail = convolve(z, self.conv_weight, before, steps)
        return z.view(*z.shape[:-1], self.config.num_heads, self.config.head_dim), tail

    def _weigh_input(
        self, x: Tensor, z: Tensor, log_a: Tensor, state: LayerState | None, steps: Steps
    ) -> tuple[Tensor, Tensor | None]:
        """z [B, T, H, P] scaled by the forget gate and mixed with the last z, and that z where it is mixed in."""
        z = self._scale_input(z, log_a)
        if self.mix_proj is None:
            return z, None
        weight = self.mix_proj.weight
        x = x.to(weight.dtype) if weight.is_floating_point() else x  # a tool may keep it wider than the rest
        share = torch.sigmoid(at_least_fp32(self.mix_proj(x)))  # [B, T, H]
        return mix_with_last(z, log_a, share, None if state is None else state.z, steps)

    def _scale_input(self, z: Tensor, log_a: Tensor) -> Tensor:
        """z [B, T, H, P] times sqrt(1 - a^2) or 1 - a, both from log_a by expm1, exact for slow gates."""
        if self.config.input_scale == "none":
            return z
        gate = log_a if log_a.dim() == z.dim() else log_a.unsqueeze(-1)
        scale = torch.sqrt(-torch.expm1(2 * gate)) if self.config.input_scale == "variance" else -torch.expm1(gate)
        return (z * scale).to(z.dtype)


def _softplus_inverse(y: Tensor) -> Tensor:
    """x with softplus(x) = y, for y > 0."""
    return y + torch.log(-torch.expm1(-y))


def at_least_fp32(x: Tensor) -> Tensor:
    """x in fp32; fp64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def without_autocast(kind: str) -> AbstractContextManager[Any]:
    """No autocast on devices of this kind; some, such as meta, have none."""
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def matmul_dtype(x: Tensor) -> torch.dtype:
    """What autocast would cast x to for a product; x's own dtype without autocast."""
    kind = x.device.type
    known = torch.amp.is_autocast_available(kind)
    return torch.get_autocast_dtype(kind) if known and torch.is_autocast_enabled(kind) else x.dtype


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose result is in the dtype of the products that read it: rounded once, cast once."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        assert self.eps is not None
        return rms_norm(x, self.weight, self.eps, matmul_dtype(x))


class NormedScan(nn.Module):
    """The recurrence with its states normalised: GroupNorm with one affine pair per group of channels, at each step.

    One operator does both, so the module that owns the norm's weights runs the scan too: tools that bring weights to
    where they are used (offloading, sharding) do so when the module that owns them is called.
    """

    def __init__(self, groups: int, eps: float, output_gate: str) -> None:
        super().__init__()
        self.eps = eps
        self.output_gate = output_gate
        self.weight = nn.Parameter(torch.ones(groups))
        self.bias = nn.Parameter(torch.zeros(groups))

    def forward(
        self,
        z: Tensor,
        log_a: Tensor,
        gate: Tensor | None,
        carried: Tensor,
        start: Tensor,
        reset: Tensor | None,
        output_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """norm(c_t) [B, T, H, P] in z's dtype, times the output's gate where it belongs inside, and the last c.

        z [B, T, H, P] and log_a [B, T, H] or [B, T, H, P] are read from `carried` [B, H, P] on, and from `start` [H, P]
        where `reset` [B, T] is True. Neither c nor norm(c) is rounded to z's dtype before `gate` [B, T, H, P].
        """
        weight, bias = at_least_fp32(self.weight), at_least_fp32(self.bias)
        before = gate.to(carried.dtype) if gate is not None and self.output_gate == "state" else None
        after = gate if self.output_gate == "normed" else None
        if z.shape[1] == 1 and not torch.is_grad_enabled():
            if reset is not None:
                carried = torch.where(reset.view(-1, 1, 1), start, carried)
            _, final = step(z[:, 0], log_a[:, 0], carried)
            c = final.unsqueeze(1) if before is None else final.unsqueeze(1) * before  # [B, 1, H, P]
            after = None if after is None else after.to(c.dtype)
            return self._normalise(c, weight, bias, after).to(z.dtype), final
        reset_state = None if reset is None else start
        if before is not None or len(weight) != z.shape[2]:
            c, last = scan(
                z.to(carried.dtype),
                log_a,
                carried,
                reset=reset,
                reset_state=reset_state,
                output_final_state=output_state,
            )
            c = c if before is None else c * before
            after = None if after is None else after.to(c.dtype)
            return self._normalise(c, weight, bias, after).to(z.dtype), last
        return scan_norm_gate(
            z,
            log_a,
            weight,
            bias,
            self.eps,
            after,
            carried,
            reset=reset,
            reset_state=reset_state,
            output_final_state=output_state,
        )

    def _normalise(self, c: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None) -> Tensor:
        """norm(c) [B, T, H, P], times the gate."""
        groups = (*c.shape[:-2], len(weight), c.shape[-2] * c.shape[-1] // len(weight))
        normed = normalise_heads(c.reshape(groups), weight, bias, self.eps).view_as(c)
        return normed if gate is None else normed * gate


def bounded(x: Tensor, limit: float | None) -> Tensor:
    """The vectors x [..., D], those longer than `limit` scaled down to it; None leaves them.

    The gradient takes the scale as a constant, as it is in `torch.nn.functional.embedding(…, max_norm=…)`.
    """
    if limit is None:
        return x
    norm = at_least_fp32(x.detach()).norm(dim=-1, keepdim=True)
    scale: Tensor = (limit / (norm + 1e-7)).clamp(max=1)
    return x * scale.to(x.dtype)


class FeedForward(nn.Module):
    """SwiGLU: Linear_out(Linear(x) * SiLU(Linear_gate(x))) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.use_bias)
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.use_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        x = x.to(matmul_dtype(x))
        with fast_products(x):
            y: Tensor = self.down_proj(silu_gate(self.up_proj(x), self.gate_proj(x)))
        return y


class SioConvBlock(nn.Module):
    """x + mixer(RMSNorm(x)), then x + SwiGLU(RMSNorm(x))."""

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mixer = SioConvLayer(config)
        self.ffn_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.ffn = FeedForward(config)

    def forward(
        self, x: Tensor, state: LayerState | None, mask: Tensor | None, reset: Tensor | None, output_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        """x [B, T, D] to the same, and the mixer's state (see SioConvLayer.forward)."""
        y, new_state = self.mixer(self.mixer_norm(x), state, mask=mask, reset=reset, output_state=output_state)
        x = x + y
        return x + self.ffn(self.ffn_norm(x)), new_state
