"""The mixers that the probes compare with are what they say: against loops, and against the family they start from."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from benchmarks.probes.mixers import CHUNK, MatrixBeside, OuterProducts, SlidingWindow, outer_scan
from sioconv.model.architecture import PRESETS, Architecture
from sioconv.model.layers import SioConvLayer

CONFIG = Architecture(**{**PRESETS["sioconv-2026b"], "hidden_size": 32, "num_heads": 4})


@given(length=st.integers(1, 2 * CHUNK + 3), rows=st.integers(1, 5), seed=st.integers(0, 1000))
def test_the_chunked_form_is_the_recurrence(length: int, rows: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)

    def draw(*sizes: int) -> torch.Tensor:
        return torch.randn(2, 3, length, *sizes, dtype=torch.float64, generator=random)

    q, k, v, log_a = draw(rows), draw(rows), draw(4), -draw().abs()
    n, final = outer_scan(q, k, v, log_a)
    state = torch.zeros(2, 3, rows, 4, dtype=torch.float64)
    for t in range(length):
        state = state * log_a[:, :, t, None, None].exp() + k[:, :, t, :, None] * v[:, :, t, None, :]
        torch.testing.assert_close(n[:, :, t], (q[:, :, t, :, None] * state).sum(2))
    torch.testing.assert_close(final, state)


def test_gates_that_close_quickly_have_finite_gradients() -> None:
    q, k, v = (torch.randn(1, 1, CHUNK, 4, requires_grad=True) for _ in range(3))
    log_a = torch.full((1, 1, CHUNK), -3.0, requires_grad=True)
    n, _ = outer_scan(q, k, v, log_a)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(n.sum(), (q, k, v, log_a)))


def test_with_keys_and_queries_of_one_the_layer_is_the_familys() -> None:
    torch.manual_seed(0)
    outer, plain = OuterProducts(CONFIG, 3), SioConvLayer(CONFIG)
    with torch.no_grad():
        outer.y_proj.weight.normal_()
        outer.k_proj.weight.zero_()
        outer.q_proj.weight.zero_()
    plain.load_state_dict({name: outer.state_dict()[name] for name in plain.state_dict()})
    x = torch.randn(2, 2 * CHUNK, 32)
    (y, state), (expected, whole) = outer(x), plain(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    assert state.c.shape == (2, 4, 3, 8)
    for row in range(3):
        torch.testing.assert_close(state.c[:, :, row], whole.c)


def test_the_matrix_beside_starts_as_nothing_and_is_read_by_its_query() -> None:
    torch.manual_seed(0)
    beside, plain = MatrixBeside(CONFIG, 6), SioConvLayer(CONFIG)
    plain.load_state_dict({name: beside.state_dict()[name] for name in plain.state_dict()})
    x = torch.randn(1, CHUNK + 5, 32)
    (y, state), (expected, _) = beside(x), plain(x)
    torch.testing.assert_close(y, expected)
    assert state.z.shape == (1, 1, 6, 6)
    torch.nn.init.normal_(beside.o_proj.weight)
    k, v, q = F.silu(beside.k_proj(x)), beside.v_proj(x), F.silu(beside.q_proj(x))
    matrix = torch.zeros(6, 6)
    for t in range(x.shape[1]):
        key = k[0, t - 1] if t else torch.zeros(6)  # of the step before
        matrix = matrix / (1 + math.exp(-5)) + key.unsqueeze(1) * v[0, t]  # exp(-softplus(-5))
    torch.testing.assert_close(state.z[0, 0], matrix)
    n = F.rms_norm(q[0, -1] @ matrix, (6,), eps=CONFIG.state_norm_eps)
    torch.testing.assert_close(beside(x)[0][0, -1], expected[0, -1] + beside.o_proj(n), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 7, 8, 27])
def test_a_window_reads_its_last_steps_and_no_other(length: int) -> None:
    layer = SlidingWindow(CONFIG, 8)
    torch.nn.init.normal_(layer.out_proj.weight)
    x = torch.randn(2, length, 32)
    y, state = layer(x)
    q, k, v = (part.view(2, length, 4, 8).transpose(1, 2) for part in layer.qkv_proj(x).chunk(3, -1))
    distance = torch.arange(length).unsqueeze(1) - torch.arange(length)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=(distance >= 0) & (distance < 8))
    torch.testing.assert_close(y, layer.out_proj(expected.transpose(1, 2).reshape(2, length, 32)))
    assert state.c.shape == (2, min(length, 8), 64)  # keys and values


@pytest.mark.parametrize("mixer", [OuterProducts(CONFIG, 3), MatrixBeside(CONFIG, 3), SlidingWindow(CONFIG, 8)])
def test_they_go_on_from_no_state(mixer: torch.nn.Module) -> None:
    _, state = mixer(torch.randn(1, 5, 32))
    with pytest.raises(ValueError, match="whole sequences"):
        mixer(torch.randn(1, 1, 32), state)
