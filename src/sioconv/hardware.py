"""The hardware: which device does the work, what it has and can do, and how a report names it."""

import ctypes
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import sioconv
from sioconv.errors import UserError
from sioconv.ops.linear import product, takes_onednn

if sys.platform != "win32":
    import resource

_PAGE, _LARGE_PAGE = 4096, 2 * 2**20
_COLLAPSE = 25  # MADV_COLLAPSE of Linux 6.1; older ones refuse it
PACKAGES = ("torch", "numba", "transformers", "tokenizers", "datatrove", "numpy")

# ------------------------------------------------------------------------------------------------------------- devices


def pick_device(name: str = "auto") -> torch.device:
    """`auto` takes cuda, then mps, then cpu; any other name is taken as it is.

    Raises `UserError` for a name that torch doesn't know or a device that this machine doesn't have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # `meta` makes tensors, but there is nothing in them
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"device {name!r} can't be used: {reason}: try auto, cpu, cuda or mps") from error
    return device


def memory_of(device: torch.device) -> int | None:
    """Bytes that a device has, in use or not; for a CPU with what can be swapped out. None where it isn't known."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu" or not Path("/proc/meminfo").exists():
        return None
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return 1024 * sum(int(facts[key].split()[0]) for key in ("MemTotal", "SwapTotal"))


def describe_device(device: torch.device) -> str:
    """The device in words, for the log."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)


# --------------------------------------------------------------------------------------------------- speed and memory


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


def use_large_pages(places: Iterable[tuple[int, int]]) -> None:
    """Has Linux keep what lies in memory at these places (address, bytes) in pages of 2 MB instead of 4 kB.

    What is there stays. The processor reads far faster so: it looks up fewer addresses, and sees further ahead. Where
    it can't be had (another system, another size of pages, files that are read in place), nothing happens.
    """
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    joined: list[list[int]] = []  # what lies so close together that no other page can be between
    for start, size in sorted(places):
        if joined and start <= joined[-1][1] + 2 * _PAGE:
            joined[-1][1] = max(joined[-1][1], start + size)
        else:
            joined.append([start, start + size])
    for start, end in joined:
        for page in range(-(-start // _LARGE_PAGE) * _LARGE_PAGE, end - _LARGE_PAGE + 1, _LARGE_PAGE):
            advise(page, _LARGE_PAGE, _COLLAPSE)


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
        raise UserError(f"precision: {name!r} is none of auto, {', '.join(named)}: give one of them")
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu":
        faster = matrix_speed(device, torch.bfloat16) > 1.3 * matrix_speed(device, torch.float32)
        return torch.bfloat16 if faster else torch.float32
    return torch.float32


# ----------------------------------------------------------------------------------------------------- for the report


def describe_machine() -> dict[str, str]:
    """Processor, usable cores, memory and operating system in words; the accelerator where there is one."""
    machine = {
        "processor": _processor(),
        "cores": str(usable_cores()),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
    }
    if torch.cuda.is_available():
        machine["accelerator"] = torch.cuda.get_device_name()
    elif torch.backends.mps.is_available():
        machine["accelerator"] = "Apple GPU (mps)"
    return machine


def describe_versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that it computes with, where they are installed."""
    versions = {"sioconv": sioconv.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> str:
    if sys.platform == "win32" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
