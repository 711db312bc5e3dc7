"""Files that appear whole or not at all."""

import difflib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sioconv.errors import UserError

# Characters that would end a line, move the cursor or turn the direction of what follows.
UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(path: str | os.PathLike[str]) -> str:
    """A path on one line that can be printed and written as UTF-8: other characters and bytes as they are escaped."""
    return UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), os.fspath(path))


def missing(path: str | os.PathLike[str]) -> str:
    """What is not there of a path, where it was looked for, and names there that are like it."""
    place = Path(path).expanduser()
    whole = Path.cwd() / place  # not resolved: the user's own words are to be found in it
    first = next(part for part in [*reversed(whole.parents), whole] if not os.path.lexists(part))
    try:
        names = sorted(shown(each.name) for each in first.parent.iterdir())
    except OSError:
        names = []
    alike = difflib.get_close_matches(shown(first.name), names, n=3, cutoff=0.6)
    relative = "" if place.is_absolute() else ", where relative paths begin" * (first.parent == Path.cwd())
    question = f"; did you mean {' or '.join(alike)}?" if alike else ""
    return f"there is no {shown(first.name)} in {shown(first.parent)}{relative}{question}"


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turns a full disk or a path that can't be written into a one-line `UserError` that names `target`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = _system_error(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no disk space left: writing {target}: free some space and run again") from error
        if number == errno.EFBIG:
            raise UserError(
                f"too large a file for the disk or for this user's limit: writing {target}: see ulimit -f"
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"not allowed to write: {target}: choose another folder") from error
        if number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise UserError(f"a file is in the way: writing {target}: move it or choose another folder") from error
        raise


def _system_error(error: BaseException | None) -> int | None:
    """The operating system's number of an error that libraries wrap (torch) or quote (those written in Rust)."""
    while error is not None:
        if isinstance(error, OSError):
            return error.errno
        if quoted := re.search(r"\(os error (\d+)\)", str(error)):
            return int(quoted[1])
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`; renames it onto `target` on success, removes it on failure.

    Raises `UserError` when the disk is full or the folder can't be written.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a new empty folder beside `target`; it takes `target`'s place on success, is removed on failure.

    An older `target` is moved aside before the rename and removed after it, so that a crash leaves one of the two.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            old = temporary.with_name(temporary.name + ".old")
            if target.exists():
                target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
