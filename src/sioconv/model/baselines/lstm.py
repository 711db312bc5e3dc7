"""A language model on torch.nn.LSTM to compare with: the frame of ours with an LSTM in the mixer's place.

Importing this module registers it with transformers' Auto classes.
"""

from typing import NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from transformers import initialization as init

from sioconv.model.baselines.frame import (
    RecurrentBlock,
    RecurrentCache,
    RecurrentConfig,
    RecurrentForCausalLM,
    RecurrentModel,
    RecurrentPreTrainedModel,
)
from sioconv.model.baselines.pieces import PackedLstm, Pieces, cut_rows
from sioconv.model.configuration import takes_whole_numbers


@takes_whole_numbers
@strict
class LstmConfig(RecurrentConfig):  # type: ignore[no-untyped-call]
    """Configuration of `LstmForCausalLM`; hidden_size is the width of the LSTMs too."""

    model_type = "lstm_baseline"


class LstmState(NamedTuple):
    """What an LSTM carries from one call to the next: output h and cell c, both [B, D], zero at the start."""

    h: Tensor
    c: Tensor


class LstmCache(RecurrentCache):
    """The states of all LSTMs."""

    state_type = LstmState


class LstmBlock(RecurrentBlock):
    """x + LSTM(RMSNorm(x)), then x + SwiGLU(RMSNorm(x)); forget gates start open."""

    def make_mixer(self, config: RecurrentConfig) -> None:
        """Makes the LSTM and its norm."""
        width = config.hidden_size
        self.lstm_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.lstm = nn.LSTM(width, width, batch_first=True)

    @staticmethod
    def read_starts(reset: Tensor) -> Pieces | None:
        """The pieces of the rows, all but whose first start from zero."""
        return cut_rows(reset)

    def mix(self, x: Tensor, state: LstmState | None, starts: Pieces | None) -> tuple[Tensor, LstmState]:
        """LSTM(RMSNorm(x)) [B, T, D] and its state; see `RecurrentBlock.mix`."""
        # In the precision of its weights, fp32 in training: bf16 would round the cell at every step, and a slow forget
        # gate to 1.
        x = self.lstm_norm(x)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.lstm_norm.weight.dtype)
            if starts is None:
                y, (h, c) = self.lstm(x, None if state is None else (state.h.unsqueeze(0), state.c.unsqueeze(0)))
                return y, LstmState(h[0], c[0])
            before = x.new_zeros(2, sum(starts.sizes[:1]), x.shape[-1])
            if state is not None:
                before = before.index_copy(1, starts.first, torch.stack(tuple(state)))
            mix = self._cudnn if x.is_cuda else self._packed
            return mix(x, before, starts)

    def _packed(self, x: Tensor, before: Tensor, pieces: Pieces) -> tuple[Tensor, LstmState]:
        weight_ih, weight_hh, bias_ih, bias_hh = (parameter for _, parameter in self.lstm.named_parameters())
        inputs = nn.functional.linear(x.flatten(0, 1)[pieces.order], weight_ih, bias_ih + bias_hh)
        found = PackedLstm.apply(inputs, weight_hh, *before, pieces.sizes)  # type: ignore[no-untyped-call]
        back = pieces.order.argsort()
        h, c = (tensor[back].view_as(x) for tensor in found)
        return h, LstmState(h[:, -1], c[:, -1])

    def _cudnn(self, x: Tensor, before: Tensor, pieces: Pieces) -> tuple[Tensor, LstmState]:
        sizes = torch.tensor(pieces.sizes)
        packed = PackedSequence(x.flatten(0, 1)[pieces.order], sizes)
        out, (h, c) = self.lstm(packed, tuple(before.unsqueeze(1)))
        y = out.data[pieces.order.argsort()].view_as(x)
        return y, LstmState(h[0, pieces.last], c[0, pieces.last])


class _OpenForgetGates(RecurrentPreTrainedModel):  # type: ignore[no-untyped-call]
    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, nn.LSTM):  # forget gates start open (Jozefowicz et al. 2015)
            bias = torch.zeros(4, module.hidden_size)  # of the input, forget, cell and output gate
            bias[1] = 1.0
            init.copy_(module.get_parameter("bias_ih_l0"), bias.flatten())


class LstmModel(_OpenForgetGates, RecurrentModel):  # type: ignore[no-untyped-call]
    """Embedding, blocks and the last RMSNorm: token ids to hidden states."""

    config: LstmConfig
    config_class = LstmConfig
    block_type = LstmBlock
    cache_type = LstmCache
    _no_split_modules = [LstmBlock.__name__]  # noqa: RUF012


class LstmForCausalLM(_OpenForgetGates, RecurrentForCausalLM):  # type: ignore[no-untyped-call]
    """The LSTM with a language-modelling head without bias."""

    config: LstmConfig
    config_class = LstmConfig
    base_type = LstmModel
    cache_type = LstmCache
    _no_split_modules = LstmModel._no_split_modules


LstmForCausalLM.register()
