"""What a run was made on: the machine, and the versions of what did the work."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import sioconv

PACKAGES = ("torch", "numba", "transformers", "tokenizers", "datatrove", "numpy")


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
