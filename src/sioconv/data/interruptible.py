"""Ending long work when somebody asks for it: Ctrl-C while a library in Rust computes, and SIGTERM."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from sioconv.errors import StoppedError

T = TypeVar("T")
LOOK = 0.2  # seconds between looks whether the work is done


def interruptible(work: Callable[[], T]) -> T:
    """The result of `work`, done in a thread of its own, so that a signal ends the wait for it at once.

    Python handles signals in the main thread only, and there not before a library's call returns. Where the wait ends
    early the call goes on without anybody waiting, until it is done or the process ends.

    Raises what `work` raises.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again below, in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK)
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def stopped_by_sigterm(what: str) -> Iterator[None]:
    """Raises StoppedError when SIGTERM comes, so that what is half made is tidied up before the process ends.

    Where somebody else handles SIGTERM, or outside the main thread, it does nothing.

    Args:
        what: the work, for the message.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        # Whoever ends a whole group of processes, as the command timeout does, sends it twice: one is enough.
        signal.signal(number, signal.SIG_IGN)
        raise StoppedError(f"{what}: stopped by SIGTERM: run the same line again to go on")

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
