"""Is scan, normalisation and gate in one pass faster than in three? `python -m benchmarks.mix [--json FILE]`.

Both run in turn on the same tensors, after a check that they agree; seconds are medians. Kept bytes are what the
backward pass holds on to, the inputs included and each memory counted once.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sioconv.files import atomic_write
from sioconv.ops import normalise_heads, scan, scan_norm_gate

CASES = [((16, 256, 8, 32), torch.bfloat16), ((16, 256, 8, 32), torch.float32), ((8, 1024, 8, 64), torch.float32)]
LIMITS = {torch.bfloat16: 2e-2, torch.float32: 1e-5}
EPS = 1e-5
ROUNDS = 15

Way = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]


def fused(z: Tensor, log_a: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None) -> Tensor:
    """One operator."""
    return scan_norm_gate(z, log_a, weight, bias, EPS, gate)[0]


def composed(z: Tensor, log_a: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None) -> Tensor:
    """The scan, then torch's normalisation and product."""
    c, _ = scan(z, log_a)
    return normalise_heads(c, weight.to(c.dtype), bias.to(c.dtype), EPS, gate)


WAYS: dict[str, Way] = {"fused": fused, "composed": composed}


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, gated: bool) -> list[Tensor | None]:
    """Leaves z, log_a, weight, bias and gate, with memories from 1 to about 1000 steps."""
    random = torch.Generator().manual_seed(0)
    z = torch.randn(shape, generator=random).to(dtype)
    log_a = -torch.exp(-7 * torch.rand(shape[:3], generator=random))
    weight, bias = torch.randn(2, shape[2], generator=random)
    gate = torch.randn(shape, generator=random).to(dtype) if gated else None
    leaves = (z, log_a, weight, bias, gate)
    return [None if leaf is None else leaf.clone().requires_grad_() for leaf in leaves]


def run(way: Way, leaves: list[Tensor | None], grad_output: Tensor) -> tuple[float, float, list[Tensor]]:
    """Seconds of the forward and of the backward pass, and the results."""
    start = time.perf_counter()
    y = way(*leaves)  # type: ignore[arg-type]
    between = time.perf_counter()
    grads = torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], grad_output)
    return between - start, time.perf_counter() - between, [y.detach(), *grads]


def kept_bytes(way: Way, leaves: list[Tensor | None]) -> int:
    """Bytes of the memory that the backward pass needs."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = way(*leaves)  # type: ignore[arg-type]
    del y
    return sum(kept.values())


def measure(shape: tuple[int, ...], dtype: torch.dtype, gated: bool) -> dict[str, object]:
    """One line of the table.

    Raises RuntimeError where the two ways don't agree.
    """
    leaves = make_inputs(shape, dtype, gated)
    grad_output = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    one, other = (run(way, leaves, grad_output)[2] for way in WAYS.values())
    for left, right in zip(one, other, strict=True):
        difference = float((left.double() - right.double()).norm() / right.double().norm())
        if difference > LIMITS[dtype]:
            raise RuntimeError(f"{shape} {dtype}: the two ways differ by {difference:.1e}")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            times[name].append(run(way, leaves, grad_output)[:2])
    line: dict[str, object] = {"shape": list(shape), "dtype": str(dtype).removeprefix("torch."), "gated": gated}
    for name, way in WAYS.items():
        line[f"{name}_forward"] = statistics.median(forward for forward, _ in times[name])
        line[f"{name}_both"] = statistics.median(sum(pair) for pair in times[name])
        line[f"{name}_kept"] = kept_bytes(way, leaves)
    return line


def main() -> None:
    """Prints the table as Markdown, and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; milliseconds and MB, fused / composed\n")
    print("| B, T, H, P | dtype | gate | forward | forward + backward | kept |\n|---|---|---|---:|---:|---:|")
    lines = []
    for shape, dtype in CASES:
        for gated in (False, True):
            line = measure(shape, dtype, gated)
            lines.append(line)
            cells = [
                f"{float(str(line[f'fused_{key}'])) * scale:.1f} / {float(str(line[f'composed_{key}'])) * scale:.1f}"
                for key, scale in (("forward", 1e3), ("both", 1e3), ("kept", 1e-6))
            ]
            name = ", ".join(map(str, shape))
            print(f"| {name} | {line['dtype']} | {'yes' if gated else 'no'} | {' | '.join(cells)} |", flush=True)
    if options.json is not None:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(lines, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
