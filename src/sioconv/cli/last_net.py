"""The last net of the command line: whatever ends a verb, the user sees one line and the right exit code."""

import contextlib
import errno
import os
import platform
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from sioconv import __version__
from sioconv.errors import StoppedError, UserError
from sioconv.terminal import OutputError, complain, drop_output, write_out

BAD_INPUT, UNEXPECTED, STOPPED, INTERRUPTED = 2, 70, 75, 130  # 70 and 75: EX_SOFTWARE and EX_TEMPFAIL of sysexits.h
# What the libraries read when they are imported.
_LIBRARIES = "HF|HUGGINGFACE|KMP|MKL|MPL|NUMBA|OMP|PYTHON|PYTORCH|TOKENIZERS|TORCH|TRANSFORMERS|TRITON|USE"
VARIABLE = re.compile(f"({_LIBRARIES})")
# What the system has no more of, or doesn't take; what a caller knows better it says itself.
SYSTEM_LIMITS = {
    errno.EMFILE: "too many open files: see ulimit -n, or have fewer workers or sources",
    errno.ENFILE: "too many open files on this machine: close some programs",
    errno.EAGAIN: "no more threads or processes: see ulimit -u, or take fewer workers or threads",
    errno.ENOMEM: "not enough memory: take a smaller batch, fewer workers or a smaller model",
    errno.ENOSPC: "no disk space left: free some space and run again",
    errno.EDQUOT: "no disk space left for this user: free some space and run again",
    errno.ENAMETOOLONG: "the name of a file is too long for the disk: choose a shorter one",
    errno.ELOOP: "too many symbolic links: check the path",
    errno.EACCES: "not allowed: check the path and its rights",
    errno.EPERM: "not allowed: check the path and its rights",
    errno.EROFS: "not allowed to write here: choose another folder",
    errno.EIO: "the disk or device fails: check it",
}


def exit_code_of(work: Callable[[], object]) -> int:
    """Does `work` and returns the exit code; says in one line on standard error what ended it early.

    0, or 2 where something outside the program is not as it must be, 70 where the program itself is wrong (the
    traceback is then in a file), 75 where a signal ended it and there is more to do, 130 on Ctrl-C.
    """
    with _threads_in_the_net():
        try:
            work()
            write_out("")
        except KeyboardInterrupt:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends the cleaning up at once, silently
            complain("interrupted")
            return INTERRUPTED
        except BaseException as error:  # also SystemExit: libraries must not choose our exit code
            return _code_after(error)
    return 0


def _code_after(error: BaseException) -> int:
    if isinstance(error, OutputError):
        drop_output(1)
        if error.gone:
            return 0
        complain(f"can't write to standard output: {error.reason}: give it another place")
        return BAD_INPUT
    if isinstance(error, UserError):
        complain(str(error))
        return BAD_INPUT
    if isinstance(error, StoppedError):
        complain(str(error))
        return STOPPED
    if known := _limit_of_the_system(error) or _failed_import(error):
        complain(known)
        return BAD_INPUT
    complain(_unexpected(error))
    return UNEXPECTED


def _limit_of_the_system(error: BaseException) -> str | None:
    """An error that says what the machine lacks, in words; None for every other."""
    text = str(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text.lower():
        return SYSTEM_LIMITS[errno.ENOMEM]
    # Python's words, and those of the pool of threads that libraries in Rust have.
    if "can't start new thread" in text or "ThreadPoolBuildError" in text:
        return SYSTEM_LIMITS[errno.EAGAIN]
    if isinstance(error, OSError) and error.errno in SYSTEM_LIMITS:
        name = f"{error.filename}: " if isinstance(error.filename, str) else ""
        return f"{name}{SYSTEM_LIMITS[error.errno]}"
    return None


def _failed_import(error: BaseException) -> str | None:
    """What a library raises while it is imported, as for a variable of the environment that it can't read, in words.

    None for what was raised elsewhere.
    """
    ours = str(Path(__file__).parents[1])
    frames = traceback.extract_tb(error.__traceback__)
    files = [frame.filename for frame in frames if frame.name == "<module>" and ours not in frame.filename]
    if not files or not isinstance(error, Exception):
        return None
    file = files[-1]
    parts = Path(file).parts
    library = parts[parts.index("site-packages") + 1] if "site-packages" in parts[:-1] else Path(file).stem
    said = " ".join(str(error).split())
    read = [(name, value) for name, value in sorted(os.environ.items()) if VARIABLE.match(name) and value]
    names = [name for name, value in read if re.search(rf"(?<!\w){re.escape(value)}(?!\w)", said)]
    advice = f"check {' and '.join(names)} in the environment" if names else "check its installation"
    return f"can't import {library}: {type(error).__name__}: {said[:200]}: {advice}"


def _unexpected(error: BaseException) -> str:
    """The line for an error that nobody foresaw: its kind, what it says, and the file that holds the traceback."""
    said = " ".join(str(error).split())[:200]
    kind = type(error).__name__
    place = keep_traceback(error)
    kept = f"the traceback is in {place}" if place else "its traceback could not be written to any folder"
    return f"unexpected {kind}{': ' * bool(said)}{said}: this is a fault of sioconv, please report it: {kept}"


def keep_traceback(error: BaseException) -> Path | None:
    """Writes an error's traceback to a new file in the temporary folder that only this user can read.

    None where no folder takes it.
    """
    try:
        handle, name = tempfile.mkstemp(prefix="sioconv-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"sioconv {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
            stream.write(f"{sys.argv}\n\n")
            stream.writelines(traceback.format_exception(error))
    except (OSError, MemoryError):  # a full disk must not hide the error itself
        return None
    return Path(name)


@contextlib.contextmanager
def _threads_in_the_net() -> Iterator[None]:
    """A thread that ends by an error says so in one line too."""
    usual = threading.excepthook

    def say_in_one_line(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None and failed.exc_type is not SystemExit:
            complain(_limit_of_the_system(failed.exc_value) or _unexpected(failed.exc_value))

    threading.excepthook = say_in_one_line
    try:
        yield
    finally:
        threading.excepthook = usual
