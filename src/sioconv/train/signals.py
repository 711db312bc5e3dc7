"""A polite end on Ctrl-C, SIGTERM or SIGUSR1."""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, Self

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
# torchrun hands Ctrl-C, which its processes have from the terminal already, on to them: that isn't the second one.
SAME_SECONDS = 1.0


class StopSignals:
    """Remembers that Ctrl-C, SIGTERM or SIGUSR1 came, in place of ending the process; a context manager.

    A second Ctrl-C, which torchrun hands on as SIGTERM, ends the process at once, with code 130: what is half-written
    then is hidden, and the next command removes it. Only the main thread may ask for signals: elsewhere it does
    nothing.

    Args:
        speaks: whether this process says what the first Ctrl-C does.

    Attributes:
        came: the signal's name; None while there was none.
    """

    def __init__(self, speaks: bool = True) -> None:
        self.came: str | None = None
        self._speaks = speaks
        self._interrupted: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.came = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        now = time.monotonic()
        if self._interrupted is None:
            if number == signal.SIGINT:
                self._interrupted = now
                if self._speaks:
                    _tell("Ctrl-C: finishes this step and saves; once more ends at once")
        elif number in (signal.SIGINT, signal.SIGTERM) and now - self._interrupted >= SAME_SECONDS:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h")  # the bar has hidden the cursor
            _tell("interrupted")
            os._exit(130)  # an exception would first wait for what is being written


def _tell(text: str) -> None:
    os.write(2, f"\nsioconv: {text}\n".encode())  # not by `print`, which this may have interrupted
