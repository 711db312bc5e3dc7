import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sioconv.data.batches.loader import IGNORED
from sioconv.train.loss import token_loss_gradient


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("ignored", [[], [0, 3, 4, 9], list(range(10))])
def test_the_loss_in_pieces_has_the_same_gradients(rows: int, ignored: list[int]) -> None:
    torch.manual_seed(0)
    body, head, x = nn.Linear(4, 4), nn.Linear(4, 7), torch.randn(2, 5, 4)
    targets = torch.randint(0, 7, (10,))
    targets[ignored] = IGNORED
    targets = targets.view(2, 5)
    parameters = [*body.parameters(), *head.parameters()]

    logits = head(body(x)).flatten(0, 1)
    loss = F.cross_entropy(logits, targets.flatten(), reduction="sum", ignore_index=IGNORED) * 0.1
    expected = torch.autograd.grad(loss, parameters)
    hidden = body(x)
    total, gradient = token_loss_gradient(hidden, head, targets, 0.1, rows)
    hidden.backward(gradient)
    assert total == pytest.approx(loss.item(), rel=1e-6)
    for parameter, gradient in zip(parameters, expected, strict=True):
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, gradient)


def test_what_is_not_finite_where_no_loss_is_wanted_reaches_nothing() -> None:
    head, hidden = nn.Linear(4, 7), torch.randn(1, 5, 4)
    hidden[0, :2] = torch.nan
    total, gradient = token_loss_gradient(hidden, head, torch.tensor([[IGNORED, IGNORED, 3, 1, IGNORED]]), 1.0)
    assert math.isfinite(total) and gradient.isfinite().all()
    assert head.weight.grad is not None and head.weight.grad.isfinite().all()


def test_an_impossible_token_has_a_finite_loss_and_gradient() -> None:
    head = nn.Linear(1, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[200.0], [0.0], [-200.0]]))  # exp(-400) is 0 in fp32
        head.bias.zero_()
    total, gradient = token_loss_gradient(torch.ones(1, 1, 1), head, torch.tensor([[2]]), 1.0)
    assert total == pytest.approx(400.0)
    torch.testing.assert_close(gradient, torch.full((1, 1, 1), 400.0))


def test_a_device_without_fp64_can_train() -> None:
    """Such as mps: from fp32, no tensor of fp64 is made."""

    class NoDoubles(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            assert not isinstance(result, Tensor) or result.dtype != torch.float64, func
            return result

    head = nn.Linear(8, 16)
    with NoDoubles():
        total, _ = token_loss_gradient(torch.randn(2, 20, 8), head, torch.randint(0, 16, (2, 20)), 0.1, rows=256)
    assert total > 0


def test_the_head_meets_few_shapes_whatever_the_number_of_targets() -> None:
    """Each new shape of a bf16 product costs memory for good: a training run once took 7 GB so."""
    head, shapes = nn.Linear(4, 7), set()
    head.register_forward_pre_hook(lambda _, inputs: shapes.add(inputs[0].shape))
    for count in range(1, 1600, 13):
        targets = torch.full((1, 1600), IGNORED)
        targets[0, :count] = 1
        token_loss_gradient(torch.randn(1, 1600, 4), head, targets, 1.0)
    assert shapes == {(256, 4), (512, 4), (768, 4), (1024, 4)}
