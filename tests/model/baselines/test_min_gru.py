"""minGRU to compare with: its definition."""

import torch
from torch.nn import functional as F

from sioconv.model.baselines.min_gru import MinGruConfig, MinGruForCausalLM


def test_a_block_is_its_definition() -> None:
    """h_t = (1 - i_t) h_{t-1} + i_t g(u_t), step by step from zero, at a width that no head of 64 divides."""
    torch.manual_seed(0)
    config = MinGruConfig(hidden_size=12, num_hidden_layers=1, vocab_size=9, initializer_range=0.5, expansion=1.75)
    block = MinGruForCausalLM(config).double().model.layers[0]
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    h = torch.zeros(2, 21, dtype=torch.float64)
    outputs = []
    for inputs in block.mixer_norm(x).unbind(1):
        i, u = block.gate_proj(inputs).sigmoid(), block.hidden_proj(inputs)
        assert 0 < (u < 0).sum() < u.numel()  # both branches of g
        h = (1 - i) * h + i * torch.where(u >= 0, u + 0.5, u.sigmoid())
        outputs.append(block.out_proj(h))
    y = x + torch.stack(outputs, dim=1)
    normed = block.ffn_norm(y)
    expected = y + block.ffn.down_proj(block.ffn.up_proj(normed) * F.silu(block.ffn.gate_proj(normed)))
    found, state = block(x, None, None)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(state.h, h)
