"""The inner part of the mixer as one function: scan, normalisation of every head, multiplication by a gate branch."""

from collections.abc import Callable

from torch import Tensor

from sioconv.ops.backends import ScanFunction, pick_backend
from sioconv.ops.cpu.scan import scan_cpu
from sioconv.ops.cpu.scan_norm_gate import mix_cpu
from sioconv.ops.heads import normalise_heads
from sioconv.ops.scan import scan
from sioconv.ops.validate import check_mix, check_scan, state_dtype

# Scans that have a kernel for the whole; the others are composed. Same arguments as `mix_cpu`.
_FUSED: dict[ScanFunction, Callable[..., tuple[Tensor, Tensor]]] = {scan_cpu: mix_cpu}


def scan_norm_gate(
    z: Tensor,
    log_a: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    output_final_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """y_t = (norm(c_t) * norm_weight + norm_bias) * gate_t, with c from `scan` and norm over the channels of a head.

    norm(c) = (c - mean) / sqrt(variance + eps), both over the P channels of one head and step (Ba, Kiros & Hinton 2016,
    arXiv:1607.06450; a GroupNorm with one group per head). `cpu` does all of it in one pass over time: it never
    stores c, and its backward pass computes c again from states saved every 64 steps. The other backends run their scan
    and then the rest in plain torch. c isn't rounded to z's dtype in between.

    Args:
        z: [B, T, H, P]; float32, bfloat16, float16 or float64. Every size may be 0.
        log_a: [B, T, H] or [B, T, H, P], <= 0 (not checked); float32, or float64 with z in float64.
        norm_weight: [H], one factor per head; dtype of `log_a`.
        norm_bias: [H], one summand per head; dtype of `log_a`.
        eps: what is added to the variance, inside the root; above 0.
        gate: [B, T, H, P] (default 1) in z's dtype, multiplied as it is: any activation comes before.
        initial_state, reset, reset_state, cu_seqlens, output_final_state, backend: as for `scan`.

    Returns:
        y [B, T, H, P] in z's dtype, and the final state [N, H, P] in the dtype of `log_a`, or None.

    Gradients flow to z, log_a, norm_weight, norm_bias, gate, initial_state and reset_state, from y and the final state.
    Further derivatives and what isn't finite: as for `scan`.

    Raises:
        TypeError: an argument isn't a tensor or has the wrong dtype.
        ValueError: a shape, device, boundary or eps doesn't fit, or the backend doesn't run on z's device.

    Example:
        >>> z, log_a = torch.randn(2, 100, 4, 16), -torch.rand(2, 100, 4)
        >>> y, _ = scan_norm_gate(z, log_a, torch.ones(4), torch.zeros(4), 1e-5)
    """
    check_scan(z, log_a, initial_state, reset, reset_state, cu_seqlens)
    check_mix(z, norm_weight, norm_bias, eps, gate)
    fused = _FUSED.get(pick_backend(backend, z.device).run)
    if fused is None or z.numel() == 0:
        wide = z.to(state_dtype(z))
        c, final_state = scan(
            wide,
            log_a,
            initial_state,
            reset=reset,
            reset_state=reset_state,
            cu_seqlens=cu_seqlens,
            output_final_state=True,
            backend=backend,
        )
        assert final_state is not None
        y = normalise_heads(c, norm_weight, norm_bias, eps, gate).to(z.dtype)
    else:
        if log_a.dim() == 3:
            log_a = log_a.unsqueeze(-1)  # [B, T, H, 1]
        if initial_state is None:
            sequences = z.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
            initial_state = z.new_zeros((sequences, *z.shape[2:]), dtype=state_dtype(z))
        y, final_state = fused(
            z, log_a, initial_state, norm_weight, norm_bias, eps, gate, reset, reset_state, cu_seqlens
        )
    return y, final_state if output_final_state else None


__all__ = ["scan_norm_gate"]
