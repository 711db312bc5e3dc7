"""Progress away from a terminal: everything is yielded, and lines come only for long work."""

import subprocess
import sys

import pytest

from sioconv import progress
from sioconv.progress import say, track


def test_yields_everything_and_says_nothing_of_short_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert list(track(iter("ab"), "letters", 2)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_says_how_long_long_work_took(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 112.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert len(list(track(range(1234), "counting"))) == 1234
    assert capsys.readouterr().err == "counting: 1,234 in 12 s\n"


def test_says_lines_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    say("[bold]宮城県([/bold] " + "x" * 300)
    assert capsys.readouterr().err == "[bold]宮城県([/bold] " + "x" * 300 + "\n"


def test_work_goes_on_where_nobody_reads_what_is_said() -> None:
    """A pipe whose reader has gone, as in `sioconv pretrain … 2>&1 | head`."""
    code = (
        "import os\n"
        "read, write = os.pipe(); os.dup2(write, 2); os.close(write); os.close(read)\n"
        "from sioconv.progress import say\n"
        "say('one'); say('two'); print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n")
