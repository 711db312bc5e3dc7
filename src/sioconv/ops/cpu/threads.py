"""Threads for the compiled kernels: which threading layer numba takes, and how many threads."""

import ctypes
import importlib.metadata
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import numba
import torch

logger = logging.getLogger("sioconv")

_numba: Any = numba  # its type hints leave out what it sets up at run time
_lock = threading.Lock()
_layers: list[str | None] = []  # the layer once it is started, None for no layer


def form_of(parallel: Callable[..., None], serial: Callable[..., None]) -> Callable[..., None]:
    """Which of the two forms of a kernel `run_tasks` takes."""
    return serial if _layer() is None else parallel


def threads() -> int:
    """How many threads `run_tasks` takes."""
    return 1 if _layer() is None else min(torch.get_num_threads(), _numba.config.NUMBA_NUM_THREADS)


def run_tasks(parallel: Callable[..., None], serial: Callable[..., None], *arguments: Any) -> None:
    """Run a kernel over the tasks that its arguments name, with as many threads as torch uses.

    Serially where numba has no layer.

    One thread takes the parallel kernel too: the compiler may fuse other operations in the serial one, and
    results shall not depend on the number of threads.
    """
    if _layer() is None:
        serial(*arguments)
        return
    before, wanted = numba.get_num_threads(), threads()
    if before == wanted:
        parallel(*arguments)
        return
    numba.set_num_threads(wanted)
    try:
        parallel(*arguments)
    finally:
        numba.set_num_threads(before)


def _layer() -> str | None:
    with _lock:
        if not _layers:
            _layers.append(_start_layer())
        return _layers[0]


def _start_layer() -> str | None:
    """Start numba's threads on tbb, else OpenMP.

    Never on workqueue, which ends the process when two Python threads run kernels at once. A layer that other
    code has started before can't be changed.
    """
    try:
        name = _numba.threading_layer()
    except ValueError:  # not started yet
        _load_tbb()
        wanted = _numba.config.THREADING_LAYER
        _numba.config.THREADING_LAYER = "threadsafe"
        try:
            numba.get_num_threads()
            name = _numba.threading_layer()
        except ValueError:  # neither tbb nor OpenMP is there
            name = "none"
        finally:
            _numba.config.THREADING_LAYER = wanted
    if name in ("tbb", "omp"):
        logger.info("scan: the cpu backend's threads run on %s", name)
        return str(name)
    logger.warning(
        "scan: the cpu backend runs on one thread, since numba %s: install tbb, or call scan before other "
        "parallel numba code",
        "finds neither tbb nor OpenMP" if name == "none" else f"has already started its threads on {name}",
    )
    return None


def _load_tbb() -> None:
    """Load the tbb package's library, which lies in a folder that the loader doesn't search; numba finds it then."""
    try:
        files = importlib.metadata.files("tbb") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name in ("libtbb.so.12", "tbb12.dll"):
            try:
                ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                logger.warning("scan: the tbb package's library can't be loaded: %s", error)


def _after_fork() -> None:
    """A forked child has none of its parent's threads: tbb starts new ones, OpenMP would end the process."""
    global _lock
    _lock = threading.Lock()
    if _layers and _layers[0] == "omp":
        _layers[0] = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
