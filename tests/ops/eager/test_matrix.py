"""What only the matrix backend has: the matrix itself, and one matrix for each channel."""

import pytest
import torch

from sioconv.ops import scan
from sioconv.ops.eager.matrix import decay_matrix


def test_the_matrix_of_three_steps() -> None:
    a_0, a_1, a_2 = 0.3, 0.5, 0.25
    log_a = torch.tensor([a_0, a_1, a_2], dtype=torch.float64).log()
    by_hand = torch.tensor([[1, 0, 0], [a_1, 1, 0], [a_1 * a_2, a_2, 1]], dtype=torch.float64)
    torch.testing.assert_close(decay_matrix(log_a), by_hand, rtol=1e-15, atol=0)


def test_closed_gates_give_exact_zeros_and_no_nan() -> None:
    log_a = torch.tensor([-0.1, -torch.inf, -0.1, -torch.inf], requires_grad=True)
    matrix = decay_matrix(log_a)
    torch.testing.assert_close(matrix.detach()[1:, 0], torch.zeros(3), rtol=0, atol=0)
    (slope,) = torch.autograd.grad(matrix.square().sum(), log_a)
    assert slope.isfinite().all()


@pytest.mark.parametrize("length", [0, 1, 5])
def test_leading_sizes_are_a_batch_of_matrices(length: int) -> None:
    log_a = -torch.rand(2, 3, length)
    matrix = decay_matrix(log_a)
    assert matrix.shape == (2, 3, length, length)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(matrix[i, j], decay_matrix(log_a[i, j]))


def test_short_spans_late_in_a_sequence_keep_their_digits() -> None:
    """The sum of all gates is thousands, so differences of sums from step 0 on would be off by 1e-4."""
    length = 1500
    log_a = -8 * torch.rand(length, generator=torch.Generator().manual_seed(0))
    last = decay_matrix(log_a)[-1, -4:].double()
    exact = torch.cat([log_a[-3:].double().flip(0).cumsum(0).exp().flip(0), torch.ones(1).double()])
    torch.testing.assert_close(last, exact, rtol=2e-6, atol=0)


def test_per_channel_equals_per_head_with_the_gate_of_the_head() -> None:
    random = torch.Generator().manual_seed(0)
    z = torch.randn(2, 30, 3, 5, generator=random, dtype=torch.float64, requires_grad=True)
    of_head = (-torch.rand(2, 30, 3, generator=random, dtype=torch.float64)).requires_grad_()
    of_channel = of_head.unsqueeze(-1).expand_as(z)
    weight = torch.randn(z.shape, generator=random, dtype=torch.float64)
    results = []
    for log_a in (of_head, of_channel):
        c, _ = scan(z, log_a, backend="matrix")
        results.append([c, *torch.autograd.grad((c * weight).sum(), (z, of_head))])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_half_precision_is_computed_in_float32() -> None:
    z = torch.randn(1, 20, 2, 3).bfloat16()
    log_a, start = -torch.rand(1, 20, 2), torch.randn(1, 2, 3)
    found, final = scan(z, log_a, start, output_final_state=True, backend="matrix")
    exact, last = scan(z.float(), log_a, start, output_final_state=True, backend="matrix")
    assert final is not None
    torch.testing.assert_close(found, exact.bfloat16(), rtol=0, atol=0)
    torch.testing.assert_close(final, last, rtol=0, atol=0)
