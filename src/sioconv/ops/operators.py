"""Operators with a kernel of their own: the one place where they are registered, with what stands in for the kernel.

A kernel reads memory. It knows nothing of `torch.func`'s transformations (vmap, grad, jvp, jacfwd, hessian) nor of
forward-mode derivatives, for which torch would take an operator without a rule as a constant, without a word; and its
gradient, another kernel, has no gradient by itself. So every operator comes with the same function in plain torch,
which runs wherever the kernel can't.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

logger = logging.getLogger("sioconv")
# numba's own switch, read as numba reads it when it is imported: a number that isn't 0.
_SWITCH = os.environ.get("NUMBA_DISABLE_JIT", "0").strip()
COMPILES = not (_SWITCH.removeprefix("-").isdecimal() and int(_SWITCH))

_without_kernels: ContextVar[bool] = ContextVar("without_kernels", default=False)


@contextmanager
def without_kernels() -> Iterator[None]:
    """Within it every operator runs in plain torch, so that nothing has to be compiled."""
    token = _without_kernels.set(True)
    try:
        yield
    finally:
        _without_kernels.reset(token)


@dataclass(frozen=True)
class Operator:
    """A kernel that autograd and torch.compile know, and the same in plain torch; made by `operator`.

    Attributes:
        definition: what torch has registered.
        plain: takes the same arguments and gives results of the same number and shapes (empty ones in the place of
            what only the kernel of the gradient reads), by operations that torch can differentiate and transform.
        compiled: whether there is a kernel: numba compiles it, or it needs no numba.
    """

    definition: Any
    plain: Callable[..., Any]
    compiled: bool = True

    def __call__(self, *arguments: Any) -> Any:
        """By the kernel, or in plain torch where there is none, or a transformation or forward mode is at work."""
        if not self.compiled:
            say_uncompiled()
            return self.plain(*arguments)
        if not torch.compiler.is_compiling() and _without_kernels.get():
            return self.plain(*arguments)
        if transformed(*arguments):
            say_plain()
            return self.plain(*arguments)
        return self.definition(*arguments)

    def register_fake(self, shapes: Callable[..., Any]) -> None:
        """What gives results of the right shape without values."""
        self.definition.register_fake(shapes)

    def register_autograd(self, differentiate: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        """The gradient by another operator: see `torch.library.register_autograd`."""
        self.definition.register_autograd(differentiate, setup_context=setup_context)

    def differentiate_plain(self) -> None:
        """The gradient through `plain`: for the operators that are themselves gradients."""

        def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
            ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in inputs))
            ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]

        def differentiate(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
            say_plain()
            pairs = zip(ctx.saved_tensors, ctx.others, strict=True)
            inputs = [other if tensor is None else tensor for tensor, other in pairs]
            return gradients(self.plain, inputs, grad_outputs, ctx.needs_input_grad)

        self.definition.register_autograd(differentiate, setup_context=save)


def operator(
    name: str, plain: Callable[..., Any], device_types: str | Sequence[str] = "cpu"
) -> Callable[[Callable[..., Any]], Operator]:
    """Registers a kernel with torch under `name`, a decorator.

    Args:
        name: `sioconv::…`.
        plain: see `Operator`.
        device_types: where the kernel runs.
    """

    def register(kernel: Callable[..., Any]) -> Operator:
        definition = torch.library.custom_op(name, kernel, mutates_args=(), device_types=device_types)
        return Operator(definition, plain, COMPILES or device_types != "cpu")

    return register


def gradients(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    grad_outputs: Sequence[Tensor],
    wanted: Sequence[bool] | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradients of each of a function's inputs, None for those that aren't wanted or that nothing depends on.

    Args:
        function: in plain torch; a tensor, or a tuple of them.
        inputs: its arguments, tensors and others.
        grad_outputs: the gradients of its results, in their order; further results have none.
        wanted: which inputs' gradients; by default those of all floating-point tensors.

    The gradients can be differentiated again where gradients are on (`create_graph=True`).
    """
    if wanted is None:
        wanted = [isinstance(value, Tensor) and value.is_floating_point() for value in inputs]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # A view: one input may have been computed from another, and that way isn't this function's.
        leaves = [_leaf(value, again) if want else value for value, want in zip(inputs, wanted, strict=True)]
        results = function(*leaves)
        pairs = zip(results if isinstance(results, tuple) else (results,), grad_outputs, strict=False)
        used = [(result, grad) for result, grad in pairs if result.requires_grad]
        chosen = [leaf for leaf, want in zip(leaves, wanted, strict=True) if want]
        if not used or not chosen:
            return tuple(None for _ in inputs)
        outputs, ups = zip(*used, strict=True)
        found = iter(torch.autograd.grad(outputs, chosen, ups, create_graph=again, allow_unused=True))
    return tuple(next(found) if want else None for want in wanted)


def _leaf(value: Tensor, again: bool) -> Tensor:
    return value.view_as(value) if again and value.requires_grad else value.detach().requires_grad_()


def transformed(*arguments: Any) -> bool:
    """Whether `torch.func` transforms what runs now, or one of the tensors has a forward-mode tangent."""
    if torch._C._are_functorch_transforms_active():
        return True
    return forward_ad._current_level >= 0 and any(isinstance(value, Tensor) and _is_dual(value) for value in arguments)


def _is_dual(value: Tensor) -> bool:
    return forward_ad.unpack_dual(value).tangent is not None  # type: ignore[no-untyped-call]


def refuse_transformed(name: str, instead: str, *arguments: Any) -> None:
    """Raise RuntimeError where `name` would have to be differentiated in a way that it doesn't know."""
    if transformed(*arguments):
        raise RuntimeError(
            f"{name} can't be transformed by torch.func (vmap, grad, jvp, ...) nor differentiated in forward mode: "
            f"{instead}"
        )


def say_plain() -> None:
    """Says, once in a process, that plain torch computes what the kernels can't."""
    if not torch.compiler.is_compiling():
        _say_plain()


@functools.cache
def _say_plain() -> None:
    logger.warning(
        "sioconv.ops: under torch.func, in forward mode and for second derivatives plain torch computes what the "
        "compiled kernels can't: the results are the same to rounding, and take longer"
    )


def say_uncompiled() -> None:
    """Says, once in a process, that plain torch computes because numba must not compile."""
    if not torch.compiler.is_compiling():
        _say_uncompiled()


@functools.cache
def _say_uncompiled() -> None:
    logger.warning(
        "sioconv.ops: NUMBA_DISABLE_JIT is set, so nothing is compiled and plain torch computes: the results are the "
        "same to rounding, and take several times as long"
    )
