"""`scan_norm_gate` against the float64 composition of scan, layer normalisation and product."""

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from allpairspy import AllPairs
from torch import Tensor

from sioconv.ops import scan, scan_norm_gate

BACKENDS = ("reference", "chunked", "cpu")
LENGTHS = (1, 2, 63, 64, 65, 200, 500)
CHANNELS = (1, 3, 32, 60, 64, 128)
GATES: tuple[float | None, ...] = (0.0, -1e-7, -1e-3, -5.0, -90.0, -1e4, None)  # None: a mixture of all
LIMITS = {
    torch.float32: (1e-6, 1e-5),
    torch.float64: (1e-13, 1e-12),
    torch.bfloat16: (4e-3, 1e-2),
    torch.float16: (1e-3, 2e-3),
}
EPS = 1e-3
NAMES = ("z", "log_a", "norm_weight", "norm_bias", "gate", "initial_state", "reset_state")
# Length, value of the forget gates, channels, dtype of z, heads, forget gates per channel, with a gate branch.
MATRIX = (LENGTHS, GATES, CHANNELS, LIMITS, (1, 3, 8), (False, True), (False, True))


def make_inputs(
    length: int, heads: int, channels: int, per_channel: bool, value: float | None, dtype: torch.dtype, batch: int = 2
) -> dict[str, Tensor]:
    """Inputs in float64, exactly representable in `dtype` or float32."""
    random = torch.Generator().manual_seed(0)
    shape = (batch, length, heads, channels)
    gates = shape if per_channel else shape[:3]
    if value is None:
        values = torch.tensor([each for each in GATES if each is not None])
        log_a = values[torch.randint(len(values), gates, generator=random)]
    else:
        log_a = torch.full(gates, value)
    tensors = {
        "z": torch.randn(shape, generator=random).to(dtype),
        "log_a": log_a,
        "norm_weight": torch.randn(heads, generator=random),
        "norm_bias": torch.randn(heads, generator=random),
        "gate": torch.randn(shape, generator=random).to(dtype),
        "initial_state": torch.randn(batch, heads, channels, generator=random),
        "reset_state": torch.randn(heads, channels, generator=random),
        "weight": torch.randn(shape, generator=random).to(dtype),
    }
    return {name: each.double() for name, each in tensors.items()}


def make_leaves(inputs: dict[str, Tensor], dtype: torch.dtype, without: tuple[str, ...]) -> dict[str, Tensor]:
    state = torch.float64 if dtype == torch.float64 else torch.float32
    return {
        name: inputs[name].to(dtype if name in ("z", "gate") else state, copy=True).requires_grad_()
        for name in NAMES
        if name not in without
    }


def run_all(backend: str, inputs: dict[str, Tensor], dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
    """y, the final state, and the gradients of a loss on both; `without` names what isn't given."""
    leaves = make_leaves(inputs, dtype, options.pop("without", ()))
    y, final = scan_norm_gate(**leaves, eps=EPS, output_final_state=True, backend=backend, **options)
    assert final is not None
    ((y.double() * inputs["weight"]).sum() + final.double().square().sum()).backward()
    slopes = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    return {"y": y.detach(), "final": final.detach()} | slopes


def by_the_formula(inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """The same in float64, normalised as written in the docstring."""
    leaves = make_leaves(inputs, torch.float64, options.pop("without", ()))
    own = {name: leaves[name] for name in ("initial_state", "reset_state") if name in leaves}
    c, final = scan(leaves["z"], leaves["log_a"], **own, output_final_state=True, backend="reference", **options)
    assert final is not None
    off = c - c.mean(-1, keepdim=True)
    normed = off / (off.square().mean(-1, keepdim=True) + EPS).sqrt()
    y = normed * leaves["norm_weight"].unsqueeze(-1) + leaves["norm_bias"].unsqueeze(-1)
    y = y * leaves["gate"] if "gate" in leaves else y
    ((y * inputs["weight"]).sum() + final.square().sum()).backward()
    slopes = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    return {"y": y.detach(), "final": final.detach()} | slopes


def check(found: dict[str, Tensor], expected: dict[str, Tensor], limits: tuple[float, float], note: Any) -> None:
    for name, other in expected.items():
        one = found[name]
        assert one.shape == other.shape
        assert one.isfinite().all(), (note, name)
        forward, backward = limits
        limit = forward if name in ("y", "final") else backward
        # A gradient that is 0 but for rounding, as with one channel, has no relative error; nor has a sum whose
        # summands, each about 1, happen to cancel each other.
        least = 1e-3 if name not in ("norm_weight", "norm_bias") else (expected["y"][..., 0, :].numel()) ** 0.5
        scale = max(float(other.norm()), least * one.numel() ** 0.5)
        assert float((one.double() - other).norm()) <= limit * scale, (note, name)


def check_case(case: tuple[int, float | None, int, torch.dtype, int, bool, bool]) -> None:
    length, value, channels, dtype, heads, per_channel, gated = case
    inputs = make_inputs(length, heads, channels, per_channel, value, dtype)
    options = {
        "without": () if gated else ("gate",),
        "reset": torch.rand(2, length, generator=torch.Generator().manual_seed(1)) < 0.05,
    }
    expected = by_the_formula(inputs, **options)
    for backend in ("chunked", "cpu"):
        forward, backward = LIMITS[dtype]
        limits = (max(forward, 1e-5), max(backward, 1e-4)) if backend == "chunked" else (forward, backward)
        limits = LIMITS[dtype] if dtype == torch.float64 else limits
        check(run_all(backend, inputs, dtype, **options), expected, limits, (backend, case))


@pytest.mark.parametrize("case", [tuple(case) for case in AllPairs(list(map(list, MATRIX)))], ids=str)
def test_every_pair_of_values_together(case: Any) -> None:
    check_case(case)


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
def test_every_case(length: int) -> None:
    for case in product((length,), *MATRIX[1:]):
        check_case(case)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", ["first", "last", "everywhere", "nowhere", "none"])
def test_resets_and_what_may_be_left_out(backend: str, where: str) -> None:
    inputs = make_inputs(70, 3, 5, False, None, torch.float64)
    options: dict[str, Any] = {"without": ("initial_state", "reset_state", "gate")}
    if where != "none":
        reset = torch.zeros(2, 70, dtype=torch.bool)
        reset[:, {"first": 0, "last": -1, "everywhere": slice(None), "nowhere": slice(0)}[where]] = True
        options = {"reset": reset}
    found = run_all(backend, inputs, torch.float64, **options)
    check(found, by_the_formula(inputs, **options), (1e-12, 1e-11), where)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_sequences_equal_separate_ones(backend: str) -> None:
    ends = [0, 0, 5, 133, 133, 200]
    inputs = make_inputs(200, 2, 6, False, None, torch.float64, batch=1)
    inputs["initial_state"] = torch.randn(5, 2, 6, dtype=torch.float64)
    packed = run_all(
        backend, inputs, torch.float64, cu_seqlens=torch.tensor(ends), reset=torch.zeros(1, 200, dtype=torch.bool)
    )
    separate = []
    for n, (start, stop) in enumerate(pairwise(ends)):
        in_time = {name: inputs[name][:, start:stop] for name in ("z", "log_a", "gate", "weight")}
        own = inputs | in_time | {"initial_state": inputs["initial_state"][n : n + 1]}
        separate.append(run_all(backend, own, torch.float64))
    for name, found in packed.items():
        parts = [each[name] for each in separate]
        if name in ("y", "z", "log_a", "gate"):
            expected = torch.cat(parts, dim=1)
        elif name in ("final", "initial_state"):
            expected = torch.cat(parts)
        else:
            expected = sum(parts, torch.zeros_like(parts[0]))
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 5, 2, 3), (2, 5, 0, 3), (2, 5, 2, 0), (2, 0, 2, 3)])
def test_empty_tensors(backend: str, shape: tuple[int, int, int, int]) -> None:
    z, gate = torch.zeros(shape, requires_grad=True), torch.zeros(shape, requires_grad=True)
    log_a, state = torch.zeros(shape[:3], requires_grad=True), torch.ones(shape[0], *shape[2:], requires_grad=True)
    weight, bias = torch.ones(shape[2], requires_grad=True), torch.ones(shape[2], requires_grad=True)
    y, final = scan_norm_gate(z, log_a, weight, bias, EPS, gate, state, output_final_state=True, backend=backend)
    assert final is not None
    leaves = (z, log_a, weight, bias, gate, state)
    slopes = torch.autograd.grad(y.sum() + final.sum(), leaves)
    assert y.shape == z.shape
    assert [slope.shape for slope in slopes] == [leaf.shape for leaf in leaves]
    torch.testing.assert_close(slopes[-1], torch.ones_like(state))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_in_float64(backend: str, per_channel: bool) -> None:
    inputs = make_inputs(6, 2, 3, per_channel, -0.5, torch.float64)
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[0, 2] = reset[1, 0] = True
    leaves = [inputs[name].requires_grad_() for name in NAMES]

    def call(z: Tensor, log_a: Tensor, weight: Tensor, bias: Tensor, gate: Tensor, start: Tensor, again: Tensor) -> Any:
        return scan_norm_gate(
            z, log_a, weight, bias, EPS, gate, start, reset=reset, reset_state=again, output_final_state=True,
            backend=backend,
        )  # fmt: skip

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_the_number_of_threads_changes_no_bit() -> None:
    inputs = make_inputs(300, 8, 70, False, None, torch.float32)
    reset = torch.rand(2, 300, generator=torch.Generator().manual_seed(1)) < 0.02
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 8):
            torch.set_num_threads(threads)
            results.append(run_all("cpu", inputs, torch.float32, reset=reset))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


def test_non_contiguous_inputs_and_poisoned_memory() -> None:
    inputs = make_inputs(140, 3, 6, False, None, torch.float32)
    expected = run_all("cpu", inputs, torch.float32)
    turned = {name: value.transpose(0, -1).contiguous().transpose(0, -1) for name, value in inputs.items()}
    torch.use_deterministic_algorithms(True)  # empty tensors are then filled with NaN
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        found = run_all("cpu", turned, torch.float32)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("gated", [False, True])
def test_the_operator_is_registered_as_torch_wants(gated: bool) -> None:
    inputs = make_inputs(70, 2, 3, True, -0.5, torch.float64)
    names = ("z", "log_a", "initial_state", "norm_weight", "norm_bias")
    leaves = [inputs[name].requires_grad_() for name in names]
    gate = inputs["gate"].requires_grad_() if gated else None
    reset = torch.zeros(2, 70, dtype=torch.bool) if gated else None
    arguments = (*leaves, EPS, gate, reset, inputs["reset_state"].requires_grad_() if gated else None, None)
    torch.library.opcheck(torch.ops.sioconv.mix_cpu.default, arguments)


def test_a_compiled_graph_stays_whole() -> None:
    inputs = make_inputs(70, 2, 4, False, -0.1, torch.float32)
    leaves = [inputs[name].float().requires_grad_() for name in NAMES[:5]]

    def call(z: Tensor, log_a: Tensor, weight: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
        return scan_norm_gate(z * 2, log_a, weight, bias, EPS, gate)[0].sin()

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*leaves).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad(call(*leaves).sum(), leaves))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_weight": torch.zeros(5)}, "norm_weight"),
        ({"norm_bias": torch.zeros(4, dtype=torch.float64)}, "norm_bias"),
        ({"gate": torch.zeros(2, 3, 4)}, "gate"),
        ({"gate": torch.zeros(2, 3, 4, 5, dtype=torch.bfloat16)}, "gate"),
        ({"eps": 0.0}, "eps"),
        ({"log_a": torch.zeros(2, 3, 5)}, "log_a"),
        ({"backend": "fastest"}, "backend"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "z": torch.zeros(2, 3, 4, 5),
        "log_a": torch.zeros(2, 3, 4),
        "norm_weight": torch.ones(4),
        "norm_bias": torch.zeros(4),
        "eps": EPS,
    }
    with pytest.raises((TypeError, ValueError), match=message):
        scan_norm_gate(**arguments | change)
