"""What the machine can do: matrix-product speed, and the precision that follows from it."""

import ctypes
import statistics
import sys
import time

import torch

from sioconv.errors import UserError
from sioconv.ops.linear import product, takes_onednn

if sys.platform != "win32":
    import resource


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory for the next step; does nothing where it isn't glibc.

    By default large tensors are given back to the system when they are freed, and their pages are fetched and zeroed
    again in the next step, which cost a quarter of the demo's training time (docs/decisions.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # names in malloc.h: M_TRIM_THRESHOLD, …
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**27)
        mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)  # older releases take 32 MiB at most


def memory_used(device: torch.device) -> int:
    """Most bytes that the training has needed so far: of the card, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def matrix_speed(device: torch.device, dtype: torch.dtype, size: int = 1024, seconds: float = 0.3) -> float:
    """Median speed of a square matrix product, in floating-point operations a second (2·size³ per product).

    By the library that linear layers take (`takes_onednn`).
    """
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    multiply = product if takes_onednn(device, dtype) else torch.mm
    times: list[float] = []
    _ = multiply(left, right)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        synchronize(device)
        start = time.perf_counter()
        _ = multiply(left, right)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: what is asked for, or with `auto` what the device is natively fastest with.

    A card takes bf16 where it has it (emulation doesn't count), else fp16; a CPU bf16 where it is measured 1.3× as fast
    as fp32, which is what makes up for its rounding; mps fp32.

    Raises UserError for a name other than auto, fp32, bf16 and fp16.
    """
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name in named:
        return named[name]
    if name != "auto":
        raise UserError(f"train.precision: {name!r} is none of auto, {', '.join(named)}")
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu":
        faster = matrix_speed(device, torch.bfloat16) > 1.3 * matrix_speed(device, torch.float32)
        return torch.bfloat16 if faster else torch.float32
    return torch.float32
