"""Signals that are remembered."""

import os
import signal
import threading
from pathlib import Path

import pytest

from sioconv.train.signals import SIGNALS, StopSignals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_remembered_and_the_handler_before_it_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.came is None
        os.kill(os.getpid(), number)
        assert stop.came == ("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
    assert signal.getsignal(number) == before


def test_another_thread_leaves_signals_alone() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    seen: list[object] = []

    def work() -> None:
        with StopSignals() as stop:
            seen.extend([stop.came, [signal.getsignal(number) for number in SIGNALS]])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None, before]


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_second_ctrl_c_ends_at_once(tmp_path: Path, second: signal.Signals) -> None:
    """And the first is remembered; what torchrun sends on at once is the same one again."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 2)
        from sioconv.train import signals as interrupt

        with interrupt.StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            if stop.came != "Ctrl-C":
                os._exit(1)
            interrupt.SAME_SECONDS = 0.0
            os.kill(os.getpid(), second)  # SIGTERM is what torchrun makes of it
            os._exit(2)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read, encoding="utf-8") as stream:
        said = stream.read().split("\n")
    assert os.waitstatus_to_exitcode(status) == 130
    assert [line for line in said if line] == [
        "sioconv: Ctrl-C: finishes this step and saves; once more ends at once",
        "sioconv: interrupted",
    ]
    assert not list(tmp_path.iterdir())
