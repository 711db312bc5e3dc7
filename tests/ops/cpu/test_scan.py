"""What only the cpu backend does: bfloat16 by its bits, one line for all sequences, few sequences for many threads."""

import pytest
import torch
from torch import Tensor

from sioconv.ops import scan


def test_bfloat16_is_rounded_as_torch_rounds() -> None:
    z = torch.cat([torch.randn(4000), torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0, 3.4e38, 1e-40])])
    z = z.bfloat16().view(1, 1, 1, -1)
    state = torch.randn(1, 1, z.shape[3])
    log_a = torch.full((1, 1, 1), -0.25)
    found, _ = scan(z, log_a, state, backend="cpu")
    exact, _ = scan(z.float(), log_a, state, backend="cpu")
    torch.testing.assert_close(found, exact.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_what_is_not_finite_stays_in_its_document(backend: str) -> None:
    z = torch.randn(1, 30, 2, 4)
    z[0, :10] = torch.nan
    z.requires_grad_()
    log_a = -torch.rand(1, 30, 2)
    reset = torch.zeros(1, 30, dtype=torch.bool)
    reset[0, 10] = True
    c, _ = scan(z, log_a, reset=reset, backend=backend)
    (slope,) = torch.autograd.grad(c[:, :20].sum() + c[:, 20:].square().sum(), z)
    assert c[:, :10].isnan().all()
    assert c[:, 10:].isfinite().all()
    assert slope[:, 10:].isfinite().all()


@pytest.mark.parametrize("backend", ["reference", "matrix", "chunked", "cpu"])
@pytest.mark.parametrize("shape", [(0, 5, 2, 3), (2, 5, 0, 3), (2, 5, 2, 0), (2, 0, 2, 3)])
def test_empty_tensors(backend: str, shape: tuple[int, int, int, int]) -> None:
    z, log_a = torch.zeros(shape, requires_grad=True), torch.zeros(shape[:3], requires_grad=True)
    state = torch.ones(shape[0], *shape[2:], requires_grad=True)
    c, final = scan(z, log_a, state, output_final_state=True, backend=backend)
    assert final is not None
    slopes = torch.autograd.grad(c.sum() + final.sum(), (z, log_a, state))
    assert c.shape == z.shape
    assert [slope.shape for slope in slopes] == [z.shape, log_a.shape, state.shape]
    torch.testing.assert_close(slopes[2], torch.ones_like(state))


@pytest.mark.parametrize("backend", ["reference", "matrix", "chunked", "cpu"])
def test_no_sequences_at_all(backend: str) -> None:
    c, final = scan(
        torch.zeros(1, 0, 2, 3),
        torch.zeros(1, 0, 2),
        cu_seqlens=torch.tensor([0], dtype=torch.int32),
        output_final_state=True,
        backend=backend,
    )
    assert final is not None
    assert (c.shape, final.shape) == ((1, 0, 2, 3), (0, 2, 3))


@pytest.mark.parametrize("per_channel", [False, True])
def test_wide_heads_are_cut_into_tiles(per_channel: bool) -> None:
    """More channels than a tile holds, with fewer sequences than threads: the cuts change nothing but rounding."""
    random = torch.Generator().manual_seed(0)
    z = torch.randn(1, 50, 3, 300, generator=random, dtype=torch.float64)
    log_a = -torch.rand(z.shape if per_channel else z.shape[:3], generator=random, dtype=torch.float64)
    start = torch.randn(1, 3, 300, generator=random, dtype=torch.float64)

    def differentiate(backend: str, threads: int) -> list[Tensor]:
        leaves = [value.clone().requires_grad_() for value in (z, log_a, start)]
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            c, final = scan(*leaves, output_final_state=True, backend=backend)
            assert final is not None
            return [c, *torch.autograd.grad(c.square().sum() + final.sum(), leaves)]
        finally:
            torch.set_num_threads(before)

    one, other = differentiate("cpu", 1), differentiate("cpu", 2)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.testing.assert_close(one, differentiate("reference", 1), rtol=1e-12, atol=1e-12)


def test_boundaries_that_would_leave_the_memory_are_refused_by_the_operator_itself() -> None:
    z, log_a, state = torch.zeros(1, 4, 1, 2), torch.zeros(1, 4, 1, 1), torch.zeros(1, 1, 2)
    with pytest.raises(ValueError, match="cu_seqlens"):
        torch.ops.sioconv.scan_cpu(z, log_a, state, None, None, torch.tensor([0, 400]))


def test_the_choice_of_backend_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sioconv.ops.backends._said", set())
    with caplog.at_level("INFO", logger="sioconv"):
        for _ in range(2):
            scan(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1))
    assert [record.message for record in caplog.records] == ["scan: cpu tensors take the cpu backend"]
