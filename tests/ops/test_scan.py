"""Every backend against the float64 loop: shapes, gates, dtypes, resets, packing, gradients, errors."""

import os
import shutil
import threading
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from allpairspy import AllPairs
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sioconv.ops import scan, step

BACKENDS = ("reference", "matrix", "chunked", "cpu")
MATRIX_ENTRIES = 2_000_000  # larger cases would take the matrix backend gigabytes
LENGTHS = (0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 500, 1000, 2048)
CHANNELS = (1, 3, 32, 60, 64, 128)
HEADS = (1, 3, 8)
GATES: tuple[float | None, ...] = (0.0, -1e-7, -1e-3, -5.0, -90.0, -1e4, None)  # None: a mixture of all
LIMITS = {
    torch.float32: (1e-6, 1e-5),
    torch.float64: (1e-13, 1e-13),
    torch.bfloat16: (4e-3, 8e-3),
    torch.float16: (1e-3, 2e-3),
}
MATRIX = (LENGTHS, GATES, CHANNELS, LIMITS, HEADS, (False, True))


def make_inputs(
    length: int, heads: int, channels: int, per_channel: bool, gate: float | None, seed: int = 0, batch: int = 2
) -> dict[str, Tensor]:
    """Inputs in float64, exactly representable in float32."""
    random = torch.Generator().manual_seed(seed)
    shape = (batch, length, heads, channels) if per_channel else (batch, length, heads)
    if gate is None:
        values = torch.tensor([value for value in GATES if value is not None])
        log_a = values[torch.randint(len(values), shape, generator=random)]
    else:
        log_a = torch.full(shape, gate)
    tensors = {
        "z": torch.randn(batch, length, heads, channels, generator=random),
        "log_a": log_a,
        "initial_state": torch.randn(batch, heads, channels, generator=random),
        "reset_state": torch.randn(heads, channels, generator=random),
        "weight": torch.randn(batch, length, heads, channels, generator=random),
    }
    return {name: value.double() for name, value in tensors.items()}


def run_all(
    backend: str, inputs: dict[str, Tensor], dtype: torch.dtype, reset: Tensor | None, **options: Any
) -> list[Tensor]:
    """c, the final state, and the gradients of z, log_a, initial_state (and reset_state) of a loss on both."""
    state = torch.float64 if dtype == torch.float64 else torch.float32
    z = inputs["z"].to(dtype, copy=True).requires_grad_()
    leaves = [
        z,
        *(inputs[name].to(state, copy=True).requires_grad_() for name in ("log_a", "initial_state", "reset_state")),
    ]
    options |= {} if reset is None else {"reset": reset, "reset_state": leaves[3]}
    c, final = scan(*leaves[:3], output_final_state=True, backend=backend, **options)
    assert final is not None
    ((c.double() * inputs["weight"]).sum() + final.double().square().sum()).backward()
    used = leaves if reset is not None else leaves[:3]
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in used]
    return [c.detach(), final.detach(), *gradients]


def error(found: Tensor, expected: Tensor) -> float:
    """Root-mean-square error relative to the expected values' root mean square."""
    assert found.shape == expected.shape
    if found.numel() == 0:
        return 0.0
    assert found.isfinite().all()
    return float((found.double() - expected).norm() / expected.norm().clamp(min=1e-30))


def check_case(case: tuple[int, float | None, int, torch.dtype, int, bool]) -> None:
    length, gate, channels, dtype, heads, per_channel = case
    inputs = make_inputs(length, heads, channels, per_channel, gate)
    inputs["z"] = inputs["z"].to(dtype).double()  # the rounding of the input itself isn't the scan's
    reset = torch.rand(2, length, generator=torch.Generator().manual_seed(1)) < 0.05
    expected = run_all("reference", inputs, torch.float64, reset)
    entries = 2 * length**2 * heads * (channels if per_channel else 1)
    for backend in ("chunked", "cpu", *(["matrix"] if entries <= MATRIX_ENTRIES else [])):
        forward, backward = LIMITS[dtype]
        forward = max(forward, 1e-5) if backend == "chunked" else forward
        found = run_all(backend, inputs, dtype, reset)
        names = ("c", "final", "z", "log_a", "initial_state", "reset_state")
        for name, one, other in zip(names, found, expected, strict=True):
            if other.norm() > 1e-30:  # a gradient that underflows has no relative error
                assert error(one, other) <= (forward if name in ("c", "final") else backward), (backend, name)


@pytest.mark.parametrize("case", [tuple(case) for case in AllPairs(list(map(list, MATRIX)))], ids=str)
def test_every_pair_of_values_together(case: Any) -> None:
    check_case(case)


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
def test_every_case(length: int) -> None:
    for case in product((length,), *MATRIX[1:]):
        check_case(case)


@pytest.mark.parametrize("backend", ["matrix", "chunked", "cpu"])
@pytest.mark.parametrize("where", ["first", "last", "everywhere", "nowhere"])
def test_resets_at_the_ends_and_everywhere(backend: str, where: str) -> None:
    reset = torch.zeros(2, 70, dtype=torch.bool)
    reset[:, {"first": 0, "last": -1, "everywhere": slice(None), "nowhere": slice(0)}[where]] = True
    inputs = make_inputs(70, 3, 5, False, None)
    for one, other in zip(
        run_all(backend, inputs, torch.float64, reset), run_all("reference", inputs, torch.float64, reset), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_sequences_equal_separate_ones(backend: str) -> None:
    ends = [0, 0, 5, 37, 37, 100]
    inputs = make_inputs(100, 2, 6, False, None, batch=1)
    starts = torch.randn(5, 2, 6, dtype=torch.float64, requires_grad=True)
    z = inputs["z"].requires_grad_()
    c, final = scan(z, inputs["log_a"], starts, cu_seqlens=torch.tensor(ends), output_final_state=True, backend=backend)
    assert final is not None
    (c.square().sum() + final.square().sum()).backward()
    packed = z.grad, starts.grad
    z.grad = starts.grad = None
    for n, (start, stop) in enumerate(pairwise(ends)):
        span = slice(start, stop)
        one, last = scan(
            z[:, span], inputs["log_a"][:, span], starts[n : n + 1], output_final_state=True, backend=backend
        )
        assert last is not None
        torch.testing.assert_close(one, c[:, span])
        torch.testing.assert_close(last, final[n : n + 1])
        (one.square().sum() + last.square().sum()).backward()
    torch.testing.assert_close(packed, (z.grad, starts.grad))


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    length=st.integers(0, 80),
    cut=st.integers(0, 80),
    heads=st.integers(1, 3),
    channels=st.integers(1, 70),
    per_channel=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_sequence_can_be_cut_anywhere(
    backend: str, length: int, cut: int, heads: int, channels: int, per_channel: bool, seed: int
) -> None:
    cut = min(cut, length)
    inputs = make_inputs(length, heads, channels, per_channel, None, seed)
    z, log_a, start = inputs["z"], inputs["log_a"], inputs["initial_state"]
    reset = torch.rand(2, length, generator=torch.Generator().manual_seed(seed)) < 0.1
    options = {"reset_state": inputs["reset_state"], "output_final_state": True, "backend": backend}
    whole, last = scan(z, log_a, start, reset=reset, **options)
    left, middle = scan(z[:, :cut], log_a[:, :cut], start, reset=reset[:, :cut], **options)
    right, end = scan(z[:, cut:], log_a[:, cut:], middle, reset=reset[:, cut:], **options)
    torch.testing.assert_close(torch.cat([left, right], dim=1), whole, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(end, last, rtol=1e-11, atol=1e-11)


def test_step_equals_scan() -> None:
    inputs = make_inputs(20, 3, 5, True, None)
    c, final = scan(inputs["z"], inputs["log_a"], inputs["initial_state"], output_final_state=True)
    state = inputs["initial_state"]
    for t in range(20):
        out, state = step(inputs["z"][:, t], inputs["log_a"][:, t], state)
        torch.testing.assert_close(out, c[:, t])
    torch.testing.assert_close(state, final)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_in_float64(backend: str, per_channel: bool) -> None:
    inputs = make_inputs(6, 2, 3, per_channel, -0.5)
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[0, 2] = reset[1, 0] = True
    leaves = [inputs[name].requires_grad_() for name in ("z", "log_a", "initial_state", "reset_state")]

    def call(z: Tensor, log_a: Tensor, start: Tensor, again: Tensor) -> tuple[Tensor, Tensor]:
        c, final = scan(z, log_a, start, reset=reset, reset_state=again, output_final_state=True, backend=backend)
        assert final is not None
        return c, final

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_non_contiguous_inputs_and_poisoned_memory() -> None:
    inputs = make_inputs(40, 3, 6, False, None)
    expected = run_all("cpu", inputs, torch.float32, None)
    turned = {name: value.transpose(0, -1).contiguous().transpose(0, -1) for name, value in inputs.items()}
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)  # empty tensors are then filled with NaN
    try:
        assert filled
        found = run_all("cpu", turned, torch.float32, None)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_number_of_threads_changes_no_bit() -> None:
    inputs = make_inputs(300, 8, 70, False, None)
    reset = torch.rand(2, 300) < 0.02
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(run_all("cpu", inputs, torch.float32, reset))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_three_python_threads_at_once() -> None:
    inputs = make_inputs(200, 4, 32, False, None)
    expected = run_all("cpu", inputs, torch.float32, None)
    results: list[list[Tensor]] = []

    def work() -> None:
        results.extend(run_all("cpu", inputs, torch.float32, None) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 60
    for found in results:
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_can_scan() -> None:
    inputs = make_inputs(200, 4, 32, False, None)
    z, log_a = inputs["z"].float(), inputs["log_a"].float()
    expected = scan(z, log_a, backend="cpu")[0].numpy()
    child = os.fork()
    if child == 0:  # the child says whether it got the same through its exit code
        os._exit(0 if (scan(z, log_a, backend="cpu")[0].numpy() == expected).all() else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_operator_is_registered_as_torch_wants(per_channel: bool) -> None:
    inputs = make_inputs(9, 2, 3, per_channel, -0.5)
    log_a = inputs["log_a"] if per_channel else inputs["log_a"].unsqueeze(-1)
    reset = torch.zeros(2, 9, dtype=torch.bool)
    leaves = [value.clone().requires_grad_() for value in (inputs["z"], log_a, inputs["initial_state"])]
    arguments = (*leaves, reset, inputs["reset_state"].clone().requires_grad_(), None)
    torch.library.opcheck(torch.ops.sioconv.scan_cpu.default, arguments)


def test_a_compiled_graph_stays_whole() -> None:
    def call(z: Tensor, log_a: Tensor) -> Tensor:
        return scan(z * 2, log_a)[0].sin()

    inputs = make_inputs(30, 2, 4, False, -0.1)
    z, log_a = inputs["z"].float().requires_grad_(), inputs["log_a"].float().requires_grad_()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(z, log_a).sum(), (z, log_a))
    torch.testing.assert_close(found, torch.autograd.grad(call(z, log_a).sum(), (z, log_a)))


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor compiles with g++, which isn't here")
def test_inductor_compiles_what_surrounds_the_scan() -> None:
    def call(z: Tensor, log_a: Tensor) -> Tensor:
        return scan(z * 2, log_a)[0].sin()

    inputs = make_inputs(30, 2, 4, False, -0.1)
    z, log_a = inputs["z"].float(), inputs["log_a"].float()
    torch.testing.assert_close(torch.compile(call, fullgraph=True)(z, log_a), call(z, log_a))


@pytest.mark.parametrize("gate", [-1e-6, -1e-3, None])
def test_a_million_steps_stay_exact(gate: float | None) -> None:
    """Against float64 in plain Python, forward and backward, with the slowest gates and with a mixture."""
    length = 1_000_000
    random = torch.Generator().manual_seed(0)
    z, slope = torch.randn(2, 1, length, 1, 1, generator=random)
    log_a = (
        -(10 ** (-7 * torch.rand(1, length, 1, generator=random))) if gate is None else torch.full((1, length, 1), gate)
    )
    decays = log_a.double().exp().flatten().tolist()
    state, c = 0.0, []
    for decay, added in zip(decays, z.flatten().tolist(), strict=True):
        state = decay * state + added
        c.append(state)
    state, dc, dlog_a = 0.0, [], []
    before = [0.0, *c[:-1]]
    for t in range(length - 1, -1, -1):
        state = (decays[t + 1] if t + 1 < length else 1.0) * state + slope[0, t, 0, 0].item()
        dc.append(state)
        dlog_a.append(decays[t] * state * before[t])
    expected = [torch.tensor(values, dtype=torch.float64) for values in (c, dc[::-1], dlog_a[::-1])]
    leaves = z.requires_grad_(), log_a.requires_grad_()
    found, _ = scan(*leaves, backend="cpu")
    slopes = torch.autograd.grad(found, leaves, slope)
    for one, other, limit in zip((found.detach(), *slopes), expected, (1e-6, 1e-5, 1e-5), strict=True):
        assert error(one.flatten(), other) <= limit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": torch.zeros(2, 3, 4)}, "z"),
        ({"log_a": torch.zeros(2, 3, 5)}, "log_a"),
        ({"log_a": torch.zeros(2, 3, 4, dtype=torch.bfloat16)}, "log_a"),
        ({"initial_state": torch.zeros(3, 4, 5)}, "initial_state"),
        ({"reset": torch.zeros(2, 4, dtype=torch.bool)}, "reset"),
        ({"reset": torch.zeros(2, 3)}, "reset"),
        ({"reset_state": torch.zeros(5, 4)}, "reset_state"),
        ({"cu_seqlens": torch.tensor([0, 3])}, "cu_seqlens"),
        ({"backend": "fastest"}, "backend"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"z": torch.zeros(2, 3, 4, 5), "log_a": torch.zeros(2, 3, 4)} | change
    with pytest.raises((TypeError, ValueError), match=message):
        scan(**arguments)


def test_a_backend_that_cannot_run_says_so() -> None:
    with pytest.raises(ValueError, match=r"cpu.*meta"):
        scan(torch.zeros(1, 2, 1, 1, device="meta"), torch.zeros(1, 2, 1, device="meta"), backend="cpu")
