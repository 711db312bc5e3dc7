"""A language model on minGRU (Feng et al. 2024, arXiv:2410.01201): the frame of ours with minGRU in the mixer's place.

Importing this module registers it with transformers' Auto classes.
"""

import math
from typing import NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F

from sioconv.model.baselines.frame import (
    RecurrentBlock,
    RecurrentCache,
    RecurrentConfig,
    RecurrentForCausalLM,
    RecurrentModel,
)
from sioconv.model.configuration import takes_whole_numbers
from sioconv.model.layers import at_least_fp32, without_autocast
from sioconv.ops import scan

HEAD = 64  # channels that the scan takes together; each has its own gate, so that it changes nothing but the speed


@takes_whole_numbers
@strict
class MinGruConfig(RecurrentConfig):  # type: ignore[no-untyped-call]
    """Configuration of `MinGruForCausalLM`.

    Args:
        expansion: E / D, width of the recurrence over that of the residual stream.
    """

    model_type = "min_gru_baseline"

    expansion: float = 1.5


class MinGruState(NamedTuple):
    """What minGRU carries from one call to the next: h [B, E], zero at the start."""

    h: Tensor


class MinGruCache(RecurrentCache):
    """The states of all layers."""

    state_type = MinGruState


class MinGruBlock(RecurrentBlock):  # type: ignore[no-untyped-call]
    """x + Linear_out(minGRU(RMSNorm(x))), then x + SwiGLU(RMSNorm(x)).

    h_t = (1 − i_t) ⊙ h_{t−1} + i_t ⊙ g(Linear_h(x_t)), i_t = σ(Linear_i(x_t)), where g(u) is u + 1/2 for u ≥ 0 and
    σ(u) below (appendix B.2 of the paper: its form for large models). No layer has a bias.
    """

    def make_mixer(self, config: RecurrentConfig) -> None:
        """Makes the three matrices and the norm."""
        assert isinstance(config, MinGruConfig)
        width, inner = config.hidden_size, round(config.expansion * config.hidden_size)
        self.mixer_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.hidden_proj = nn.Linear(width, inner, bias=False)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def mix(self, x: Tensor, state: MinGruState | None, starts: Tensor | None) -> tuple[Tensor, MinGruState]:
        """Linear_out(minGRU(RMSNorm(x))) [B, T, D] and its state; see `RecurrentBlock.mix`."""
        x = self.mixer_norm(x)
        gate, hidden = self.gate_proj(x), self.hidden_proj(x)  # [B, T, E]
        with without_autocast(x.device.type):  # bf16 would round a slow gate to 1
            gate, hidden = at_least_fp32(gate), at_least_fp32(hidden)
            log_a = -F.softplus(gate)  # log(1 − i)
            z = gate.sigmoid() * torch.where(hidden >= 0, hidden + 0.5, hidden.sigmoid())
            head = math.gcd(z.shape[-1], HEAD)
            h, last = scan(
                z.view(*z.shape[:-1], -1, head),
                log_a.view(*z.shape[:-1], -1, head),
                None if state is None else state.h.to(z.dtype).view(len(z), -1, head),
                reset=starts,
                output_final_state=True,
            )
        return self.out_proj(h.flatten(-2).to(x.dtype)), MinGruState(last.flatten(-2))


class MinGruModel(RecurrentModel):  # type: ignore[no-untyped-call]
    """Embedding, blocks and the last RMSNorm: token ids to hidden states."""

    config: MinGruConfig
    config_class = MinGruConfig
    block_type = MinGruBlock
    cache_type = MinGruCache
    _no_split_modules = [MinGruBlock.__name__]  # noqa: RUF012


class MinGruForCausalLM(RecurrentForCausalLM):  # type: ignore[no-untyped-call]
    """minGRU with a language-modelling head without bias."""

    config: MinGruConfig
    config_class = MinGruConfig
    base_type = MinGruModel
    cache_type = MinGruCache
    _no_split_modules = MinGruModel._no_split_modules


MinGruForCausalLM.register()
