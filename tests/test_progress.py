"""Progress: everything is yielded; away from a terminal lines come only for long work."""

import os
import subprocess
import sys

import pyte
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


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_what_is_logged_beside_a_bar_stands_on_a_line_of_its_own() -> None:
    import pty

    code = (
        "import logging\n"
        "from sioconv.cli.main import _quiet_libraries\n"
        "from sioconv.progress import track\n"
        "_quiet_libraries()\n"
        "for i in track(range(3), 'counting'):\n"
        "    logging.getLogger('sioconv').info(f'[bold] {i} of three')\n"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=theirs, stdout=theirs, env=os.environ | {"COLUMNS": "80"}
    ):
        os.close(theirs)
        screen = pyte.Screen(80, 24)
        stream = pyte.ByteStream(screen)
        while piece := _read(ours):
            stream.feed(piece)
    os.close(ours)
    assert [line.rstrip() for line in screen.display if line.strip()] == [f"[bold] {i} of three" for i in range(3)]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the process has gone
        return b""
