"""The product of a gated linear unit, x * SiLU(gate), in one pass over memory on CPUs."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sioconv.ops.cpu.scan import KERNEL_DTYPES, REGISTERS, SMALLEST, flat, may_stream
from sioconv.ops.operators import gradients, operator


def silu_gate(x: Tensor, gate: Tensor) -> Tensor:
    """x * SiLU(gate), SiLU(g) = g / (1 + exp(-g)) (Shazeer 2020, arXiv:2002.05202).

    On CPUs a kernel computes large products in one pass, and keeps nothing but x and gate for the backward pass, which
    is one pass as well. On other devices, in exported programs, for small tensors and
    where shape or dtype differ it is plain torch. The kernel computes bfloat16 in fp32 and rounds once.

    Args:
        x: [...], any floating-point dtype.
        gate: [...].

    Returns:
        [...] in the dtype that torch promotes both to.

    Example:
        >>> silu_gate(torch.randn(2, 100, 64), torch.randn(2, 100, 64)).shape
        torch.Size([2, 100, 64])
    """
    alike = x.shape == gate.shape and x.dtype == gate.dtype
    kernel = alike and x.device.type == "cpu" and x.dtype in KERNEL_DTYPES and not torch.compiler.is_exporting()
    if not kernel or x.numel() < SMALLEST:
        return _plain(x, gate)
    y: Tensor = _forward(x, gate)
    return y


def _plain(x: Tensor, gate: Tensor) -> Tensor:
    return x * F.silu(gate)


@operator("sioconv::silu_gate", _plain)
def _forward(x: Tensor, gate: Tensor) -> Tensor:
    from sioconv.ops.cpu.elementwise.silu_gate_kernels import forward_parallel, forward_serial

    y = torch.empty(x.shape, dtype=x.dtype)
    _run((forward_parallel, forward_serial), (x, gate), (y,))
    return y


@_forward.register_fake
def _(x: Tensor, gate: Tensor) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape)


def _plain_backward(grad_y: Tensor, x: Tensor, gate: Tensor) -> tuple[Tensor | None, ...]:
    return gradients(_plain, (x, gate), (grad_y,))


@operator("sioconv::silu_gate_backward", _plain_backward)
def _backward(grad_y: Tensor, x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    from sioconv.ops.cpu.elementwise.silu_gate_kernels import backward_parallel, backward_serial

    grad_x, grad_gate = (torch.empty(x.shape, dtype=x.dtype) for _ in range(2))
    _run((backward_parallel, backward_serial), (grad_y, x, gate), (grad_x, grad_gate))
    return grad_x, grad_gate


@_backward.register_fake
def _(grad_y: Tensor, x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _run(kernels: tuple[Any, Any], inputs: tuple[Tensor, ...], results: tuple[Tensor, ...]) -> None:
    """Runs a kernel (its parallel and its serial form) over all numbers, none of the tensors being empty."""
    import numpy as np

    from sioconv.ops.cpu.elementwise.silu_gate_kernels import CHUNK
    from sioconv.ops.cpu.threads import run_tasks
    from sioconv.ops.cpu.vectors import lanes

    size = results[0].numel()
    like = np.empty(0, np.float64 if results[0].dtype == torch.float64 else np.float32)
    edge = True if size % lanes(len(REGISTERS), like.itemsize) else None
    streams = all(map(may_stream, results))
    run_tasks(*kernels, -(-size // CHUNK), REGISTERS, edge, like, *map(flat, inputs), *map(flat, results), streams)


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    x, gate = ctx.saved_tensors
    grad_x, grad_gate = _backward(grad_y, x, gate)
    return grad_x, grad_gate


_forward.register_autograd(_differentiate, _save_for_backward)
_backward.differentiate_plain()
