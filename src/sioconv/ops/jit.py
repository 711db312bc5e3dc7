"""How the kernels of the `cpu` backend are compiled, and where the result is kept."""

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

logger = logging.getLogger("sioconv")

KERNELS = ("cpu", "mix", "glu", "norm", "cross_entropy")
SOURCES = ("jit.py", "vectors.py", *(f"{name}_kernels.py" for name in KERNELS))
F = TypeVar("F", bound=Callable[..., Any])
# 'contract' allows fused multiply-adds and nothing that would undo the compensation in `advance`.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}


def inner(function: F) -> F:
    """numba.njit for what only other kernels call: always inlined, nothing on disk, no entry for Python."""
    settings = {**_OPTIONS, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast(F, numba.njit(**settings)(function))


@functools.cache
def _say_uncached() -> None:
    logger.warning(
        "scan: neither the package folder nor the user's cache folder can be written, so every process compiles "
        "the kernels again: set NUMBA_CACHE_DIR to a folder that can"
    )


def kernel(**options: Any) -> Callable[[F], F]:
    """numba.njit with the result kept on disk, in the package folder or else the user's cache folder."""

    def compile_function(function: F) -> F:
        settings = {**_OPTIONS, "no_cfunc_wrapper": True, **options}
        try:
            return cast(F, numba.njit(cache=True, **settings)(function))
        except RuntimeError:  # neither folder can be written
            _say_uncached()
            return cast(F, numba.njit(**settings)(function))

    return compile_function


def sources_digest() -> str:
    """Of all files that kernels are compiled from.

    numba compiles again when the file of a kernel changes, and knows nothing of the files that it calls into; but what
    a kernel closes over is part of the key under which it is kept.
    """
    return hashlib.sha256(b"".join((Path(__file__).parent / name).read_bytes() for name in SOURCES)).hexdigest()
