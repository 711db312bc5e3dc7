"""The LSTM to compare with: its definition, and its two ways through packed documents."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sioconv.model.baselines.lstm import LstmConfig, LstmForCausalLM, LstmState
from sioconv.model.baselines.pieces import cut_rows


@pytest.fixture
def model() -> LstmForCausalLM:
    """Width 12, 2 layers, fp64; weights large enough that the output depends on all that was read."""
    torch.manual_seed(0)
    config = LstmConfig(hidden_size=12, num_hidden_layers=2, intermediate_size=20, vocab_size=40, initializer_range=0.3)
    model = LstmForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.2
    return model.double().eval()


def test_a_block_is_its_definition(model: LstmForCausalLM) -> None:
    """x + LSTM(RMSNorm(x)), then x + SwiGLU(RMSNorm(x)); the gates are input, forget, cell, output."""
    block = model.model.layers[0]
    lstm, ffn = block.lstm, block.ffn
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    h, c = torch.zeros(2, 2, 12, dtype=torch.float64)
    outputs = []
    for inputs in block.lstm_norm(x).unbind(1):
        gates = F.linear(inputs, lstm.weight_ih_l0, lstm.bias_ih_l0) + F.linear(h, lstm.weight_hh_l0, lstm.bias_hh_l0)
        i, f, g, o = gates.chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    y = x + torch.stack(outputs, dim=1)
    normed = block.ffn_norm(y)
    expected = y + ffn.down_proj(ffn.up_proj(normed) * F.silu(ffn.gate_proj(normed)))
    found, state = block(x, None, None)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(state.h, h)
    torch.testing.assert_close(state.c, c)


def test_forget_gates_start_open() -> None:
    lstm = LstmForCausalLM(LstmConfig(hidden_size=12, num_hidden_layers=1, vocab_size=9)).model.layers[0].lstm
    assert [part.unique().tolist() for part in lstm.bias_ih_l0.chunk(4)] == [[0.0], [1.0], [0.0], [0.0]]
    assert not lstm.bias_hh_l0.any()


@pytest.mark.parametrize("carried", [False, True])
def test_a_graphics_card_takes_torch_s_packed_sequences(
    model: LstmForCausalLM, reset: Tensor, carried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways are the same function: outputs, states, and the gradients of inputs, weights and states."""
    block = model.model.layers[0]
    x = torch.randn(3, 11, 12, dtype=torch.float64, requires_grad=True)
    before = LstmState(*torch.randn(2, 3, 12, dtype=torch.float64, requires_grad=True).unbind()) if carried else None
    inputs = [x, *block.lstm.parameters(), *(before or ())]
    weights = torch.randn(3, 3, 11, 12, dtype=torch.float64)

    def run() -> list[Tensor]:
        y, state = block.mix(x, before, cut_rows(reset))
        loss = (y * weights[0]).sum() + (state.h * weights[1, :, 0]).sum() + (state.c * weights[2, :, 0]).sum()
        return [y, *state, *torch.autograd.grad(loss, inputs)]

    ours = run()
    monkeypatch.setattr(block, "_packed", block._cudnn)
    torch.testing.assert_close(run(), ours, rtol=1e-12, atol=1e-12)
