"""sioconv.data.interruptible: signals end long work at once, and what is raised in it comes out."""

import os
import signal
import threading
import time

import pytest

from sioconv.data.interruptible import interruptible, stopped_by_sigterm
from sioconv.errors import StoppedError, UserError


def test_results_and_errors_come_out() -> None:
    assert interruptible(lambda: 3) == 3

    def fails() -> None:
        raise UserError("no such file")

    with pytest.raises(UserError, match="no such file"):
        interruptible(fails)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_wait_for_work_that_goes_on() -> None:
    started, free = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        free.wait(60)

    def interrupt() -> None:
        started.wait(60)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(work)
    free.set()


def test_sigterm_is_an_end_that_tidies_up() -> None:
    tidied = []
    with (
        pytest.raises(StoppedError, match="data x: stopped by SIGTERM: run the same line again"),
        stopped_by_sigterm("data x"),
    ):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # the same signal again, as a whole group of processes gets it
            tidied.append(1)
    assert tidied and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_handles_sigterm_already_goes_on_doing_so() -> None:
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with stopped_by_sigterm("data x"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]
