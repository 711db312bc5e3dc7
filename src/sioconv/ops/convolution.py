"""The causal depthwise convolution over steps, with no copies of its inputs on CPUs."""

from typing import Any

import torch
from torch import Tensor

from sioconv.ops.cpu.scan import REGISTERS, SMALLEST, flat, may_stream
from sioconv.ops.eager.convolution import causal_convolution as _plain
from sioconv.ops.operators import gradients, operator


def causal_convolution(x: Tensor, weight: Tensor, tail: Tensor | None, reset: Tensor | None) -> Tensor:
    """y_t = sum_k weight[:, k] * x_{t-k}, 0 <= k < W, of inputs of the step's own document.

    On CPUs a kernel computes large results in one pass over memory, and keeps nothing but its arguments for the
    backward pass, which is one pass as well. On other devices, in exported programs, for small tensors and other dtypes
    it is plain torch. The kernel computes bfloat16 in fp32 and rounds once.

    Args:
        x: [B, T, D]; the kernel takes float32, bfloat16 and float64.
        weight: [D, W], of the step itself first; the kernel takes float64 with float64, and else float32 or bfloat16.
        tail: the W - 1 inputs before x, [B, D, W - 1], the oldest first; 0 if None.
        reset: [B, T] bool, True where a document begins; None where none does.

    Returns:
        [B, T, D] in x's dtype.

    Raises:
        RuntimeError: the sizes don't fit.

    Example:
        >>> causal_convolution(torch.randn(2, 100, 64), torch.randn(64, 2), None, None).shape
        torch.Size([2, 100, 64])
    """
    dtypes = {x.dtype, weight.dtype}
    known = dtypes <= {torch.float32, torch.bfloat16} or dtypes == {torch.float64}
    kernel = known and x.device.type == "cpu" and not torch.compiler.is_exporting()
    if not kernel or x.numel() < SMALLEST:
        return _plain(x, weight, tail, reset)
    sizes = x.shape[0], x.shape[2], weight.shape[1] - 1
    tail = x.new_zeros(sizes) if tail is None else tail.to(x.dtype)
    fits = tail.shape == sizes and weight.shape[0] == x.shape[2] and (reset is None or reset.shape == x.shape[:2])
    if not fits:
        raise RuntimeError(
            f"causal_convolution: x {list(x.shape)}, weight {list(weight.shape)}, tail {list(tail.shape)} and reset "
            f"{None if reset is None else list(reset.shape)} don't fit: they are [B, T, D], [D, W], [B, D, W - 1] and "
            "[B, T]"
        )
    y: Tensor = _forward(x, weight, tail, reset)
    return y


@operator("sioconv::convolution", _plain)
def _forward(x: Tensor, weight: Tensor, tail: Tensor, reset: Tensor | None) -> Tensor:
    from sioconv.ops.cpu.elementwise.convolution_kernels import forward_parallel, forward_serial

    y = torch.empty(x.shape, dtype=x.dtype)
    _run((forward_parallel, forward_serial), (x, weight, tail, reset), (), flat(y), may_stream(y))
    return y


@_forward.register_fake
def _(x: Tensor, weight: Tensor, tail: Tensor, reset: Tensor | None) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape)


def _plain_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, tail: Tensor, reset: Tensor | None
) -> tuple[Tensor | None, ...]:
    return gradients(_plain, (x, weight, tail, reset), (grad_y,))[:3]


@operator("sioconv::convolution_backward", _plain_backward)
def _backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, tail: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and tail."""
    from sioconv.ops.cpu.elementwise.convolution_kernels import Slopes, backward_parallel, backward_serial

    grad_x, grad_tail = torch.empty(x.shape, dtype=x.dtype), torch.empty(tail.mT.shape, dtype=x.dtype)
    grad_weights = torch.empty((_tasks(x), *weight.mT.shape), dtype=_wide(x))
    slopes = Slopes(flat(grad_x), flat(grad_tail), flat(grad_weights))
    _run((backward_parallel, backward_serial), (x, weight, tail, reset), (flat(grad_y),), slopes, may_stream(grad_x))
    grad_weight = grad_weights.sum(0, dtype=torch.float64).to(weight.dtype)
    return grad_x, grad_weight.mT.contiguous(), grad_tail.mT.contiguous()


@_backward.register_fake
def _(
    grad_y: Tensor,  # noqa: ARG001
    x: Tensor,
    weight: Tensor,
    tail: Tensor,
    reset: Tensor | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), tail.new_empty(tail.shape)


def _wide(x: Tensor) -> torch.dtype:
    """What the kernel computes in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _tasks(x: Tensor) -> int:
    from sioconv.ops.cpu.elementwise.convolution_kernels import STEPS

    return x.shape[0] * -(-x.shape[1] // STEPS)


def _run(
    kernels: tuple[Any, Any], given: tuple[Tensor, Tensor, Tensor, Tensor | None], ups: tuple[Any, ...], result: Any,
    streams: bool,
) -> None:  # fmt: skip
    """Runs a kernel (its parallel and its serial form) over all steps; `ups` are the gradients that it reads."""
    import numpy as np

    from sioconv.ops.cpu.elementwise.convolution_kernels import Inputs
    from sioconv.ops.cpu.threads import run_tasks
    from sioconv.ops.cpu.vectors import lanes

    x, weight, tail, reset = given
    like = np.empty(0, np.float64 if x.dtype == torch.float64 else np.float32)
    begins = np.zeros(0, np.bool_) if reset is None else flat(reset)
    inputs = Inputs(flat(x), flat(tail.mT), flat(weight.mT), begins, x.shape[1], weight.shape[1])
    edge = True if x.shape[2] % lanes(len(REGISTERS), like.itemsize) else None
    # A step that begins off a multiple of 64 bytes can't be streamed.
    run_tasks(*kernels, _tasks(x), REGISTERS, edge, like, *ups, inputs, result, streams and edge is None)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(grad_y, *ctx.saved_tensors), None


_forward.register_autograd(_differentiate, _save_for_backward)
_backward.differentiate_plain()
