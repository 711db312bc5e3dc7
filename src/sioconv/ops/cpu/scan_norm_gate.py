"""`scan_norm_gate` on the `cpu` backend: its kernels as operators that autograd and torch.compile know.

Arrays are prepared as in `scan`. Nothing as large as c is stored: the forward pass keeps the states before
every block of steps, from which the backward pass computes c again.
"""

from typing import Any

import torch
from torch import Tensor

from sioconv.ops.cpu.scan import GradientTensors, fake_gradients, flat, make_line, run_kernel, saved_shape
from sioconv.ops.cpu.structures import Norm, NormGradients
from sioconv.ops.eager.chunked import scan_chunked
from sioconv.ops.heads import normalise_heads
from sioconv.ops.operators import gradients as gradients_of
from sioconv.ops.operators import operator


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
    half = z.dtype == torch.float16  # see scan_cpu
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


def _plain(
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
    c, final_state = scan_chunked(z.to(log_a.dtype), log_a, initial_state, reset, reset_state, cu_seqlens)
    y = normalise_heads(c, norm_weight, norm_bias, eps, gate).to(z.dtype)
    return y, final_state, initial_state.new_empty(0)


@operator("sioconv::mix_cpu", _plain)
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
    from sioconv.ops.cpu.scan_norm_gate_kernels import forward_parallel, forward_serial

    line = make_line(z, log_a, initial_state, reset, reset_state, cu_seqlens)
    y = torch.empty(z.shape, dtype=z.dtype)
    final_state = torch.empty(initial_state.shape, dtype=initial_state.dtype)
    saved = torch.empty(saved_shape(z, initial_state), dtype=initial_state.dtype)
    saved.numpy().fill(0)  # not all rows are written
    norm = Norm(flat(norm_weight), flat(norm_bias), eps, flat(z.new_empty(0) if gate is None else gate))
    result = flat(y), flat(final_state), flat(saved)
    run_kernel((forward_parallel, forward_serial), z, line, flat(z), norm, result, largest=y, whole_heads=True)
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
    saved = initial_state.new_empty(saved_shape(z, initial_state))
    return z.new_empty(z.shape), initial_state.new_empty(initial_state.shape), saved


def _plain_backward(
    grad_y: Tensor,
    grad_final: Tensor,
    saved: Tensor,  # noqa: ARG001
    *inputs: Any,
) -> tuple[Tensor | None, ...]:
    """The gradients of the floating-point arguments of `_plain`, in the order of `_backward`, which has `inputs`."""
    z, log_a, initial_state, affine, *others = inputs
    grad_z, grad_log_a, grad_initial, grad_weight, grad_bias, _eps, grad_gate, _, grad_reset, _ = gradients_of(
        _plain, (z, log_a, initial_state, *affine, *others), (grad_y, grad_final)
    )
    grad_reset = initial_state.new_zeros(initial_state.shape[1:]) if grad_reset is None else grad_reset
    grad_gate = z.new_empty(0) if grad_gate is None else grad_gate
    return grad_z, grad_log_a, grad_initial, grad_reset, grad_weight, grad_bias, grad_gate


@operator("sioconv::mix_cpu_backward", _plain_backward)
def _backward(
    grad_y: Tensor,
    grad_final: Tensor,
    saved: Tensor,
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    affine: Tensor,
    eps: float,
    gate: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z, log_a, initial_state, reset_state, norm_weight, norm_bias and gate (empty without gate).

    `affine` is the norm's weight and bias, [2, H].
    """
    from sioconv.ops.cpu.scan_norm_gate_kernels import backward_parallel, backward_serial

    line = make_line(z, log_a, initial_state, reset, reset_state, cu_seqlens)
    gradients = GradientTensors.like(z, log_a, initial_state)
    factor = z.new_empty(0) if gate is None else gate
    grad_gate = torch.empty(factor.shape, dtype=z.dtype)
    # Every sequence's own share, added in one order whatever the number of threads; of millions of steps, in float64.
    grad_affine = torch.empty((2, *initial_state.shape[:2]), dtype=torch.float64)  # weight's and bias's, [N, H]
    given = flat(grad_y), flat(grad_final), flat(saved), flat(z)
    norm = Norm(flat(affine[0]), flat(affine[1]), eps, flat(factor))
    written = gradients.arrays(), NormGradients(flat(grad_affine[0]), flat(grad_affine[1]), flat(grad_gate))
    kernels = backward_parallel, backward_serial
    run_kernel(kernels, z, line, given, norm, *written, largest=gradients.z, whole_heads=True)
    grad_weight, grad_bias = grad_affine.numpy().sum(axis=1).astype(line.log_a.dtype)
    return *gradients.summed(), torch.from_numpy(grad_weight), torch.from_numpy(grad_bias), grad_gate


@_backward.register_fake
def _(
    grad_y: Tensor,  # noqa: ARG001
    grad_final: Tensor,  # noqa: ARG001
    saved: Tensor,  # noqa: ARG001
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor,
    affine: Tensor,
    eps: float,  # noqa: ARG001
    gate: Tensor | None,
    reset: Tensor | None,  # noqa: ARG001
    reset_state: Tensor | None,  # noqa: ARG001
    cu_seqlens: Tensor | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        *fake_gradients(z, log_a, initial_state),
        affine.new_empty(affine.shape[1:]),
        affine.new_empty(affine.shape[1:]),
        z.new_empty(0) if gate is None else z.new_empty(z.shape),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *before, ctx.eps, gate, reset, reset_state, cu_seqlens = inputs
    ctx.save_for_backward(output[2], *before, gate, reset, reset_state, cu_seqlens)


def _differentiate(ctx: Any, grad_y: Tensor, grad_final: Tensor, _grad_saved: Tensor) -> tuple[Tensor | None, ...]:
    saved, z, log_a, initial_state, weight, bias, gate, reset, reset_state, cu_seqlens = ctx.saved_tensors
    line, affine = (reset, reset_state, cu_seqlens), torch.stack((weight, bias))
    grad_z, grad_log_a, grad_initial, grad_reset, grad_weight, grad_bias, grad_gate = _backward(
        grad_y, grad_final, saved, z, log_a, initial_state, affine, ctx.eps, gate, *line
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


_forward.register_autograd(_differentiate, _save_for_backward)
_backward.differentiate_plain()
