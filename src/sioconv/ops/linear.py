"""Linear layers in fp32 on CPUs, by whichever of torch's two libraries multiplies faster there."""

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from llvmlite.binding import get_host_cpu_name
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from wrapt import register_post_import_hook

from sioconv.ops.operators import operator

# Found out here, because torch.compile can't trace the search.
_FASTER = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and get_host_cpu_name().startswith("znver")
)
# oneDNN keeps code and buffers for every shape that it has met: the number of rows is rounded up.
ROWS_MULTIPLE = 256
FEWEST_ROWS = 512  # from here on rounding up costs less than is gained
GRADIENT_ROWS = 1024  # of the inputs that one product of the weight's gradient adds up: they stay in the caches


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`: x @ weight.T + bias.

    On processors where MKL, which torch takes for fp32, leaves half of the vector unit unused (`takes_onednn`),
    512 and more rows of fp32 go through oneDNN, and so do both products of their backward pass. Otherwise, in exported
    programs, under `torch.func`'s transformations, with tensors of other classes (sharded, quantised), and for every
    other dtype and device, it is torch's.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N].

    Returns:
        [..., N], in autocast's dtype under autocast.

    Example:
        >>> linear(torch.randn(2, 128, 64), torch.randn(32, 64)).shape
        torch.Size([2, 128, 32])
    """
    if not _suits(x) or weight.dtype != x.dtype or not _ordinary(x, weight, bias):
        return F.linear(x, weight, bias)
    y: Tensor = _forward(x, weight, bias)
    return y


def fast_products(x: Tensor) -> AbstractContextManager[Any]:
    """While it is entered, linear layers that read x multiply as `linear` does, whichever module calls torch's.

    So they stay `torch.nn.Linear`, which other tools know by its class, and adapters on them are as fast.

    Args:
        x: [..., K]; where its products are torch's anyway, nothing is entered.

    Example:
        >>> with fast_products(x := torch.randn(2, 512, 64)):
        ...     y = torch.nn.Linear(64, 32)(x)
    """
    return _FastProducts() if _suits(x) else nullcontext()


def fast_products_on(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """`fast_products` around a whole model that computes on this device and in this precision, of whatever make."""
    return _FastProducts() if takes_onednn(device, dtype) else nullcontext()


class _FastProducts(TorchFunctionMode):
    """While it is entered, `torch.nn.functional.linear` is `linear`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return (linear if func is F.linear else func)(*args, **(kwargs or {}))


def _suits(x: Tensor) -> bool:
    """Whether products of x are faster by oneDNN, as far as x tells it."""
    if not takes_onednn(x.device, x.dtype) or torch.is_autocast_enabled("cpu") or torch.compiler.is_exporting():
        return False
    return math.prod(x.shape[:-1]) >= FEWEST_ROWS


def _ordinary(*tensors: Tensor | None) -> bool:
    """Whether these are of torch's own classes, whose numbers a kernel can read."""
    if torch.compiler.is_compiling():
        return True
    return all(tensor is None or type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)


def takes_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether linear layers with rows enough take oneDNN: in fp32 on AMD's processors with AVX-512.

    MKL uses the AVX2 part of these only.
    """
    return _FASTER and device.type == "cpu" and dtype == torch.float32


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] @ weight [N, K].T + bias [N] by oneDNN, fp32, any strides."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _padded(x: Tensor) -> Tensor:
    """x [..., K] as [rows, K], their number rounded up with zeros."""
    rows = x.flatten(0, -2)
    missing = -len(rows) % ROWS_MULTIPLE
    return F.pad(rows, (0, 0, 0, missing)) if missing else rows


@operator("sioconv::linear", F.linear)
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # Resized in place and not a view, so that what is computed next may be written over it.
    return product(_padded(x), weight, bias).resize_(*x.shape[:-1], len(weight))


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG001
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _linear_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Two operations a number of x [..., K] and row of weight [N, K]."""
    return 2 * math.prod(x) * weight[0]


def _plain_weight_gradient(grad_y: Tensor, x: Tensor) -> Tensor:
    return grad_y.flatten(0, -2).t() @ x.flatten(0, -2)


@operator("sioconv::linear_weight_gradient", _plain_weight_gradient)
def _weight_gradient(grad_y: Tensor, x: Tensor) -> Tensor:
    """grad_y.T @ x, [N, K], of grad_y [..., N] and x [..., K]."""
    left, right = _padded(grad_y), _padded(x)
    # The result has its longer side behind, which is up to a quarter faster.
    turned = left.shape[1] > right.shape[1]
    if turned:
        left, right = right, left
    parts = zip(torch.split(left, GRADIENT_ROWS), torch.split(right, GRADIENT_ROWS), strict=True)
    total = functools.reduce(Tensor.add_, (product(one.t(), other.t()) for one, other in parts))
    return total.t().contiguous() if turned else total


@_weight_gradient.register_fake
def _(grad_y: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(grad_y.shape[-1], x.shape[-1])


def _weight_gradient_flops(grad_y: Sequence[int], x: Sequence[int], *_: Any, **__: Any) -> int:
    """Two operations a number of grad_y [..., N] and channel of x [..., K]."""
    return 2 * math.prod(grad_y) * x[-1]


def _name_flops(counter: ModuleType) -> None:
    """Gives torch's counter of operations these formulas."""
    counter.register_flop_formula(torch.ops.sioconv.linear)(_linear_flops)
    counter.register_flop_formula(torch.ops.sioconv.linear_weight_gradient)(_weight_gradient_flops)


register_post_import_hook(_name_flops, "torch.utils.flop_counter")  # when it is: its import brings Triton


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs[:2])


def _differentiate(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    return (
        _forward(grad_y, weight.t(), None) if wanted[0] else None,
        _weight_gradient(grad_y, x) if wanted[1] else None,
        grad_y.reshape(-1, grad_y.shape[-1]).sum(0) if wanted[2] else None,
    )


def _differentiate_weight_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    grad_y, x = ctx.saved_tensors
    return _forward(x, grad, None), _forward(grad_y, grad.t(), None)


_forward.register_autograd(_differentiate, _save_for_backward)
_weight_gradient.register_autograd(_differentiate_weight_gradient, _save_for_backward)
