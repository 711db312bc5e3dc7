"""Files that appear whole or not at all."""

import difflib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sioconv.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# What stands in the place of a file that was not fetched: Git LFS, also under its first names; git-annex; a symbolic
# link where git makes none.
LFS_POINTER = re.compile(
    rb"(?:\xef\xbb\xbf)?version https?://(?:git-lfs|hawser)\.github\.com/spec/|version http://git-media"
)
ANNEX_POINTER = re.compile(rb"(?:\.\./)*(?:\.git|)/annex/objects/\S+\s*\Z")
LINK_AS_TEXT = re.compile(rb"\.\.?/[^\s\x00]+\Z")
POINTER_BYTES = 512  # that tell one; a longer file is none but of Git LFS
OLD = ".old"  # ends the name of a folder that has been moved aside
LEFTOVER = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}(\.old)?", re.DOTALL)  # the names of `_temporary`, and tempfile's
# Characters that would end a line, move the cursor or turn the direction of what follows.
UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(path: str | os.PathLike[str]) -> str:
    """A path on one line that can be printed and written as UTF-8: other characters and bytes as they are escaped."""
    return UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), os.fspath(path))


def pointer_of(head: bytes) -> tuple[str, str] | None:
    """What stands in the place of a file, and what to do; None where it is a file.

    Args:
        head: its first `POINTER_BYTES` bytes.
    """
    if LFS_POINTER.match(head):
        return "a Git LFS pointer, not the file itself", "fetch it with git lfs pull"
    if len(head) < POINTER_BYTES and ANNEX_POINTER.match(head):
        return "a pointer of git-annex, not the file itself", "fetch it with git annex get"
    if len(head) < POINTER_BYTES and LINK_AS_TEXT.match(head):
        return "a symbolic link that git has written as text", "put the file that it names in its place"
    return None


def refuse_pointer(file: Path) -> None:
    """Raises UserError for a file in whose place stands a pointer (Git LFS, git-annex); none is nobody's."""
    if file.is_file():
        with file.open("rb") as stream:
            if pointer := pointer_of(stream.read(POINTER_BYTES)):
                raise UserError(f"{shown(file)} is {pointer[0]}: {pointer[1]}")


def refuse_existing(out: Path) -> None:
    """Raises UserError where something is in the place of a folder that is to be new."""
    if os.path.lexists(out):
        raise UserError(f"{shown(out)} is already there: choose another name, or remove it")


def missing(path: str | os.PathLike[str]) -> str:
    """What is not there of a path, where it was looked for, and names there that are like it."""
    place = Path(path)
    whole = Path.cwd() / place  # not resolved: the user's own words are to be found in it
    first = next((part for part in [*reversed(whole.parents), whole] if not os.path.lexists(part)), whole)
    try:
        names = sorted(shown(each.name) for each in first.parent.iterdir())
    except OSError:
        names = []
    alike = difflib.get_close_matches(shown(first.name), names, n=3, cutoff=0.6)
    return (
        f"there is no {shown(first.name)} in {shown(first.parent)}"
        + (", where relative paths begin" if first.parent == Path.cwd() and not place.is_absolute() else "")
        + (f"; did you mean {' or '.join(alike)}?" if alike else "")
    )


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
        if number == errno.ENAMETOOLONG:
            raise UserError(f"too long a name for the disk: writing {target}: choose a shorter one") from error
        if number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise UserError(f"a file is in the way: writing {target}: move it or choose another folder") from error
        if number == errno.ELOOP or (number == errno.ENOENT and target.is_symlink()):
            raise UserError(f"a link that leads nowhere is in the way: writing {target}: remove it") from error
        if number in (errno.ENOENT, errno.ESTALE) and not target.parent.is_dir():
            raise gone(target.parent) from error
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
def atomic_write(target: Path, private: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `target`; renames it onto `target` on success, removes it on failure.

    The file gets the rights that the user's umask leaves, or those of the file whose place it takes.

    Args:
        target: the file. Where it is a link, the link is replaced and what it leads to stays as it is.
        private: whether nobody but the owner may read it; and the group, where the umask leaves it all rights.

    Raises:
        UserError: the disk is full, or the folder can't be written or is gone.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # what can't be taken away stops nobody
            sweep(target)
        temporary, handle = _begin(target, lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666)))
        try:
            if target.is_file() and not target.is_symlink():
                temporary.chmod(target.stat().st_mode & 0o777)
            elif private:
                shared = temporary.stat().st_mode & 0o060 == 0o060
                temporary.chmod(0o660 if shared else 0o600)
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a new empty folder beside `target`; it takes `target`'s place on success, is removed on failure.

    An older `target` is moved aside before the rename and removed after it, so that a crash leaves one of the two:
    `remove_leftovers` puts it back. Where it is a link, the link is replaced and what it leads to stays as it is.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # what can't be taken away stops nobody
            sweep(target)
        temporary, handle = _begin(target, Path.mkdir)
        try:
            yield temporary
            rights = temporary.stat().st_mode & 0o666
            for file in temporary.iterdir():  # safetensors lets nobody but the owner read what it writes
                if file.is_file():
                    file.chmod(rights | file.stat().st_mode & 0o111)
            old = temporary.with_name(temporary.name + OLD)
            if os.path.lexists(target):
                target.rename(old)
            temporary.rename(target)
            remove(old)
        finally:
            remove(temporary)
            os.close(handle)


@contextmanager
def work_folder(name: Path) -> Iterator[Path]:
    """Yields a new empty folder, hidden beside `name`, that only this user can read; it is removed at the end.

    What a killed process has left there under that name is removed first, and by `sweep`. So is the folder above, at
    the end, where it was made for this and nothing else has come into it.

    Args:
        name: where, and what it is for; nothing gets this very name.

    Raises:
        UserError: the disk is full, or the folder above can't be written.
    """
    with disk_errors(name):
        made = not name.parent.exists()
        name.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # what can't be taken away stops nobody
            sweep(name)
        folder, handle = _begin(name, lambda path: path.mkdir(mode=0o700))
    try:
        yield folder
    finally:
        remove(folder)
        os.close(handle)
        if made:
            with suppress(OSError):
                name.parent.rmdir()


def hidden_folder(target: Path) -> Path:
    """A new empty folder beside `target`, in which what shall become `target` is made."""
    temporary = _temporary(target)
    temporary.mkdir()
    return temporary


def _temporary(target: Path) -> Path:
    """A new name beside `target`: hidden, so that nothing takes it for the file, and known to `remove_leftovers`."""
    if target.name in ("", ".."):
        raise UserError(f"{target} names no file: say how what is written there shall be called")
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}")


def _begin(target: Path, make: Callable[[Path], object]) -> tuple[Path, int]:
    """What is to become `target`, made under a new name, and the handle of a lock that tells `sweep` to leave it."""
    while True:
        temporary = _temporary(target)
        try:
            make(temporary)
        except FileNotFoundError as error:  # /proc takes no new names and says so in this way
            if not target.parent.is_dir():
                raise
            raise UserError(f"not allowed to write: {target}: choose another folder") from error
        if fcntl is None:
            return temporary, os.open(os.devnull, os.O_RDONLY)
        try:
            handle = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:  # a sweep was faster than the lock, and has taken it away
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.lexists(temporary):
                return temporary, handle
        except BlockingIOError:  # or is doing so
            pass
        except OSError:  # a disk without locks, where nothing is swept
            return temporary, handle
        os.close(handle)


def sweep(target: Path) -> None:
    """Removes what killed writers of this very target have left beside it; what another one is writing stays.

    A folder that was moved aside for one that never came is put back.
    """
    for path in leftovers(target.parent, re.compile(re.escape(target.name))) if fcntl else ():
        aside = path.name.endswith(OLD)
        owner = path.with_name(path.name.removesuffix(OLD))
        if aside and os.path.lexists(owner):
            continue  # its writer's turn, or that of the sweep that comes to it
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or a link, which nobody of us makes
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it is being written, or this disk has no locks
            continue
        else:
            if aside and not os.path.lexists(target):
                path.rename(target)
            else:
                remove(path)
        finally:
            os.close(handle)


def leftovers(folder: Path, names: re.Pattern[str]) -> Iterator[Path]:
    """What killed writers of files and folders with such names have left in a folder.

    Args:
        folder: is looked through, but not what is below it.
        names: what was written, as a pattern of the whole name.
    """
    for path in sorted(folder.iterdir()):
        match = LEFTOVER.fullmatch(path.name)
        if match and names.fullmatch(match["name"]):
            yield path


def remove_leftovers(folder: Path, names: re.Pattern[str]) -> None:
    """Removes the `leftovers` of a folder in which nobody else is working.

    What was moved aside for a new one that never came is put back.

    Raises UserError where something may not be removed.
    """
    with disk_errors(folder):
        for path in leftovers(folder, names):
            match = LEFTOVER.fullmatch(path.name)
            target = path.with_name(match["name"]) if match else path
            if path.name.endswith(OLD) and not os.path.lexists(target):
                path.rename(target)
            else:
                remove(path)


def remove(path: Path) -> None:
    """Removes a file, a folder with all that is in it, or a link and not what it leads to; nothing where none is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Whereabouts:
    """Where a folder is when work in it begins, to notice that it was renamed or removed meanwhile.

    Args:
        folder: the folder; it must be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with disk_errors(folder / "."):
            self._place = self._look()

    def _look(self) -> tuple[int, int]:
        found = self.folder.stat()
        return found.st_dev, found.st_ino

    def check(self) -> None:
        """Raises UserError when the folder isn't there any more, or is another one."""
        try:
            same = self._look() == self._place
        except OSError:
            same = False
        if not same:
            raise gone(self.folder)


def gone(folder: Path) -> UserError:
    """What is said of a folder that isn't there any more."""
    return UserError(
        f"{folder} is no longer there: it was renamed or removed while this was working in it: "
        "put it back and run the same line again"
    )


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
