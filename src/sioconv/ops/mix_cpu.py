"""`scan_norm_gate` on the `cpu` backend: its kernels as operators that autograd and torch.compile know.

Arrays are prepared as in `sioconv.ops.cpu`. Nothing as large as c is stored: the forward pass keeps the states before
every SAVE_EVERY-th step of a sequence, from which the backward pass computes c again.
"""

from typing import Any

import torch
from torch import Tensor

from sioconv.ops.cpu import flat, make_line, run_kernel
from sioconv.ops.validate import refuse_second_derivative


def mix_cpu(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    gate: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y [B, T, H, P] in z's dtype and the final state [N, H, P]; no size is 0, arguments already checked.

    z and gate [B, T, H, P], log_a [B, T, H, 1 or P], initial_state [N, H, P], norm_weight and norm_bias [H], reset
    [B, T], reset_state [H, P], cu_seqlens [N + 1].
    """
    half = z.dtype == torch.float16  # numba doesn't compute in it
    y, final_state, _saved = _forward(
        z.float() if half else z,
        log_a,
        initial_state,
        norm_weight,
        norm_bias,
        eps,
        gate.float() if half and gate is not None else gate,
        reset,
        reset_state,
        cu_seqlens,
    )
    return y.to(z.dtype), final_state


@torch.library.custom_op("sioconv::mix_cpu", mutates_args=(), device_types="cpu")
def _forward(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    gate: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the saved states, which only the backward pass reads."""
    from sioconv.ops.cpu_kernels import mix_forward_parallel, mix_forward_serial

    line = make_line(z, log_a, initial_state, reset, reset_state, cu_seqlens)
    y = torch.empty(z.shape, dtype=z.dtype)
    final_state = torch.empty(initial_state.shape, dtype=initial_state.dtype)
    saved = torch.zeros(_saved_shape(z, initial_state), dtype=initial_state.dtype)  # not all slots are written
    affine = flat(norm_weight), flat(norm_bias), eps, flat(z.new_empty(0) if gate is None else gate)
    kernels = mix_forward_parallel, mix_forward_serial
    run_kernel(kernels, line, z.shape, flat(z), *line, *affine, flat(y), flat(final_state), flat(saved))
    return y, final_state, saved


@_forward.register_fake
def _(
    z: Tensor,
    log_a: Tensor,  # noqa: ARG001
    initial_state: Tensor,
    norm_weight: Tensor,  # noqa: ARG001
    norm_bias: Tensor,  # noqa: ARG001
    eps: float,  # noqa: ARG001
    gate: Tensor | None,  # noqa: ARG001
    reset: Tensor | None,  # noqa: ARG001
    reset_state: Tensor | None,  # noqa: ARG001
    cu_seqlens: Tensor | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    saved = initial_state.new_empty(_saved_shape(z, initial_state))
    return z.new_empty(z.shape), initial_state.new_empty(initial_state.shape), saved


def _saved_shape(z: Tensor, initial_state: Tensor) -> tuple[int, ...]:
    from sioconv.ops.cpu_kernels import SAVE_EVERY

    return (z.shape[0] * z.shape[1] // SAVE_EVERY + initial_state.shape[0], *z.shape[2:])


@torch.library.custom_op("sioconv::mix_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad_y: Tensor,
    grad_final: Tensor,
    saved: Tensor,
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    gate: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, log_a, initial_state, reset_state, norm_weight, norm_bias and gate (empty without gate)."""
    from sioconv.ops.cpu_kernels import mix_backward_parallel, mix_backward_serial

    line = make_line(z, log_a, initial_state, reset, reset_state, cu_seqlens)
    branch = z.new_empty(0) if gate is None else gate
    affine = flat(norm_weight), flat(norm_bias), eps, flat(branch)
    grad_z, grad_gate = torch.empty(z.shape, dtype=z.dtype), torch.empty(branch.shape, dtype=z.dtype)
    grad_log_a = torch.empty(log_a.shape, dtype=log_a.dtype)
    grad_initial = torch.empty(initial_state.shape, dtype=initial_state.dtype)
    # Every sequence's own share, added in one order whatever the number of threads; of millions of steps, in float64.
    grad_reset = torch.empty(initial_state.shape, dtype=initial_state.dtype)  # [N, H, P]
    grad_weight = torch.empty(initial_state.shape[:2], dtype=torch.float64)  # [N, H]
    grad_bias = torch.empty(initial_state.shape[:2], dtype=torch.float64)
    slopes = grad_z, grad_log_a, grad_initial, grad_reset, grad_weight, grad_bias, grad_gate
    inputs = flat(grad_y), flat(grad_final), flat(saved), flat(z), *line, *affine
    run_kernel((mix_backward_parallel, mix_backward_serial), line, z.shape, *inputs, *map(flat, slopes))
    reset_slope, weight_slope, bias_slope = (
        torch.from_numpy(each.numpy().sum(axis=0).astype(grad_log_a.numpy().dtype))
        for each in (grad_reset, grad_weight, grad_bias)
    )
    return grad_z, grad_log_a, grad_initial, reset_slope, weight_slope, bias_slope, grad_gate


@_backward.register_fake
def _(
    grad_y: Tensor,  # noqa: ARG001
    grad_final: Tensor,  # noqa: ARG001
    saved: Tensor,  # noqa: ARG001
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,  # noqa: ARG001
    gate: Tensor | None,
    reset: Tensor | None,  # noqa: ARG001
    reset_state: Tensor | None,  # noqa: ARG001
    cu_seqlens: Tensor | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        z.new_empty(z.shape),
        log_a.new_empty(log_a.shape),
        initial_state.new_empty(initial_state.shape),
        initial_state.new_empty(initial_state.shape[1:]),
        norm_weight.new_empty(norm_weight.shape),
        norm_bias.new_empty(norm_bias.shape),
        z.new_empty(0) if gate is None else z.new_empty(z.shape),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *before, ctx.eps, gate, reset, reset_state, cu_seqlens = inputs
    ctx.save_for_backward(output[2], *before, gate, reset, reset_state, cu_seqlens)


def _differentiate(ctx: Any, grad_y: Tensor, grad_final: Tensor, _grad_saved: Tensor) -> tuple[Tensor | None, ...]:
    saved, *before, gate, reset, reset_state, cu_seqlens = ctx.saved_tensors
    grad_z, grad_log_a, grad_initial, grad_reset, grad_weight, grad_bias, grad_gate = _backward(
        grad_y, grad_final, saved, *before, ctx.eps, gate, reset, reset_state, cu_seqlens
    )
    return (
        grad_z,
        grad_log_a,
        grad_initial,
        grad_weight,
        grad_bias,
        None,
        None if gate is None else grad_gate,
        None,
        None if reset_state is None else grad_reset,
        None,
    )


_forward.register_autograd(_differentiate, setup_context=_save_for_backward)
_backward.register_autograd(refuse_second_derivative("cpu"))
