"""Checks of what is handed to `scan` and `step`, with errors that name the argument and what was expected."""

from itertools import pairwise

import torch
from torch import Tensor

_INPUT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def state_dtype(z: Tensor) -> torch.dtype:
    """The dtype of gates and states that goes with `z`: float64 with float64, else float32."""
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def check_scan(
    z: Tensor,
    log_a: Tensor,
    initial_state: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> None:
    """Raise TypeError or ValueError for arguments of `scan` that don't fit together."""
    _check_input(z, 4, "[B, T, H, P]")
    batch, steps, heads, channels = z.shape
    _check_gate(log_a, z)
    sequences = batch
    if cu_seqlens is not None:
        _check_cu_seqlens(cu_seqlens, z)
        sequences = cu_seqlens.shape[0] - 1
    if initial_state is not None:
        _check_state("initial_state", initial_state, z, (sequences, heads, channels), "[N, H, P]")
    if reset_state is not None:
        _check_state("reset_state", reset_state, z, (heads, channels), "[H, P]")
    if reset is not None:
        _check_tensor("reset", reset, z)
        if reset.dtype != torch.bool:
            raise TypeError(f"reset has dtype {reset.dtype}: expected torch.bool")
        _check_shape("reset", reset, (batch, steps), "[B, T]", z)


def check_mix(z: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, gate: Tensor | None) -> None:
    """Raise TypeError or ValueError for what `scan_norm_gate` takes besides the arguments of `scan`."""
    _check_state("norm_weight", norm_weight, z, (z.shape[2],), "[H]")
    _check_state("norm_bias", norm_bias, z, (z.shape[2],), "[H]")
    if not eps > 0:
        raise ValueError(f"eps is {eps}: expected a number above 0")
    if gate is not None:
        _check_tensor("gate", gate, z)
        if gate.dtype != z.dtype:
            raise TypeError(f"gate has dtype {gate.dtype}: expected {z.dtype}, that of z")
        _check_shape("gate", gate, tuple(z.shape), "[B, T, H, P]", z)


def check_step(z: Tensor, log_a: Tensor, state: Tensor) -> None:
    """Raise TypeError or ValueError for arguments of `step` that don't fit together."""
    _check_input(z, 3, "[B, H, P]")
    _check_gate(log_a, z)
    _check_state("state", state, z, tuple(z.shape), "[B, H, P]")


def check_cu_seqlens_values(cu_seqlens: Tensor, steps: int) -> None:
    """Raise ValueError unless the boundaries start at 0, never go back and end at `steps`."""
    ends = cu_seqlens.tolist()
    if ends[0] != 0 or ends[-1] != steps or any(b < a for a, b in pairwise(ends)):
        raise ValueError(f"cu_seqlens is {_short(ends)}: expected to rise from 0 to T = {steps}, never going back")


def _short(values: list[int]) -> str:
    return str(values) if len(values) <= 8 else f"[{', '.join(map(str, values[:4]))}, ..., {values[-1]}]"


def _check_tensor(name: str, value: Tensor, z: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}: expected a torch.Tensor")
    if value.device != z.device:
        raise ValueError(f"{name} is on {value.device}: expected {z.device}, where z is")


def _check_shape(name: str, value: Tensor, expected: tuple[int, ...], letters: str, z: Tensor) -> None:
    if tuple(value.shape) != expected:
        raise ValueError(
            f"{name} has shape {list(value.shape)}: expected {list(expected)} {letters} for z {list(z.shape)}"
        )


def _check_input(z: Tensor, dimensions: int, letters: str) -> None:
    if not isinstance(z, Tensor):
        raise TypeError(f"z is a {type(z).__name__}: expected a torch.Tensor")
    if z.dtype not in _INPUT_DTYPES:
        raise TypeError(f"z has dtype {z.dtype}: expected float32, bfloat16, float16 or float64")
    if z.dim() != dimensions:
        raise ValueError(f"z has shape {list(z.shape)}: expected {dimensions} dimensions {letters}")


def _check_gate(log_a: Tensor, z: Tensor) -> None:
    _check_tensor("log_a", log_a, z)
    if log_a.dtype != state_dtype(z):
        raise TypeError(f"log_a has dtype {log_a.dtype}: expected {state_dtype(z)} with z in {z.dtype}")
    per_channel, per_head = list(z.shape), list(z.shape[:-1])
    if list(log_a.shape) not in (per_head, per_channel):
        raise ValueError(
            f"log_a has shape {list(log_a.shape)}: expected {per_head} (per head) or {per_channel} (per channel)"
        )


def _check_state(name: str, value: Tensor, z: Tensor, expected: tuple[int, ...], letters: str) -> None:
    _check_tensor(name, value, z)
    if value.dtype != state_dtype(z):
        raise TypeError(f"{name} has dtype {value.dtype}: expected {state_dtype(z)} with z in {z.dtype}")
    _check_shape(name, value, expected, letters, z)


def _check_cu_seqlens(cu_seqlens: Tensor, z: Tensor) -> None:
    _check_tensor("cu_seqlens", cu_seqlens, z)
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens has dtype {cu_seqlens.dtype}: expected int32 or int64")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] == 0:
        raise ValueError(f"cu_seqlens has shape {list(cu_seqlens.shape)}: expected [N + 1]")
    if z.shape[0] != 1:
        raise ValueError(f"z has shape {list(z.shape)}: expected B = 1 when cu_seqlens packs the sequences")
    # Values can't be read while a graph is being traced; the cpu backend checks them again when it runs.
    if not torch.compiler.is_compiling():
        check_cu_seqlens_values(cu_seqlens, z.shape[1])
