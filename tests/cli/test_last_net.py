"""Whatever ends a verb: one line, the right exit code, and a traceback in a file where the program is at fault."""

import errno
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from sioconv.cli import main as cli
from sioconv.cli.last_net import exit_code_of, keep_traceback
from sioconv.errors import StoppedError, UserError
from tests.test_terminal import ENVIRONMENT


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that tracebacks go to."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def raiser(error: BaseException) -> Callable[[], object]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no file: a\x1b[2Jb: give one"), 2, "no file: a␛[2Jb: give one"),
        (UserError("two\nlines"), 2, "two⏎lines"),
        (StoppedError("SIGTERM: saved"), 75, "SIGTERM: saved"),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 2, "not enough memory"),
        (RuntimeError("can't start new thread"), 2, "no more threads or processes"),
        (BaseException("global thread pool has not been initialized: ThreadPoolBuildError {}"), 2, "no more threads"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), 2, "no more threads or processes"),
        (OSError(errno.EMFILE, "Too many open files", "data/a.ds"), 2, "data/a.ds: too many open files"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), 2, "a" * 300 + ": the name of a file is too"),
        (PermissionError(errno.EACCES, "Permission denied", "secret"), 2, "secret: not allowed"),
    ],
)
def test_what_is_known_is_one_line(
    capsys: pytest.CaptureFixture[str], temporary: Path, error: BaseException, code: int, line: str
) -> None:
    assert exit_code_of(raiser(error)) == code
    said = capsys.readouterr().err
    assert said.startswith(f"sioconv: {line}") and said.count("\n") == 1
    assert not list(temporary.iterdir())


def test_a_variable_that_a_library_cant_read_is_named(
    capsys: pytest.CaptureFixture[str], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary / "library_that_reads.py").write_text("import os\nint(os.environ['HF_SECONDS'])\n", encoding="utf-8")
    monkeypatch.syspath_prepend(temporary)
    monkeypatch.setenv("HF_SECONDS", "abc")
    monkeypatch.setenv("OMP_OTHER", "1")
    assert exit_code_of(lambda: import_module("library_that_reads")) == 2
    said = capsys.readouterr().err
    assert said.startswith("sioconv: can't import library_that_reads: ValueError: invalid literal for int()")
    assert said.endswith(": check HF_SECONDS in the environment\n")
    assert not list(temporary.glob("sioconv-error-*"))


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("division by zero"),
        RecursionError("maximum recursion depth exceeded"),
        KeyError("layers\n.0"),
        AssertionError(),
        SystemExit("a library wants to end the process"),
        SystemExit(0),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),  # of something else than our output
        ExceptionGroup("several", [ValueError("one")]),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    ],
)
def test_what_nobody_foresaw_is_one_line_and_a_file(
    capsys: pytest.CaptureFixture[str], temporary: Path, error: BaseException
) -> None:
    assert exit_code_of(raiser(error)) == 70
    said = capsys.readouterr().err
    (file,) = temporary.iterdir()
    assert re.fullmatch(rf"sioconv: unexpected {type(error).__name__}\b.*: the traceback is in {file}\n", said)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = file.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in kept and type(error).__name__ in kept and "Python 3." in kept


def test_no_folder_for_a_traceback_is_still_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    assert keep_traceback(ValueError("a")) is None
    assert exit_code_of(raiser(ValueError("a"))) == 70
    assert "its traceback could not be written to any folder\n" in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_a_second_one_is_not_caught(capsys: pytest.CaptureFixture[str]) -> None:
    usual = signal.getsignal(signal.SIGINT)
    try:
        assert exit_code_of(raiser(KeyboardInterrupt())) == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, usual)
    assert capsys.readouterr().err == "sioconv: interrupted\n"


def test_a_thread_that_fails_says_so_in_one_line(capsys: pytest.CaptureFixture[str], temporary: Path) -> None:
    usual = threading.excepthook

    def work() -> None:
        thread = threading.Thread(target=raiser(ValueError("in a thread")))
        thread.start()
        thread.join()

    assert exit_code_of(work) == 0
    (file,) = temporary.iterdir()
    assert capsys.readouterr().err.endswith(f"please report it: the traceback is in {file}\n")
    assert threading.excepthook is usual


def test_a_fault_in_a_verb_of_a_real_process(tmp_path: Path) -> None:
    code = (
        "import sioconv.cli.main as cli\n"
        "from dataclasses import replace\n"
        "cli.VERBS['report'] = replace(cli.VERBS['report'], call=lambda _: 1 / 0)\n"
        "cli.main(['report', 'run'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 70
    assert re.fullmatch(r"sioconv: unexpected ZeroDivisionError: division by zero: .*\n", done.stderr)


def test_help_ends_well_without_the_net(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate", "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().err == ""
