"""Which code runs the recurrence: the table of backends, and the choice that `auto` makes."""

import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sioconv.ops.cpu.scan import scan_cpu
from sioconv.ops.eager.chunked import scan_chunked
from sioconv.ops.eager.matrix import scan_matrix
from sioconv.ops.eager.reference import scan_reference
from sioconv.ops.triton.scan import scan_triton

logger = logging.getLogger("sioconv")

# (z [B,T,H,P], log_a [B,T,H,1 or P], initial_state [N,H,P], reset [B,T] or None, reset_state [H,P] or None,
# cu_seqlens [N+1] or None) -> (c [B,T,H,P] in z's dtype, final_state [N,H,P]); no size is 0, arguments already checked.
ScanFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Backend:
    """One implementation of the recurrence; `devices` are the device types it runs on (None: any).

    `package` is one that it needs and that isn't installed with this one everywhere.
    """

    run: ScanFunction
    devices: tuple[str, ...] | None = None
    package: str | None = None


# Found out here, without importing it, because torch.compile can't trace the search.
_MISSING = frozenset(name for name in ("triton",) if importlib.util.find_spec(name) is None)
# Triton's interpreter runs the kernels on the processor.
_TRITON_DEVICES = ("cuda", "cpu") if os.environ.get("TRITON_INTERPRET") == "1" else ("cuda",)

BACKENDS = {
    "reference": Backend(scan_reference),
    "matrix": Backend(scan_matrix),
    "chunked": Backend(scan_chunked),
    "cpu": Backend(scan_cpu, devices=("cpu",)),
    "triton": Backend(scan_triton, devices=_TRITON_DEVICES, package="triton"),
}
_said: set[tuple[str, str]] = set()


def pick_backend(name: str, device: torch.device) -> Backend:
    """The backend called `name`, or for `auto` the fastest that runs on `device`.

    Raises ValueError for an unknown name, and for a backend that doesn't run on `device` or lacks a package.
    """
    if name == "auto":
        name = "chunked" if torch.compiler.is_exporting() else _fastest(device.type)
        # Logging breaks a compiled graph in two; a compiled model's choice is the eager one.
        if not torch.compiler.is_compiling():
            _say_once(name, device.type)
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}: expected auto or one of {', '.join(BACKENDS)}")
    backend = BACKENDS[name]
    if backend.devices is not None and device.type not in backend.devices:
        raise ValueError(f"backend {name!r} runs on {' or '.join(backend.devices)}, but z is on {device}")
    if backend.package in _MISSING:
        raise ValueError(f"backend {name!r} needs the package {backend.package}, which isn't installed")
    return backend


def _fastest(device_type: str) -> str:
    if device_type == "cpu":
        return "cpu"
    return "triton" if device_type == "cuda" and "triton" not in _MISSING else "chunked"


def _say_once(name: str, device_type: str) -> None:
    if (name, device_type) not in _said:
        _said.add((name, device_type))
        logger.info("scan: %s tensors take the %s backend", device_type, name)
