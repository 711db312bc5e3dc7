"""The `cpu` backend: the compiled kernels as operators that autograd and torch.compile know.

float32, bfloat16 and float64 are read and written as they are; float16 is converted to float32 and back, because
numba doesn't compute in it. Arrays are prepared with numpy and not with torch, whose parallel loops hang in a
forked process. numba is imported by the first call, not with the package.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sioconv.ops.validate import check_cu_seqlens_values, refuse_second_derivative

Array = np.ndarray[Any, Any]


class _Line(NamedTuple):
    """What both kernels take, flattened: the sequences lie one after the other, L = B * T positions in all."""

    a: Array  # [L, H] or [L, H, P]
    a_minus_1: Array  # like a
    bounds: Array  # [N + 1] int64
    initial_state: Array  # [N, H, P]
    reset: Array  # [L] bool, empty for none
    reset_state: Array  # [H, P]


def scan_cpu(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `sioconv.ops.backends.ScanFunction` for shapes."""
    read = z.float() if z.dtype == torch.float16 else z
    c, final_state = _forward(read, log_a, initial_state, reset, reset_state, cu_seqlens)
    return c.to(z.dtype), final_state


@torch.library.custom_op("sioconv::scan_cpu", mutates_args=(), device_types="cpu")
def _forward(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    line = make_line(z, log_a, initial_state, reset, reset_state, cu_seqlens)
    return _run_forward(z, line, initial_state, z.dtype)


@_forward.register_fake
def _(
    z: Tensor,
    log_a: Tensor,  # noqa: ARG001
    initial_state: Tensor,
    reset: Tensor | None,  # noqa: ARG001
    reset_state: Tensor | None,  # noqa: ARG001
    cu_seqlens: Tensor | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape), initial_state.new_empty(initial_state.shape)


@torch.library.custom_op("sioconv::scan_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad_c: Tensor,
    grad_final: Tensor,
    saved: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, log_a, initial_state and reset_state. `saved` is what `_save_for_backward` chose."""
    from sioconv.ops.cpu_kernels import TILE, backward_parallel, backward_serial

    line = make_line(saved, log_a, initial_state, reset, reset_state, cu_seqlens)
    states = saved
    if saved.dtype == torch.bfloat16:
        states, _ = _run_forward(saved, line, initial_state, torch.float32)
    batch, steps, heads, channels = saved.shape
    # Per head, every tile writes its own sum over channels.
    tiles = math.ceil(channels / TILE) if log_a.shape[3] == 1 else 1
    grad_z = torch.empty(saved.shape, dtype=saved.dtype)
    grad_gate = torch.empty((batch, steps, heads * tiles, log_a.shape[3]), dtype=log_a.dtype)
    grad_initial = torch.empty(initial_state.shape, dtype=initial_state.dtype)
    grad_reset = torch.empty(initial_state.shape, dtype=initial_state.dtype)  # [N, H, P], every sequence's own
    kernels = backward_parallel, backward_serial
    gradients = flat(grad_z), flat(grad_gate), flat(grad_initial), flat(grad_reset)
    run_kernel(kernels, line, saved.shape, flat(grad_c), flat(grad_final), flat(states), *line, *gradients)
    if tiles > 1:
        by_tile = grad_gate.numpy().reshape(batch, steps, heads, tiles)
        grad_gate = torch.from_numpy(by_tile.sum(axis=3, keepdims=True))
    # numpy adds in one order, whatever the number of threads.
    return grad_z, grad_gate, grad_initial, torch.from_numpy(grad_reset.numpy().sum(axis=0))


@_backward.register_fake
def _(
    grad_c: Tensor,  # noqa: ARG001
    grad_final: Tensor,  # noqa: ARG001
    saved: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,  # noqa: ARG001
    reset_state: Tensor | None,  # noqa: ARG001
    cu_seqlens: Tensor | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        saved.new_empty(saved.shape),
        log_a.new_empty(log_a.shape),
        initial_state.new_empty(initial_state.shape),
        initial_state.new_empty(initial_state.shape[1:]),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep c, which the next layer keeps anyway, for the gates' gradient a_t * dc_t * c_{t-1}.

    In bfloat16 c has lost digits that this product needs: there z is kept, and c run again in float32 when
    gradients are asked for. That is half the memory of a float32 copy of c, and one more forward pass.
    """
    z, *others = inputs
    saved = z if output[0].dtype == torch.bfloat16 else output[0]
    ctx.save_for_backward(saved, *others)


def _differentiate(ctx: Any, grad_c: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
    saved, log_a, initial_state, reset, reset_state, cu_seqlens = ctx.saved_tensors
    grad_z, grad_log_a, grad_initial, grad_reset = _backward(
        grad_c, grad_final, saved, log_a, initial_state, reset, reset_state, cu_seqlens
    )
    return grad_z, grad_log_a, grad_initial, None, None if reset_state is None else grad_reset, None


_forward.register_autograd(_differentiate, setup_context=_save_for_backward)
_backward.register_autograd(refuse_second_derivative("cpu"))


def _run_forward(z: Tensor, line: _Line, states: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """c in `dtype` and the final state, which is like `states` [N, H, P]."""
    from sioconv.ops.cpu_kernels import forward_parallel, forward_serial

    c = torch.empty(z.shape, dtype=dtype)
    final_state = torch.empty(states.shape, dtype=states.dtype)
    run_kernel((forward_parallel, forward_serial), line, z.shape, flat(z), *line, flat(c), flat(final_state))
    return c, final_state


def run_kernel(kernels: tuple[Any, Any], line: _Line, shape: torch.Size, *arguments: Array | float) -> None:
    """Run a kernel (its parallel and its serial form) over all sequences of z's `shape` [B, T, H, P].

    One sequence is one task unless there are fewer than threads: its channels are cut into groups then, as few
    as the threads need, since reading short pieces of every row is several times slower than long ones.
    """
    from sioconv.ops.cpu_kernels import TILE
    from sioconv.ops.threads import run_tasks

    sequences, (_batch, _steps, heads, channels) = line.bounds.size - 1, shape
    tiles = heads * math.ceil(channels / TILE)
    groups = min(max(1, torch.get_num_threads() // max(1, sequences)), max(1, tiles))
    run_tasks(*kernels, sequences * groups, groups, heads, channels, *arguments)


def make_line(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> _Line:
    batch, steps, heads, channels = z.shape
    if cu_seqlens is None:
        bounds = np.arange(batch + 1, dtype=np.int64) * steps
    else:
        check_cu_seqlens_values(cu_seqlens, steps)
        bounds = flat(cu_seqlens).astype(np.int64)
    gate, initial = flat(log_a), flat(initial_state)
    no_state = np.zeros(heads * channels, dtype=initial.dtype)
    with np.errstate(under="ignore"):
        a, a_minus_1 = np.exp(gate), np.expm1(gate)
    return _Line(
        a=a,
        a_minus_1=a_minus_1,
        bounds=bounds,
        initial_state=initial,
        reset=np.zeros(0, dtype=np.bool_) if reset is None else flat(reset),
        reset_state=no_state if reset_state is None else flat(reset_state),
    )


def flat(tensor: Tensor) -> Array:
    """The tensor's memory as an array of one dimension (a copy if it isn't contiguous); bfloat16 as its bits.

    By DLPack, because torch never again resizes a storage that `Tensor.numpy` has been called on, and sharded training
    empties the storage of a gathered parameter when it has been used.
    """
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return np.ascontiguousarray(np.from_dlpack(tensor)).reshape(-1)
