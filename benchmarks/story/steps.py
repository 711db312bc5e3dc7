"""From the LSTM to the scan: the derivation of c_t = a_t * c_{t-1} + z_t, each step a layer [B, T, D] -> [B, T, D].

docs/story.md tells it in words. `check_steps` shows that each step computes what the one before it does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sioconv.ops import scan


class LSTM(nn.Module):
    """Step 1: the gates of step t see the output of step t - 1 through a dense layer, so steps wait for each other."""

    def __init__(self, width: int, heads: int) -> None:  # noqa: ARG002
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class InputGatedLSTM(nn.Module):
    """Step 2: the dense layer is taken off the recurrent path: gates see only x_t."""

    def __init__(self, width: int, heads: int) -> None:  # noqa: ARG002
        super().__init__()
        self.dense = nn.Linear(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        c, outputs = x.new_zeros(()), []
        for x_t in x.unbind(1):  # [B, D]
            i, f, g, o = self.dense(x_t).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            outputs.append(o.sigmoid() * c.tanh())
        return torch.stack(outputs, dim=1)


def loop(z: Tensor, log_a: Tensor) -> Tensor:
    """Step 3: what still waits is one linear equation per scalar; c [B, T, H, P] of z and log_a like it."""
    c, states = z.new_zeros(()), []
    for a_t, z_t in zip(log_a.exp().unbind(1), z.unbind(1), strict=True):
        c = a_t * c + z_t
        states.append(c)
    return torch.stack(states, dim=1)


def matrix(z: Tensor, log_a: Tensor) -> Tensor:
    """Steps 4 and 5: no loop, c = M @ z with M[t, s] = a_{s+1} * ... * a_t for each gate (`ops.eager.matrix`)."""
    return scan(z, log_a, backend="matrix")[0]


def fast(z: Tensor, log_a: Tensor) -> Tensor:
    """Step 6: the same c in one pass over time, without M."""
    return scan(z, log_a)[0]


class LinearLSTM(nn.Module):
    """Steps 3 to 6: all that has no past is computed for all steps at once; only c goes through `recurrence`."""

    def __init__(
        self, width: int, heads: int, recurrence: Callable[[Tensor, Tensor], Tensor], per_channel: bool
    ) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.state = (heads, width // heads)  # H, P
        self.gate = self.state if per_channel else (heads,)
        self.sizes = [width, width if per_channel else heads, width, width]
        self.dense = nn.Linear(width, sum(self.sizes))

    def forward(self, x: Tensor) -> Tensor:
        i, f, g, o = self.dense(x).split(self.sizes, dim=-1)  # [B, T, D]; f per head is [B, T, H]
        z = (i.sigmoid() * g.tanh()).unflatten(-1, self.state)  # [B, T, H, P]
        log_a = F.logsigmoid(f).unflatten(-1, self.gate)  # [B, T, H] or [B, T, H, P]
        c = self.recurrence(z, log_a).flatten(-2)  # [B, T, D]
        return o.sigmoid() * c.tanh()


class Attention(nn.Module):
    """What stands beside: a Transformer's causal self-attention, its dense layers as large as those of step 3."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.state = (heads, width // heads)
        self.dense = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, self.state).transpose(1, 2) for part in self.dense(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [B, H, T, P]
        return self.out(y.transpose(1, 2).flatten(-2))


@dataclass(frozen=True)
class Step:
    """One step: its name in the tables (ASCII), how to build it, and the power of T that its memory grows with."""

    name: str
    build: Callable[[int, int], nn.Module]  # of width D and heads H
    memory_order: int = 1


STEPS = {
    "lstm": Step("1 LSTM", LSTM),
    "input_gated": Step("2 dense layer off the path", InputGatedLSTM),
    "equation": Step("3 one equation per scalar", lambda d, h: LinearLSTM(d, h, loop, per_channel=True)),
    "matrix_channel": Step("4 T x T matrix per channel", lambda d, h: LinearLSTM(d, h, matrix, per_channel=True), 2),
    "matrix_head": Step("5 T x T matrix per head", lambda d, h: LinearLSTM(d, h, matrix, per_channel=False), 2),
    "scan": Step("6 scan", lambda d, h: LinearLSTM(d, h, fast, per_channel=False)),
    "attention": Step("attention (SDPA)", Attention),
}


@dataclass(frozen=True)
class Check:
    """Two neighbours' largest difference, of outputs and gradients of x, relative to the largest value."""

    first: str
    second: str
    dtype: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether they are equal to rounding; NaN is not."""
        return self.error <= self.limit


def check_steps(width: int = 32, heads: int = 4, steps: int = 60) -> list[Check]:
    """Every step against the one before it, with the weights that make them the same, in float64 and float32."""
    checks = []
    for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        torch.manual_seed(0)
        layers = {key: step.build(width, heads).to(dtype) for key, step in STEPS.items() if key != "attention"}
        x, weight = (torch.randn(2, steps, width, dtype=dtype) for _ in range(2))
        for first, second in (
            ("lstm", "input_gated"),
            ("input_gated", "equation"),
            ("equation", "matrix_channel"),
            ("matrix_channel", "matrix_head"),
            ("matrix_head", "scan"),
        ):
            _tie(layers[first], layers[second])
            error = _difference(_run(layers[first], x, weight), _run(layers[second], x, weight))
            checks.append(Check(first, second, str(dtype).removeprefix("torch."), error, limit))
    return checks


@torch.no_grad()
def _tie(first: nn.Module, second: nn.Module) -> None:
    """Give `first` such weights that it computes what `second` does."""
    weight, bias = second.dense.weight, second.dense.bias  # of i, f, g, o one below the other
    if isinstance(first, LSTM):  # an LSTM that doesn't look back
        first.lstm.weight_ih_l0.copy_(weight)
        first.lstm.bias_ih_l0.copy_(bias)
        first.lstm.weight_hh_l0.zero_()
        first.lstm.bias_hh_l0.zero_()
        return
    if weight.shape != first.dense.weight.shape:  # every channel of a head gets the head's forget gate
        width, channels = weight.shape[1], second.state[1]
        rows = torch.arange(len(weight)).split(second.sizes)
        rows = torch.cat([rows[0], rows[1].repeat_interleave(channels), *rows[2:]])
        weight, bias = weight[rows], bias[rows]
        assert weight.shape == (4 * width, width)
    first.dense.weight.copy_(weight)
    first.dense.bias.copy_(bias)


def _run(layer: nn.Module, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """y and the gradient of x of the loss sum(weight * y)."""
    x = x.clone().requires_grad_()
    y = layer(x)
    return y.detach(), torch.autograd.grad((y * weight).sum(), x)[0]


def _difference(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> float:
    ratios = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True)]
    return max(ratios) if all(ratio == ratio for ratio in ratios) else float("nan")
