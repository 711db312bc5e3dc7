"""What recall costs: mixers outside the family, in the places of a model's own, to be compared with it on the probes.

They read whole sequences, one document each, and keep what a decoder would have to: that is what their state is for.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from sioconv.model.architecture import Architecture
from sioconv.model.convolution import Steps, convolve
from sioconv.model.layers import LayerState, SioConvLayer
from sioconv.ops import silu_gate

CHUNK = 64  # steps of a chunk of `outer_scan`
OPEN = -5.0  # of a gate's bias: softplus(-5) = 1 / 149
KEY_STD = 0.5  # of keys and queries at the start, beside their constant 1


def outer_scan(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor) -> tuple[Tensor, Tensor]:
    """n_t = q_t C_t of the recurrence C_t = a_t C_{t-1} + k_t v_t^T, C_{-1} = 0, in chunks of matrix products.

    The chunked form of gated linear attention (Yang et al. 2023, arXiv:2312.06635, section 4) for one gate a head.

    Args:
        q: [B, H, T, N].
        k: [B, H, T, N].
        v: [B, H, T, P].
        log_a: [B, H, T], <= 0.

    Returns:
        n [B, H, T, P] and the last C [B, H, N, P].
    """
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    found = []
    for queries, keys, values, log_gates in zip(*(x.split(CHUNK, dim=2) for x in (q, k, v, log_a)), strict=True):
        decay = log_gates.cumsum(-1)  # [B, H, L], since the chunk's beginning
        between = decay.unsqueeze(-1) - decay.unsqueeze(-2)  # [B, H, L, L]
        later = torch.ones_like(between, dtype=torch.bool).triu(1)
        between = between.masked_fill(later, -torch.inf).exp()  # before exp, which could overflow there
        inside = ((queries @ keys.mT) * between) @ values
        found.append(inside + (queries * decay.exp().unsqueeze(-1)) @ state)
        left = (decay[..., -1:] - decay).exp().unsqueeze(-1)  # of each step at the chunk's end
        state = state * decay[..., -1, None, None].exp() + (keys * left).mT @ values
    return torch.cat(found, dim=2), state


class OuterProducts(SioConvLayer):
    """SioConv's layer whose heads keep a matrix: C_t = a_t C_{t-1} + k_t z_t^T [N, P], read by a query.

    z_t and a_t are the family's; k_t = 1 + conv(Linear_k(x))_t and q_t = (1 + Linear_q(x_t)) / N [H, N]; the
    convolution starts as that of z's gate, so a key is of the step before. With both Linear at 0 this is the family.

    Args:
        config: with `conv_on: z_gate` and one gate per head.
        rows: N.
    """

    def __init__(self, config: Architecture, rows: int) -> None:
        super().__init__(config)
        self.rows = rows
        width, heads = config.hidden_size, config.num_heads
        self.k_proj, self.q_proj = (nn.Linear(width, heads * rows, bias=False) for _ in range(2))
        for layer in (self.k_proj, self.q_proj):
            nn.init.normal_(layer.weight, std=KEY_STD * width**-0.5)
        self.key_conv_weight = _reads_the_step_before(heads * rows, config.conv_width)

    def forward(
        self, x: Tensor, state: LayerState | None = None, *, output_state: bool = True, **_: Any
    ) -> tuple[Tensor, LayerState | None]:
        """x [B, T, D] to y [B, T, D], from the beginning of a document."""
        _refuse(state)
        steps = Steps(None, None)
        z, tail = self._input(x, None, None, steps)  # [B, T, H, P]
        keys, key_tail = convolve(self.k_proj(x), self.key_conv_weight, None, steps)
        q, k = (1 + y.view(*z.shape[:3], self.rows).transpose(1, 2) for y in (self.q_proj(x), keys))
        n, final = outer_scan(q / self.rows, k, z.transpose(1, 2), self.log_forget_gate(x).mT)
        normed = F.layer_norm(n, n.shape[-1:], eps=self.config.state_norm_eps).transpose(1, 2)
        normed = normed * self.state_norm.weight.unsqueeze(-1) + self.state_norm.bias.unsqueeze(-1)
        y = silu_gate(self.y_proj(normed.flatten(-2)), self.y_gate_proj(x))
        assert tail is not None
        return y, LayerState(final, torch.cat([tail, key_tail], dim=1)) if output_state else None


class MatrixBeside(SioConvLayer):
    """SioConv's layer and, beside it, one head that keeps a matrix: M_t = a_t M_{t-1} + k_t v_t^T [N, N].

    y_t gets a summand Linear_o(RMSNorm(q_t M_t)), which starts at 0, with q_t = SiLU(Linear_q(x_t)), v_t =
    Linear_v(x_t), k_t = SiLU(conv(Linear_k(x))_t), at the start of the step before, and log a_t = -softplus(Linear_a
    (x_t)), at the start a memory of 150 steps.

    Args:
        config: of the family's layer.
        size: N.
    """

    def __init__(self, config: Architecture, size: int) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, size, bias=False) for _ in range(3))
        for layer in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.normal_(layer.weight, std=width**-0.5)
        self.o_proj, self.a_proj = nn.Linear(size, width, bias=False), nn.Linear(width, 1)
        for weight in (self.o_proj.weight, self.a_proj.weight):
            nn.init.zeros_(weight)
        nn.init.constant_(self.a_proj.bias, OPEN)
        self.key_conv_weight = _reads_the_step_before(size, config.conv_width)

    def forward(
        self, x: Tensor, state: LayerState | None = None, *, output_state: bool = True, **_: Any
    ) -> tuple[Tensor, LayerState | None]:
        """x [B, T, D] to y [B, T, D], from the beginning of a document."""
        _refuse(state)
        y, own = super().forward(x, output_state=output_state)
        keys, tail = convolve(self.k_proj(x), self.key_conv_weight, None, Steps(None, None))
        q, k, v = (part.unsqueeze(1) for part in (F.silu(self.q_proj(x)), F.silu(keys), self.v_proj(x)))
        n, final = outer_scan(q, k, v, -F.softplus(self.a_proj(x)).mT)
        y = y + self.o_proj(F.rms_norm(n.squeeze(1), n.shape[-1:], eps=self.config.state_norm_eps))
        if own is None or own.conv is None:
            return y, None
        return y, LayerState(own.c, torch.cat([own.conv, tail], dim=1), final)


class SlidingWindow(nn.Module):
    """Attention over the last steps alone, without positions: the recurrence below tells the order.

    Args:
        config: its width and heads.
        window: steps that are read, the present one among them.
    """

    def __init__(self, config: Architecture, window: int) -> None:
        super().__init__()
        self.heads, self.window = config.num_heads, window
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        nn.init.xavier_normal_(self.qkv_proj.weight)
        nn.init.zeros_(self.out_proj.weight)

    def forward(
        self, x: Tensor, state: LayerState | None = None, *, output_state: bool = True, **_: Any
    ) -> tuple[Tensor, LayerState | None]:
        """x [B, T, D] to y [B, T, D], from the beginning of a document.

        Blocks of `window` steps attend to themselves and to the block before.
        """
        _refuse(state)
        batch, length, width = x.shape
        qkv = self.qkv_proj(x)  # [B, T, 3 D]
        blocks = F.pad(qkv, (0, 0, 0, -length % self.window)).view(
            batch, -1, self.window, 3, self.heads, width // self.heads
        )
        q, k, v = blocks.permute(3, 0, 1, 4, 2, 5)  # [B, blocks, H, window, P]
        k, v = (torch.cat([F.pad(y, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], y], dim=3) for y in (k, v))
        distance = torch.arange(self.window).unsqueeze(1) + self.window - torch.arange(2 * self.window)
        seen = (distance >= 0) & (distance < self.window)  # [window, 2 window]
        first = seen & (torch.arange(2 * self.window) >= self.window)  # nothing is before the first block
        number = torch.arange(blocks.shape[1]).view(-1, 1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.where(number == 0, first, seen))
        y = self.out_proj(y.transpose(2, 3).reshape(batch, -1, width)[:, :length])
        return y, LayerState(qkv[:, -self.window :, width:]) if output_state else None


def replace_mixers(model: PreTrainedModel, lever: str) -> None:
    """Puts the lever's mixers, with fresh weights, in the places of a SioConv model's own."""
    config, layers = model.config, model.base_model.layers
    for number, block in enumerate(layers):
        mixer = LEVERS[lever](config, number == len(layers) - 1)
        if mixer is not None:
            block.mixer = mixer


# By name: a layer's mixer from the model's configuration and whether the layer is the last; None leaves its own.
LEVERS: dict[str, Callable[[Architecture, bool], nn.Module | None]] = {
    "outer-4": lambda config, _: OuterProducts(config, 4),
    "outer-16": lambda config, _: OuterProducts(config, 16),
    "outer-32": lambda config, _: OuterProducts(config, 32),
    "beside-32": lambda config, _: MatrixBeside(config, 32),
    "window-64": lambda config, last: SlidingWindow(config, 64) if last else None,
}


def _reads_the_step_before(channels: int, width: int) -> nn.Parameter:
    """A convolution's weights [channels, width] at the start."""
    one_tap = torch.zeros(channels, width)
    one_tap[:, 1] = 1.0
    return nn.Parameter(one_tap)


def _refuse(state: LayerState | None) -> None:
    if state is not None:
        raise ValueError("the probes' mixers read whole sequences: they go on from no state")
