"""Signals that are remembered, and a folder that only one works in."""

import os
import signal
import threading
from pathlib import Path

import pytest

from sioconv.errors import UserError
from sioconv.train.interrupt import SIGNALS, StopSignals, only_one


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_remembered_and_the_handler_before_it_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.came is None
        os.kill(os.getpid(), number)
        assert stop.came == signal.Signals(number).name
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


def test_a_folder_is_worked_in_by_one_and_free_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    with only_one(folder), pytest.raises(UserError, match="another process is working in") as refused, only_one(folder):
        pass
    assert str(folder) in str(refused.value)
    with only_one(folder), only_one(tmp_path / "runs" / "other"):
        assert list(folder.iterdir()) == []
