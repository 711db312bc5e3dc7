"""Every operator of ours under every kind of derivative that torch has: right, or refused, never silently zero."""

import ast
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

import sioconv.ops
from sioconv.ops import (
    causal_convolution,
    cross_entropy_,
    operators,
    rms_norm,
    scan,
    scan_norm_gate,
    scan_sequence_parallel,
    silu_gate,
)

Function = Callable[..., Any]
# T goes over the end of a chunk of `chunked` and of a block of the kernels only in the tests that aren't gradchecks.
SHAPE = (2, 5, 2, 3)
RESET = torch.tensor([[0, 0, 1, 0, 0], [1, 0, 0, 0, 1]], dtype=torch.bool)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gate(*shape: int) -> Tensor:
    return -torch.rand(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def of_scan(**options: Any) -> Function:
    def call(z: Tensor, log_a: Tensor, start: Tensor, again: Tensor) -> Any:
        reset_state = again if "reset" in options else None
        return scan(z, log_a, start, reset_state=reset_state, output_final_state=True, backend="cpu", **options)

    return call


def of_mix(gated: bool, **options: Any) -> Function:
    def call(z: Tensor, log_a: Tensor, start: Tensor, again: Tensor, *affine: Tensor) -> Any:
        weight, bias, branch = affine
        return scan_norm_gate(
            z, log_a, weight, bias, 1e-3, branch if gated else None, start,
            reset_state=again if "reset" in options else None, output_final_state=True, backend="cpu", **options,
        )  # fmt: skip

    return call


def line(per_channel: bool = False, packed: bool = False) -> tuple[Tensor, ...]:
    rows, steps = (1, 10) if packed else SHAPE[:2]
    log_a = gate(rows, steps, 2, 3) if per_channel else gate(rows, steps, 2)
    return normal(rows, steps, 2, 3), log_a, normal(4 if packed else rows, 2, 3, seed=1), normal(2, 3, seed=2)


PACKED = {"cu_seqlens": torch.tensor([0, 0, 4, 10, 10])}
AFFINE = normal(2, seed=3), normal(2, seed=4), normal(*SHAPE, seed=5)
# The operators whose first part is the key, called as a user does: a function and its differentiable arguments.
CALLS: dict[str, list[tuple[Function, tuple[Tensor, ...]]]] = {
    "scan_cpu": [
        (of_scan(reset=RESET), line()),
        (of_scan(), line(per_channel=True)),
        (of_scan(reset=RESET.view(1, 10), **PACKED), line(per_channel=True, packed=True)),
        (of_scan(**PACKED), line(packed=True)),
    ],
    "mix_cpu": [
        (of_mix(True, reset=RESET), (*line(), *AFFINE)),
        (of_mix(False, **PACKED), (*line(per_channel=True, packed=True), *AFFINE)),
    ],
    "convolution": [
        (lambda *given: causal_convolution(*given, RESET), (normal(2, 5, 3), normal(3, 3, seed=1), normal(2, 3, 2))),
        (lambda x, weight: causal_convolution(x, weight, None, None), (normal(2, 3, 2), normal(2, 2, seed=1))),
    ],
    "silu_gate": [(silu_gate, (normal(3, 4), normal(3, 4, seed=1)))],
    "rms_norm": [(lambda x, weight: rms_norm(x, weight, 1e-3), (normal(3, 4), normal(4, seed=1)))],
}
EACH = [pytest.param(*call, id=f"{name}-{i}") for name, calls in CALLS.items() for i, call in enumerate(calls)]


@pytest.fixture(autouse=True)
def _kernels_whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("convolution", "silu_gate", "rms_norm"):
        monkeypatch.setattr(import_module(f"sioconv.ops.{name}"), "SMALLEST", 0)


def leaves_of(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.clone().requires_grad_() for value in inputs)


def scalar(function: Function) -> Function:
    """The sum of a function's results times weights, so that no gradient is the same everywhere."""

    def call(*inputs: Tensor) -> Tensor:
        results = function(*inputs)
        results = results if isinstance(results, tuple) else (results,)
        parts = [(each.square() * torch.linspace(1, 2, each.numel()).view(each.shape)).sum() for each in results]
        return torch.stack(parts).sum()

    return call


def test_every_operator_is_here() -> None:
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("sioconv::")}
    ours = {name.split("::")[1].removesuffix("_backward") for name in registered}
    elsewhere = {"scan_triton", "linear", "linear_weight_gradient"}  # triton_cases.py, test_linear.py
    assert ours - elsewhere == set(CALLS)


def test_operators_are_registered_in_one_place() -> None:
    """`operator` asks for what stands in for the kernel; torch's own registration doesn't."""
    package = Path(sioconv.__file__).parent
    for path in package.rglob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
        if path.name != "operators.py":
            assert not names & {"custom_op", "triton_op", "Library", "define"}, path


@pytest.mark.parametrize(("function", "inputs"), EACH)
def test_first_derivatives_in_every_mode(function: Function, inputs: tuple[Tensor, ...]) -> None:
    """Reverse, forward, and both batched."""
    assert torch.autograd.gradcheck(
        function, leaves_of(inputs), fast_mode=True, check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip


@pytest.mark.parametrize(("function", "inputs"), EACH)
def test_second_derivatives(function: Function, inputs: tuple[Tensor, ...]) -> None:
    """Reverse over reverse, and forward over reverse."""
    assert torch.autograd.gradgradcheck(
        function, leaves_of(inputs), fast_mode=True, check_fwd_over_rev=True, check_batched_grad=True
    )


# torch's layer_norm, which `mix_cpu` has in plain torch, has a wrong third derivative by itself (2.13).
@pytest.mark.parametrize(("function", "inputs"), [each for each in EACH if not str(each.id).startswith("mix")])
def test_a_third_derivative(function: Function, inputs: tuple[Tensor, ...]) -> None:
    def slopes(*given: Tensor) -> tuple[Tensor, ...]:
        wanted = [value for value in given if value.requires_grad]
        return torch.autograd.grad(scalar(function)(*given), wanted[:1], create_graph=True)

    assert torch.autograd.gradgradcheck(slopes, (*leaves_of(inputs[:1]), *inputs[1:]), fast_mode=True)


@pytest.mark.parametrize(("function", "inputs"), EACH)
def test_transformations_agree_with_autograd(function: Function, inputs: tuple[Tensor, ...]) -> None:
    loss, (first, *others) = scalar(function), inputs
    leaf = first.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf, *others), leaf, create_graph=True)
    torch.testing.assert_close(grad(loss)(first, *others), slope.detach())
    torch.testing.assert_close(jacrev(loss)(first, *others), slope.detach())
    torch.testing.assert_close(jacfwd(loss)(first, *others), slope.detach())
    direction = torch.ones_like(first)
    torch.testing.assert_close(jvp(lambda x: loss(x, *others), (first,), (direction,))[1], slope.sum().detach())
    rows = [torch.autograd.grad(each, leaf, retain_graph=True)[0] for each in slope.flatten()]
    curvature = torch.stack(rows).view(*first.shape, *first.shape)
    torch.testing.assert_close(hessian(loss)(first, *others), curvature)


@pytest.mark.parametrize(("function", "inputs"), EACH)
def test_gradients_of_every_sample(function: Function, inputs: tuple[Tensor, ...]) -> None:
    loss = scalar(function)
    samples = tuple(torch.stack([value, value * 0.5, value * 2]) for value in inputs)
    found = vmap(grad(loss, argnums=tuple(range(len(inputs)))))(*samples)
    for n, each in enumerate(zip(*samples, strict=True)):
        expected = torch.autograd.grad(loss(*(own := leaves_of(each))), own, allow_unused=True, materialize_grads=True)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[n], other)


@pytest.mark.parametrize(("function", "inputs"), EACH)
def test_gradients_through_a_checkpoint(function: Function, inputs: tuple[Tensor, ...]) -> None:
    loss, own, other = scalar(function), leaves_of(inputs), leaves_of(inputs)
    options = {"allow_unused": True}
    found = torch.autograd.grad(checkpoint(loss, *own, use_reentrant=False), own, **options)
    torch.testing.assert_close(found, torch.autograd.grad(loss(*other), other, **options), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_plain_gradient_in_other_precisions(dtype: torch.dtype, mixed: bool) -> None:
    """What stands in for the kernels gives what they give, over the ends of chunks and blocks."""
    z, log_a, start = normal(2, 150, 2, 5).to(dtype), gate(2, 150, 2).float() * 0.1, normal(2, 2, 5, seed=1).float()
    again, weight, bias = normal(2, 5, seed=2).float(), normal(2, seed=3).float(), normal(2, seed=4).float()
    reset = torch.rand(2, 150, generator=torch.Generator().manual_seed(0)) < 0.03

    def call(z: Tensor, log_a: Tensor, start: Tensor, again: Tensor) -> Tensor:
        given: dict[str, Any] = {"reset": reset, "reset_state": again, "backend": "cpu"}
        if mixed:
            return scan_norm_gate(z, log_a, weight, bias, 1e-3, z, start, **given)[0]
        return scan(z, log_a, start, **given)[0]

    own = leaves_of((z, log_a, start, again))
    up = normal(2, 150, 2, 5, seed=6).to(dtype)
    by_kernel = torch.autograd.grad(call(*own), own, up)
    c, plain = torch.func.vjp(call, z, log_a, start, again)
    limit = 1e-5 if dtype == torch.float32 else 1e-2
    for one, other in zip(plain(up), by_kernel, strict=True):
        assert one.dtype == other.dtype
        assert float((one.double() - other.double()).norm() / other.double().norm()) < limit
    # The same through the operator of the backward pass, whose gradients come one after the other and batched.
    (batched,) = torch.autograd.grad(call(*own), own[:1], torch.stack([up, 2 * up]), is_grads_batched=True)
    assert float((batched[0].double() - by_kernel[0].double()).norm() / by_kernel[0].double().norm()) < limit
    assert c.dtype == dtype


def test_graphs_compiled_around_a_transformation_stay_whole() -> None:
    z, log_a, _, _ = line()

    def per_sample(z: Tensor, log_a: Tensor) -> Tensor:
        found: Tensor = vmap(grad(lambda z, g: scan(z[None], g[None])[0].square().sum()))(z, log_a)
        return found

    compiled = torch.compile(per_sample, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z, log_a), per_sample(z, log_a))


def test_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    z, log_a, _, _ = line()
    operators._say_plain.cache_clear()
    with caplog.at_level("WARNING", logger="sioconv"):
        scan(z, log_a, backend="cpu")
        assert not caplog.records
        for _ in range(2):
            vmap(lambda z, g: scan(z[None], g[None], backend="cpu")[0])(z, log_a)
    assert len(caplog.records) == 1 and "plain torch" in caplog.records[0].message


def test_the_gradient_in_place_is_refused() -> None:
    logits, targets = normal(3, 4), torch.tensor([1, 2, 3])
    with pytest.raises(RuntimeError, match=r"cross_entropy_.*torch\.nn\.functional\.cross_entropy"):
        jvp(lambda x: cross_entropy_(x.clone(), targets), (logits,), (logits,))
    with pytest.raises(RuntimeError, match="cross_entropy_"):
        vmap(lambda x: cross_entropy_(x[None], targets[:1]))(logits)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="cross_entropy_"):
        cross_entropy_(forward_ad.make_dual(logits, logits), targets)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_a_split_sequence_is_refused() -> None:
    z, log_a, _, _ = line()

    def call(z: Tensor) -> Tensor:
        return scan_sequence_parallel(z, log_a, group=None)[0]

    for transformed in (jacfwd(call), jacrev(call), vmap(lambda x: call(x[None]))):
        with pytest.raises(RuntimeError, match=r"scan_sequence_parallel.*torch\.func.*call scan"):
            transformed(z)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"scan_sequence_parallel.*call scan"):
        call(forward_ad.make_dual(z, z))
    c = call(leaf := z.clone().requires_grad_())
    with pytest.raises(RuntimeError):  # torch's own message comes before ours
        torch.autograd.grad(c, leaf, torch.stack([c, c]).detach(), is_grads_batched=True)


def test_steps_one_after_the_other_have_every_derivative() -> None:
    z, log_a, state = normal(2, 4, 2, 3), gate(2, 4, 2), normal(2, 2, 3, seed=1)

    def by_steps(z: Tensor, log_a: Tensor, state: Tensor) -> Tensor:
        for one, other in zip(z.unbind(1), log_a.unbind(1), strict=True):
            _, state = sioconv.ops.step(one, other, state)
        return state

    def at_once(z: Tensor, log_a: Tensor, state: Tensor) -> Any:
        return scan(z, log_a, state, output_final_state=True)[1]

    for derivative in (jacfwd, jacrev):
        torch.testing.assert_close(derivative(by_steps)(z, log_a, state), derivative(at_once)(z, log_a, state))
