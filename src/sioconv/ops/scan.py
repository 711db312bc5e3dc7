"""The two public functions: arguments are checked here, then handed to a backend."""

from typing import Literal, overload

from torch import Tensor

from sioconv.ops.backends import pick_backend
from sioconv.ops.gates import advance
from sioconv.ops.validate import check_scan, check_step, state_dtype


@overload
def scan(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    output_final_state: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...
@overload
def scan(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    output_final_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]: ...
def scan(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    output_final_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Run c_t = exp(log_a_t) * c_{t-1} + z_t over whole sequences, in time linear in T (but for `matrix`).

    Args:
        z: [B, T, H, P] inputs; float32, bfloat16, float16 or float64. Every size may be 0.
        log_a: [B, T, H] (one gate per head) or [B, T, H, P] (one per channel), the log of the forget gate,
            <= 0 (not checked); float32, or float64 with z in float64.
        initial_state: [N, H, P] c_{-1} of every sequence (default 0); dtype of `log_a`. N is B, or the number
            of packed sequences.
        reset: [B, T] bool. Where it is true the carried state is replaced by `reset_state` before the
            update: c_t = exp(log_a_t) * reset_state + z_t. It also wins over `initial_state`.
        reset_state: [H, P] (default 0), not used without `reset`; dtype of `log_a`.
        cu_seqlens: [N + 1] int32 or int64 boundaries 0 = s_0 <= s_1 <= ... <= s_N = T of N sequences packed
            into one row (B = 1); a sequence may be empty. Reading them waits for an accelerator.
        output_final_state: also return the last state of every sequence.
        backend: `auto`, `reference`, `matrix` (T*T memory per gate), `chunked`, `cpu` or `triton`.

    Returns:
        c [B, T, H, P] in z's dtype, and the final state [N, H, P] in the dtype of `log_a`, or None. The state is
        accumulated in float32 (float64 with float64) whatever z's dtype.

    Gradients flow to z, log_a, initial_state and reset_state, from c and the final state. Every backend has
    forward-mode and second derivatives and can be transformed by `torch.func`: where a kernel can't do that, `chunked`
    does it. A NaN or an infinity stays in its row or document, and so does its gradient.

    Raises:
        TypeError: an argument isn't a tensor or has the wrong dtype.
        ValueError: a shape, device or boundary doesn't fit, or the backend doesn't run on z's device.

    Example:
        >>> z, log_a = torch.randn(2, 100, 4, 16), -torch.rand(2, 100, 4)
        >>> c, state = scan(z, log_a, output_final_state=True)
        >>> c_next, _ = scan(z, log_a, state)
    """
    check_scan(z, log_a, initial_state, reset, reset_state, cu_seqlens)
    chosen = pick_backend(backend, z.device)
    sequences = z.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if initial_state is None:
        initial_state = z.new_zeros((sequences, *z.shape[2:]), dtype=state_dtype(z))
    if log_a.dim() == 3:
        log_a = log_a.unsqueeze(-1)  # [B, T, H, 1]
    if z.numel() == 0:
        c, final_state = _nothing(z, log_a, reset_state if reset is not None else None), initial_state.clone()
    else:
        c, final_state = chosen.run(z, log_a, initial_state, reset, reset_state, cu_seqlens)
    return c, final_state if output_final_state else None


def step(z: Tensor, log_a: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One step of `scan`, for decoding: c = exp(log_a) * state + z.

    Args:
        z: [B, H, P]; float32, bfloat16, float16 or float64.
        log_a: [B, H] or [B, H, P]; float32, or float64 with z in float64.
        state: [B, H, P] the state before the step; dtype of `log_a`. It isn't changed.

    Returns:
        c [B, H, P] in z's dtype and the new state [B, H, P].

    Raises TypeError and ValueError as `scan` does.
    """
    check_step(z, log_a, state)
    if log_a.dim() == 2:
        log_a = log_a.unsqueeze(-1)  # [B, H, 1]
    state = advance(z, log_a, state)
    return state.to(z.dtype), state


def _nothing(z: Tensor, log_a: Tensor, reset_state: Tensor | None) -> Tensor:
    """c where z is empty, made from every argument so that gradients are zero or empty and not None."""
    c = z * log_a.to(z.dtype)
    return c if reset_state is None else c + reset_state.to(z.dtype)


__all__ = ["scan", "step"]
