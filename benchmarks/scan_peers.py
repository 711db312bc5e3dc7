"""The ways to run c_t = exp(log_a_t) * c_{t-1} + z_t that `benchmarks.scan` compares, each in its own layout.

`prepare` turns z [B, T, H, P] and log_a [B, T, H] into what the implementation wants to be given, which isn't timed;
`run` is; `restore` brings its output back to [B, T, H, P] for the check.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sioconv.ops import scan


def _as_it_is(tensor: Tensor, _shape: torch.Size) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Candidate:
    """One implementation; `positive`: it can't take z <= 0, and is measured on its absolute value.

    `longest` is the longest sequence that it is asked for.
    """

    prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    run: Callable[[Tensor, Tensor], Tensor]
    restore: Callable[[Tensor, torch.Size], Tensor] = _as_it_is
    positive: bool = False
    longest: int = sys.maxsize


def ours(backend: str) -> Candidate:
    """A backend of `sioconv.ops.scan`."""
    return Candidate(lambda z, log_a: (z, log_a), lambda z, log_a: scan(z, log_a, backend=backend)[0])


def loop(z: Tensor, log_a: Tensor) -> Tensor:
    """The best loop in torch: views by unbind, one fused operation a step, one stack."""
    a = log_a.exp().unsqueeze(-1).to(z.dtype)  # [B, T, H, 1]
    state = torch.zeros_like(z[:, 0])
    states = []
    for z_t, a_t in zip(z.unbind(1), a.unbind(1), strict=True):
        state = torch.addcmul(z_t, a_t, state)
        states.append(state)
    return torch.stack(states, dim=1)


def log_space(log_z: Tensor, log_a: Tensor) -> Tensor:
    """The form of minGRU (Feng et al. 2024, arXiv:2410.01201, appendix B) after Heinsen 2023 (arXiv:2311.06281)."""
    decay = log_a.cumsum(dim=1).unsqueeze(-1)  # [B, T, H, 1]
    return (decay + torch.logcumsumexp(log_z - decay, dim=1)).exp()


def _expand(log_a: Tensor, z: Tensor) -> Tensor:
    return log_a.unsqueeze(-1).expand_as(z).contiguous()  # [B, T, H, P]


def mambapy() -> Candidate:
    """mambapy's parallel scan (Blelloch); gates per channel, [B, L, D, N]."""
    from mambapy.pscan import pscan

    return Candidate(lambda z, log_a: (z, _expand(log_a, z).exp()), lambda z, a: pscan(a, z))


def _time_last(run: Callable[[Tensor, Tensor], Tensor]) -> Candidate:
    """A scan of accelerated-scan, run(gates, inputs); gates per channel, time last, [B, C, T]."""

    def last(tensor: Tensor) -> Tensor:
        return tensor.flatten(2).transpose(1, 2).contiguous()  # [B, H * P, T]

    return Candidate(
        lambda z, log_a: (last(z), last(_expand(log_a, z).exp().to(z.dtype))),
        lambda z, a: run(a, z),
        lambda c, shape: c.transpose(1, 2).reshape(shape),
    )


def accelerated_scan() -> Candidate:
    """accelerated-scan's reference: a tree in torch."""
    from accelerated_scan.ref import scan as tree

    return _time_last(tree)


def accelerated_scan_warp() -> Candidate:
    """accelerated-scan's CUDA kernel; T must be a power of 2."""
    from accelerated_scan.warp import scan as warp

    return _time_last(warp)


def fla_naive() -> Candidate:
    """flash-linear-attention's plain recurrence for HGRN; gates per channel, [B, T, D]."""
    from fla.ops.hgrn.naive import naive_recurrent_hgrn

    return Candidate(
        lambda z, log_a: (z.flatten(2), _expand(log_a, z).flatten(2)),
        lambda z, log_a: naive_recurrent_hgrn(z, log_a)[0],
        lambda c, shape: c.reshape(shape),
        longest=1024,  # every step writes into the result in place, so the backward pass is quadratic in T
    )


def fla_chunk_hgrn() -> Candidate:
    """flash-linear-attention's kernels for HGRN; gates per channel, [B, T, D]."""
    from fla.ops.hgrn import chunk_hgrn

    return Candidate(
        lambda z, log_a: (z.flatten(2), _expand(log_a, z).flatten(2)),
        lambda z, log_a: chunk_hgrn(z, log_a)[0],
        lambda c, shape: c.reshape(shape),
    )


def fla_simple_gla() -> Candidate:
    """flash-linear-attention's simple gated linear attention: one gate per head, z as values, one unit key for all."""
    from fla.ops.simple_gla import chunk_simple_gla

    def run(z: Tensor, log_a: Tensor) -> Tensor:
        key = torch.zeros(*z.shape[:3], 16, dtype=z.dtype, device=z.device)  # the kernels take no narrower ones
        key[..., 0] = 1
        out: Tensor = chunk_simple_gla(key, key, z, log_a, scale=1.0)[0]
        return out

    return Candidate(lambda z, log_a: (z, log_a), run)


CANDIDATES: dict[str, Callable[[], Candidate]] = {
    "sioconv cpu": lambda: ours("cpu"),
    "sioconv triton": lambda: ours("triton"),
    "sioconv chunked": lambda: ours("chunked"),
    "torch loop": lambda: Candidate(lambda z, log_a: (z, log_a), loop),
    "log space": lambda: Candidate(lambda z, log_a: (z.log(), log_a), log_space, positive=True),
    "mambapy": mambapy,
    "accelerated-scan ref": accelerated_scan,
    "accelerated-scan warp": accelerated_scan_warp,
    "fla naive": fla_naive,
    "fla chunk_hgrn": fla_chunk_hgrn,
    "fla simple_gla": fla_simple_gla,
}
# Those that need one device; importing some of them elsewhere already fails.
ONLY_ON = {
    "sioconv cpu": "cpu",
    "sioconv triton": "cuda",
    "accelerated-scan warp": "cuda",
    "fla chunk_hgrn": "cuda",
    "fla simple_gla": "cuda",
}
