"""The scan of exported programs, one graph for every length, against the plain loop in float64."""

import pytest
import torch
from torch import Tensor

from sioconv.ops.eager.chunked import CHUNK, scan_any_length
from sioconv.ops.eager.reference import scan_reference

# One step, and around the ends of one, two and many chunks.
LENGTHS = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 33 * CHUNK + 5]


def arguments(length: int, channels: int, resets: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    random = torch.Generator().manual_seed(length)
    z, start, again = (
        torch.randn(shape, generator=random).double() for shape in ((3, length, 2, 5), (3, 2, 5), (2, 5))
    )
    log_a = -0.2 * torch.rand(3, length, 2, channels, generator=random).double()
    reset = torch.rand(3, length, generator=random) < 0.05
    return z, log_a, start, reset if resets else None, again if resets else None


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_the_plain_loop(length: int, channels: int, resets: bool) -> None:
    given = arguments(length, channels, resets)
    found, expected = scan_any_length(*given), scan_reference(*given, None)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_its_gradients_are_those_of_the_plain_loop() -> None:
    slopes = []
    for scan in (scan_any_length, lambda *given: scan_reference(*given, None)):
        z, log_a, start, reset, again = arguments(2 * CHUNK + 1, 5, resets=True)
        leaves = [value.requires_grad_() for value in (z, log_a, start, again) if value is not None]
        c, final = scan(z, log_a, start, reset, again)
        slopes.append(torch.autograd.grad(c.square().sum() + final.sum(), leaves))
    for found, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_stays_in_its_document(bad: float) -> None:
    """In z and in the gates: other rows, and what comes before it and after the next reset, are as they were."""
    z, log_a, start, _, again = arguments(3 * CHUNK, 1, resets=True)
    reset = torch.zeros(3, 3 * CHUNK, dtype=torch.bool)
    reset[0, [20, 70]] = True
    expected = scan_any_length(z, log_a, start, reset, again)
    for broken in (z.clone(), log_a.clone()):
        broken[0, 40] = bad
        c, final = scan_any_length(*((broken, log_a) if broken.shape == z.shape else (z, broken)), start, reset, again)
        assert torch.equal(c[1:], expected[0][1:]) and torch.equal(final, expected[1])
        assert torch.equal(c[0, :40], expected[0][0, :40]) and torch.equal(c[0, 70:], expected[0][0, 70:])
        assert not c[0, 40:70].isfinite().any()
