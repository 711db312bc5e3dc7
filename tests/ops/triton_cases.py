"""The triton backend against the float64 loop, in small sizes. `test_triton.py` runs this file in processes of its own.

With TRITON_INTERPRET=1 Triton interprets the kernels on the processor, which takes 10 ms a step; without, they run
on a GPU. Tiles and chunks are cut small, so that short sequences have several of both.
"""

import os
from itertools import pairwise
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from sioconv.ops import scan
from sioconv.ops.triton import scan as triton_scan
from sioconv.ops.triton.kernels import _decays
from tests.ops.eager.test_from_zero import Case, check_isolation, of_scan
from tests.ops.test_scan import GATES, LIMITS, error, make_inputs, run_all

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
# The interpreter computes with numpy, which warns of what a kernel computes and then doesn't use.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
NAMES = ("c", "final", "z", "log_a", "initial_state", "reset_state")


@pytest.fixture(autouse=True)
def _small_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into(monkeypatch, 8)


def cut_into(monkeypatch: pytest.MonkeyPatch, chunk_steps: int) -> None:
    def plan(shape: tuple[int, ...], _dtype: torch.dtype, _multiprocessors: int) -> triton_scan.Plan:
        return triton_scan.Plan(min(32, triton.next_power_of_2(shape[3])), chunk_steps, -(-shape[1] // chunk_steps))

    monkeypatch.setattr(triton_scan, "STEPS", 4)
    monkeypatch.setattr(triton_scan, "plan", plan)


def run_triton(inputs: dict[str, Tensor], dtype: torch.dtype, reset: Tensor | None, **options: Any) -> list[Tensor]:
    there = {name: value.to(DEVICE) for name, value in inputs.items()}
    options = {name: value.to(DEVICE) for name, value in options.items()}
    reset = None if reset is None else reset.to(DEVICE)
    return [value.cpu() for value in run_all("triton", there, dtype, reset, **options)]


def check(inputs: dict[str, Tensor], dtype: torch.dtype, reset: Tensor | None, **options: Any) -> None:
    inputs["z"] = inputs["z"].to(dtype).double()  # the rounding of the input itself isn't the scan's
    expected = run_all("reference", inputs, torch.float64, reset, **options)
    found = run_triton(inputs, dtype, reset, **options)
    forward, backward = LIMITS[dtype]
    for name, one, other in zip(NAMES, found, expected, strict=False):
        if other.norm() > 1e-30:  # a gradient that underflows has no relative error
            assert error(one, other) <= (forward if name in ("c", "final") else backward), name


def some_resets(batch: int, length: int) -> Tensor:
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(length)) < 0.1


# Every gate in one of the two shapes; the others are the slow half.
@pytest.mark.parametrize(
    ("gate", "per_channel"),
    [
        pytest.param(gate, per_channel, marks=[pytest.mark.slow] if per_channel != (at % 2 == 0) else [])
        for at, gate in enumerate(GATES)
        for per_channel in (False, True)
    ],
)
def test_gates(gate: float | None, per_channel: bool) -> None:
    check(make_inputs(21, 1, 3, per_channel, gate, batch=1), torch.float32, None)


@pytest.mark.parametrize(
    ("length", "heads", "channels", "per_channel"),
    [(1, 2, 3, False), (4, 1, 60, True), (5, 1, 1, True), (9, 2, 32, False), (16, 1, 60, False)],
)
def test_shapes(length: int, heads: int, channels: int, per_channel: bool) -> None:
    check(make_inputs(length, heads, channels, per_channel, None), torch.float32, some_resets(2, length))


def test_the_cut_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """130 positions are two chunks where there are few programs, the second far from whole."""
    monkeypatch.undo()
    check(make_inputs(130, 1, 3, False, None, batch=1), torch.float32, None)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype, per_channel: bool) -> None:
    check(make_inputs(21, 1, 5, per_channel, None, batch=1), dtype, some_resets(1, 21))


@pytest.mark.parametrize("where", ["first", "last", "everywhere", "nowhere"])
def test_resets_at_the_ends_and_everywhere(where: str) -> None:
    reset = torch.zeros(1, 18, dtype=torch.bool)
    reset[:, {"first": 0, "last": -1, "everywhere": slice(None), "nowhere": slice(0)}[where]] = True
    check(make_inputs(18, 1, 3, where == "first", None, batch=1), torch.float64, reset)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_packed_sequences_of_which_some_are_empty(reset: bool, dtype: torch.dtype) -> None:
    ends = torch.tensor([0, 0, 5, 8, 8, 29, 30, 30], dtype=dtype)
    inputs = make_inputs(30, 1, 3, reset, None, batch=1)
    inputs["initial_state"] = torch.randn(7, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    check(inputs, torch.float32, some_resets(1, 30) if reset else None, cu_seqlens=ends)


def test_one_pass_and_three_differ_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(30, 1, 3, False, -1e-3, batch=1)
    three = run_triton(inputs, torch.float32, None)
    again = run_triton(inputs, torch.float32, None)
    cut_into(monkeypatch, 32)
    one = run_triton(inputs, torch.float32, None)
    torch.testing.assert_close(again, three, rtol=0, atol=0)
    assert max(error(left, right.double()) for left, right in zip(one, three, strict=True)) <= 1e-6


def test_a_sequence_can_be_cut_anywhere() -> None:
    inputs = {name: value.to(DEVICE) for name, value in make_inputs(19, 1, 3, False, None, batch=1).items()}
    z, log_a, start = inputs["z"], inputs["log_a"], inputs["initial_state"]
    options: dict[str, Any] = {"output_final_state": True, "backend": "triton"}
    whole, last = scan(z, log_a, start, **options)
    for cut in (0, 1, 8):
        left, middle = scan(z[:, :cut], log_a[:, :cut], start, **options)
        right, end = scan(z[:, cut:], log_a[:, cut:], middle, **options)
        torch.testing.assert_close(torch.cat([left, right], dim=1), whole, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(end, last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("only", ["c", "final"])
def test_gradients_of_one_output_alone(only: str) -> None:
    inputs = make_inputs(10, 1, 3, False, -0.1)

    def differentiate(backend: str, device: str) -> tuple[Tensor, ...]:
        leaves = [inputs[name].to(device, copy=True).requires_grad_() for name in ("z", "log_a", "initial_state")]
        c, final = scan(*leaves, output_final_state=True, backend=backend)
        assert final is not None
        return tuple(one.cpu() for one in torch.autograd.grad((c if only == "c" else final).square().sum(), leaves))

    torch.testing.assert_close(differentiate("triton", DEVICE), differentiate("reference", "cpu"))


def test_non_contiguous_inputs_and_poisoned_memory() -> None:
    inputs = make_inputs(18, 1, 3, False, None, batch=1)
    expected = run_triton(inputs, torch.float32, some_resets(1, 18))
    turned = {name: value.transpose(0, -1).contiguous().transpose(0, -1) for name, value in inputs.items()}
    torch.use_deterministic_algorithms(True)  # empty tensors are then filled with NaN
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        found = run_triton(turned, torch.float32, some_resets(1, 18))
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_what_is_not_finite_stays_in_its_document() -> None:
    z = torch.randn(1, 30, 1, 3, device=DEVICE)
    z[0, :10] = torch.nan
    z.requires_grad_()
    reset = torch.zeros(1, 30, dtype=torch.bool, device=DEVICE)
    reset[0, 10] = True
    c, _ = scan(z, -torch.rand(1, 30, 1, device=DEVICE), reset=reset, backend="triton")
    (slope,) = torch.autograd.grad(c[:, :20].sum() + c[:, 20:].square().sum(), z)
    assert c[:, :10].isnan().all()
    assert c[:, 10:].isfinite().all()
    assert slope[:, 10:].isfinite().all()


def test_gates_that_are_shut() -> None:
    """log_a = -inf is a decay of zero, also where the logs of a chunk are added up."""
    z, log_a = torch.randn(1, 30, 1, 3, device=DEVICE), torch.full((1, 30, 1), -0.1, device=DEVICE)
    log_a[0, [3, 20]] = -torch.inf
    c, _ = scan(z, log_a, backend="triton")
    parts = [scan(z[:, a:b], log_a[:, a:b].clamp(min=-1e4), backend="triton")[0] for a, b in pairwise([0, 3, 20, 30])]
    torch.testing.assert_close(c, torch.cat(parts, dim=1))


@pytest.mark.parametrize("shape", [(0, 5, 2, 3), (2, 5, 0, 3), (2, 5, 2, 0), (2, 0, 2, 3)])
def test_empty_tensors(shape: tuple[int, int, int, int]) -> None:
    z = torch.zeros(shape, requires_grad=True, device=DEVICE)
    state = torch.ones(shape[0], *shape[2:], requires_grad=True, device=DEVICE)
    c, final = scan(z, torch.zeros(shape[:3], device=DEVICE), state, output_final_state=True, backend="triton")
    assert final is not None
    slopes = torch.autograd.grad(c.sum() + final.sum(), (z, state))
    assert c.shape == z.shape
    torch.testing.assert_close(slopes[1], torch.ones_like(state))


@pytest.mark.parametrize(
    "case",
    [
        Case((11, 11, 11), False, 0.3, False, ("z", "weight"), float("nan"), 1),
        Case((5, 0, 9), True, 0.0, True, ("z", "log_a", "initial_state", "weight"), float("nan"), 2),
        Case((12,), False, 0.3, False, ("z", "log_a"), float("inf"), 3),
    ],
)
def test_nothing_that_is_not_finite_reaches_another_document(case: Case) -> None:
    check_isolation(of_scan("triton"), case, DEVICE)


def test_further_derivatives_are_those_of_chunked() -> None:
    """Second ones, gradients that come batched, and forward mode; the kernels run as seldom as that takes."""
    inputs = {name: value.to(DEVICE) for name, value in make_inputs(5, 1, 2, False, -0.5).items()}
    reset = torch.zeros(2, 5, dtype=torch.bool, device=DEVICE)
    reset[0, 2] = True
    names = ("z", "log_a", "initial_state", "reset_state")
    results = []
    for backend in ("triton", "chunked"):
        leaves = [inputs[name].clone().requires_grad_() for name in names]
        options = {"reset": reset, "output_final_state": True, "backend": backend}
        c, final = scan(*leaves[:3], reset_state=leaves[3], **options)
        assert final is not None
        ups = torch.stack([inputs["weight"], 2 * inputs["weight"]])
        batched = torch.autograd.grad(c, leaves, ups, is_grads_batched=True, retain_graph=True)
        loss = (c.square() * inputs["weight"]).sum() + final.square().sum()
        slopes = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(torch.stack([slope.square().sum() for slope in slopes]).sum(), leaves)
        values = tuple(leaf.detach() for leaf in leaves)
        _, tangent = torch.func.jvp(lambda *given: scan(*given[:3], reset_state=given[3], **options), values, values)  # noqa: B023
        results.append([*slopes, *batched, *second, *tangent])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_an_operator_that_kept_nothing_has_no_gradient() -> None:
    z, log_a, state = (torch.zeros(shape, device=DEVICE) for shape in ((1, 4, 1, 2), (1, 4, 1, 1), (1, 1, 2)))
    c, *_ = torch.ops.sioconv.scan_triton(z.requires_grad_(), log_a, state, None, None, None, False)
    with pytest.raises(RuntimeError, match="keep"):
        c.sum().backward()


def test_the_operator_is_registered_as_torch_wants() -> None:
    inputs = {name: value.to(DEVICE) for name, value in make_inputs(5, 1, 2, True, -0.5, batch=1).items()}
    leaves = [inputs[name].clone().requires_grad_() for name in ("z", "log_a", "initial_state")]
    reset = torch.zeros(1, 5, dtype=torch.bool, device=DEVICE)
    arguments = (*leaves, reset, inputs["reset_state"].clone().requires_grad_(), None, True)
    torch.library.opcheck(torch.ops.sioconv.scan_triton.default, arguments)


def test_a_compiled_graph_stays_whole() -> None:
    def call(z: Tensor, log_a: Tensor) -> Tensor:
        return scan(z * 2, log_a, backend="triton")[0].sin()

    inputs = {name: value.float().to(DEVICE) for name, value in make_inputs(10, 1, 4, False, -0.1).items()}
    z, log_a = inputs["z"].requires_grad_(), inputs["log_a"].requires_grad_()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(z, log_a).sum(), (z, log_a))
    torch.testing.assert_close(found, torch.autograd.grad(call(z, log_a).sum(), (z, log_a)))


def test_boundaries_that_would_leave_the_memory_are_refused_by_the_operator_itself() -> None:
    z, log_a, state = (torch.zeros(shape, device=DEVICE) for shape in ((1, 4, 1, 2), (1, 4, 1, 1), (1, 1, 2)))
    with pytest.raises(ValueError, match="cu_seqlens"):
        torch.ops.sioconv.scan_triton(z, log_a, state, None, None, torch.tensor([0, 400], device=DEVICE), False)


@triton.jit
def _decays_of(gates, a, part, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    one, other = _decays((tl.load(gates + at),), 1)[0]
    tl.store(a + at, one)
    tl.store(part + at, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_decays(dtype: torch.dtype) -> None:
    slow, fast = -torch.logspace(-12, -0.31, 2048, dtype=dtype), -torch.logspace(-0.29, 1.5, 2048, dtype=dtype)
    log_a = torch.cat([slow, fast]).to(DEVICE)
    a, part = torch.empty_like(log_a), torch.empty_like(log_a)
    _decays_of[(1,)](log_a, a, part, SIZE=4096)
    exact = log_a.cpu().double()
    limits = {"a": 4e-6, "part": 3e-7} if dtype == torch.float32 else {"a": 1e-14, "part": 1e-15}
    assert ((a.cpu().double() - exact.exp()) / exact.exp()).abs().max() <= limits["a"]
    errors = (part.cpu().double() - exact.expm1())[:2048] / exact.expm1()[:2048]
    assert errors.abs().max() <= limits["part"]
    torch.testing.assert_close(part[2048:], a[2048:], rtol=0, atol=0)


@pytest.mark.skipif(DEVICE == "cpu", reason="a million steps take the interpreter hours")
@pytest.mark.parametrize("gate", [-1e-7, -1e-6, -1e-3, -0.52])
def test_a_million_steps(monkeypatch: pytest.MonkeyPatch, gate: float) -> None:
    monkeypatch.undo()  # the cut that the device takes
    inputs = make_inputs(1_000_000, 1, 4, False, gate, batch=1)
    there = {name: inputs[name].to(DEVICE) for name in ("z", "log_a")}
    expected, _ = scan(inputs["z"], inputs["log_a"], backend="cpu")
    c, _ = scan(there["z"].float(), there["log_a"].float(), backend="triton")
    exact, _ = scan(there["z"], there["log_a"], backend="triton")
    assert error(c.cpu(), expected) <= 1e-6
    assert error(exact.cpu(), expected) <= 1e-12
