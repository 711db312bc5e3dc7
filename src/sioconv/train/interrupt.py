"""A polite end on SIGTERM or SIGUSR1, and one process at a time in a run's folder."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

from sioconv.errors import UserError
from sioconv.files import disk_errors

if sys.platform != "win32":
    import fcntl

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StopSignals:
    """Remembers that SIGTERM or SIGUSR1 came, in place of ending the process; a context manager.

    Only the main thread may ask for signals: elsewhere it does nothing.

    Attributes:
        came: the signal's name; None while there was none.
    """

    def __init__(self) -> None:
        self.came: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.came = signal.Signals(number).name


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds a lock on a folder while a run works in it; when the process ends, however it does, the system frees it.

    Raises UserError when another process holds it. On Windows, which has no such locks of folders, it does nothing.
    """
    if sys.platform == "win32":
        yield
        return
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is working in {folder}: wait for it or stop it, or choose another --name"
            ) from error
        yield
    finally:
        os.close(handle)
