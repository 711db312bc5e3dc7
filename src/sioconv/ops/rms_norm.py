"""RMSNorm with the cast that follows it, each row read from memory once on CPUs."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sioconv.ops.cpu.scan import REGISTERS, SMALLEST, flat, may_stream
from sioconv.ops.operators import gradients, operator


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight over the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467).

    On CPUs large inputs go through a kernel, forward and backward, where torch makes about fifteen passes over memory.
    Elsewhere, in exported programs and for small inputs it is plain torch. The kernel
    computes bfloat16 in fp32 and rounds once, to `dtype`.

    Args:
        x: [..., D].
        weight: [D].
        eps: added to the mean square, inside the root.
        dtype: of the result; None for x's.

    Returns:
        [..., D] in `dtype`.

    Example:
        >>> rms_norm(torch.randn(2, 100, 64), torch.ones(64), 1e-6).shape
        torch.Size([2, 100, 64])
    """
    dtype = x.dtype if dtype is None else dtype
    dtypes = {x.dtype, weight.dtype, dtype}
    known = dtypes <= {torch.float32, torch.bfloat16} or dtypes == {torch.float64}
    kernel = known and x.device.type == "cpu" and not torch.compiler.is_exporting()
    if not kernel or x.numel() < SMALLEST:
        return _plain(x, weight, eps, dtype)[0]
    y: Tensor = _forward(x, weight, eps, dtype)[0]
    return y


def _plain(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return F.rms_norm(x, (x.shape[-1],), weight, eps).to(dtype), x.new_empty(0)


@operator("sioconv::rms_norm", _plain)
def _forward(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """y, and 1 / sqrt(mean(x²) + eps) of each row."""
    from sioconv.ops.cpu.elementwise.rms_norm_kernels import forward_parallel, forward_serial

    y, scales = torch.empty(x.shape, dtype=dtype), _wide(x, x.numel() // weight.numel())
    _run(
        (forward_parallel, forward_serial), scales, weight,
        flat(x), flat(weight), eps, flat(y), flat(scales), may_stream(y),
    )  # fmt: skip
    return y, scales


@_forward.register_fake
def _(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return x.new_empty(x.shape, dtype=dtype), _wide(x, x.numel() // weight.numel())


def _plain_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    scales: Tensor,  # noqa: ARG001
    eps: float,
) -> tuple[Tensor | None, ...]:
    return gradients(_plain, (x, weight, eps, grad_y.dtype), (grad_y,))[:2]


@operator("sioconv::rms_norm_backward", _plain_backward)
def _backward(grad_y: Tensor, x: Tensor, weight: Tensor, scales: Tensor, eps: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Gradients of x and weight; the kernel finds eps in `scales`."""
    from sioconv.ops.cpu.elementwise.rms_norm_kernels import ROWS, backward_parallel, backward_serial

    grad_x, grad_weights = torch.empty(x.shape, dtype=x.dtype), _wide(x, -(-scales.numel() // ROWS), weight.numel())
    _run(
        (backward_parallel, backward_serial), scales, weight,
        flat(grad_y), flat(x), flat(weight), flat(scales), flat(grad_x), flat(grad_weights), may_stream(grad_x),
    )  # fmt: skip
    return grad_x, grad_weights.sum(0, dtype=torch.float64).to(weight.dtype)


@_backward.register_fake
def _(grad_y: Tensor, x: Tensor, weight: Tensor, scales: Tensor, eps: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _wide(x: Tensor, *shape: int) -> Tensor:
    """An empty tensor of what the kernel computes in."""
    return x.new_empty(shape, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def _run(kernels: tuple[Any, Any], scales: Tensor, weight: Tensor, *arguments: Any) -> None:
    """Runs a kernel (its parallel and its serial form) over all rows."""
    from sioconv.ops.cpu.elementwise.rms_norm_kernels import ROWS
    from sioconv.ops.cpu.threads import run_tasks
    from sioconv.ops.cpu.vectors import lanes

    edge = True if weight.numel() % lanes(len(REGISTERS), scales.itemsize) else None
    *others, streams = arguments
    # A row that begins off a multiple of 64 bytes can't be streamed.
    run_tasks(*kernels, -(-scales.numel() // ROWS), REGISTERS, edge, *others, streams and edge is None)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, ctx.eps, _dtype = inputs
    ctx.save_for_backward(x, weight, output[1])


def _differentiate(ctx: Any, grad_y: Tensor, _grad_scales: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad_y, *ctx.saved_tensors, ctx.eps), None, None


_forward.register_autograd(_differentiate, _save_for_backward)
_backward.differentiate_plain()
