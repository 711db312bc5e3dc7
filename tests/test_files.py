"""Files and folders that appear whole or not at all."""

import contextlib
import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from sioconv.errors import UserError
from sioconv.files import atomic_folder, atomic_write, disk_errors, sha256_file, work_folder

Atomic = Callable[[Path], AbstractContextManager[Path]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(temporary: Path, text: str) -> None:
    file = temporary / "a" if temporary.is_dir() else temporary
    file.write_text(text, encoding="utf-8")


def content(target: Path) -> str:
    return (target / "a" if target.is_dir() else target).read_text(encoding="utf-8")


@pytest.fixture(params=[atomic_write, atomic_folder], ids=["file", "folder"])
def atomic(request: pytest.FixtureRequest) -> Atomic:
    found: Atomic = request.param
    return found


def test_appears_at_the_end_and_not_before(tmp_path: Path, atomic: Atomic) -> None:
    target = tmp_path / "new" / "folder" / "川"
    with atomic(target) as temporary:
        fill(temporary, "山")
        assert temporary.parent == target.parent  # a rename there can't run out of space
        assert temporary.name.startswith(".")
        assert not target.exists()
    assert content(target) == "山"
    assert names(target.parent) == ["川"]


def test_takes_the_place_of_an_older_one(tmp_path: Path, atomic: Atomic) -> None:
    target = tmp_path / "target"
    for text in ("old", "new"):
        with atomic(target) as temporary:
            fill(temporary, text)
    assert content(target) == "new"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("name", [".", "..", "/", "../a/.."])
def test_what_names_no_file_is_refused(
    atomic: Atomic, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(UserError, match="names no file"), atomic(Path(name)) as temporary:
        fill(temporary, "new")
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == []


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), UserError("no"), OSError(errno.EIO, "no")])
def test_a_failure_leaves_the_older_one(tmp_path: Path, atomic: Atomic, error: BaseException) -> None:
    target = tmp_path / "target"
    with atomic(target) as temporary:
        fill(temporary, "old")
    with pytest.raises(type(error)) as raised, atomic(target) as temporary:
        fill(temporary, "half of the n")
        raise error
    assert raised.value is error
    assert content(target) == "old"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o007, 0o002])
def test_rights_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "file") as temporary:
            temporary.write_text("x")
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "inside").write_text("x")
            (temporary / "inside").chmod(0o600)  # as safetensors leaves it
        with atomic_write(tmp_path / "private", private=True) as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    for name, rights in (("file", 0o666), ("folder", 0o777), ("folder/inside", 0o666)):
        assert (tmp_path / name).stat().st_mode & 0o777 == rights & ~umask, name
    shared = umask & 0o070 == 0  # the group has all rights
    assert (tmp_path / "private").stat().st_mode & 0o777 == (0o660 if shared else 0o600)


def test_a_file_that_takes_the_place_of_another_has_its_rights(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    target.chmod(0o640)
    with atomic_write(target) as temporary:
        temporary.write_text("new")
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("leads", ["a file", "a folder", "nowhere", "to itself"])
def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path, atomic: Atomic, leads: str) -> None:
    away, target = tmp_path / "away", tmp_path / "target"
    if leads == "a folder":
        away.mkdir()
        (away / "kept").write_text("x")
    elif leads == "a file":
        away.write_text("x")
    target.symlink_to(target if leads == "to itself" else away)
    with atomic(target) as temporary:
        fill(temporary, "new")
    assert content(target) == "new" and not target.is_symlink()
    assert names(tmp_path) == (["away", "target"] if leads.startswith("a ") else ["target"])
    assert leads != "a folder" or names(away) == ["kept"]


def test_others_may_read_them(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("x")
    with atomic_folder(tmp_path / "folder") as temporary:
        pass
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


def test_a_folder_is_replaced_with_all_that_was_in_it(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "stale").write_text("x")
    with atomic_folder(target) as temporary:
        (temporary / "fresh").write_text("y")
    assert names(target) == ["fresh"]


def quoted_by_rust() -> None:
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def wrapped_by_torch() -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError:
        raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 (as torch does)


def quota() -> None:
    raise OSError(errno.EDQUOT, "Disk quota exceeded")


@pytest.mark.parametrize("fail", [quoted_by_rust, wrapped_by_torch, quota])
def test_a_full_disk_is_one_line_whatever_the_library_makes_of_it(
    tmp_path: Path, atomic: Atomic, fail: Callable[[], None]
) -> None:
    message = r"^no disk space left: writing .*target: free some space"
    with pytest.raises(UserError, match=message) as raised, atomic(tmp_path / "target") as temporary:
        fill(temporary, "half")
        fail()
    assert "\n" not in str(raised.value)
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_device_that_is_really_full(tmp_path: Path) -> None:
    full = Path("/dev/full")
    with pytest.raises(UserError, match="no disk space left"), disk_errors(tmp_path), full.open("wb") as stream:
        stream.write(b"x")
        stream.flush()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_forbidden_place_is_one_line(tmp_path: Path, number: int) -> None:
    with pytest.raises(UserError, match="not allowed to write"), disk_errors(tmp_path):
        raise OSError(number, "no")


def test_a_file_where_a_folder_must_be_is_one_line(tmp_path: Path, atomic: Atomic) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="a file is in the way"), atomic(tmp_path / "runs" / "demo") as temporary:
        fill(temporary, "x")
    assert names(tmp_path) == ["runs"]


@pytest.mark.parametrize("error", [ValueError("a mistake"), OSError(errno.EIO, "broken"), KeyError("a")])
def test_other_errors_pass(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, disk_errors(tmp_path):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sha256(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "x").write_bytes(data[:size])
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data[:size]).hexdigest()


KILLED = """
import os, signal, sys
from pathlib import Path
from sioconv import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as temporary:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_what_a_killed_writer_has_left_goes_with_the_next_one(tmp_path: Path, atomic: Atomic) -> None:
    target = tmp_path / "a.b"
    command = [sys.executable, "-c", KILLED, str(atomic.__name__), str(target)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (tmp_path / ".a.b.mine").write_text("")
    (tmp_path / ".other.0123abcd").write_text("")
    assert len(list(tmp_path.iterdir())) == 3
    with atomic(target) as writing:
        fill(writing, "1")
        with atomic(target) as second:  # two at once: neither takes the other's away
            fill(second, "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.b.mine", ".other.0123abcd", "a.b"]


def test_a_folder_that_a_killed_writer_moved_aside_is_put_back(tmp_path: Path) -> None:
    (tmp_path / ".a.0123abcd.old").mkdir()
    (tmp_path / ".a.0123abcd.old/kept").write_text("")
    (tmp_path / ".a.0123abcd").mkdir()
    with contextlib.suppress(ZeroDivisionError), atomic_folder(tmp_path / "a"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "kept"]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_many_writers_of_one_file_never_lose_theirs(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(200):
                with atomic_write(tmp_path / "a") as temporary:
                    temporary.write_text("a")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_work_folder_is_for_its_user_alone_and_goes_at_the_end_or_with_the_next(tmp_path: Path) -> None:
    name = tmp_path / "new" / "talks"
    with work_folder(name) as folder:
        assert folder.parent == name.parent and folder.stat().st_mode & 0o777 == 0o700
        (folder / "copy.txt").write_text("秘密", encoding="utf-8")
    assert list(tmp_path.iterdir()) == []  # the folder above was made for it
    name.parent.mkdir()
    left = name.with_name(".talks.0123abcd")
    left.mkdir()
    mine = name.with_name(".talks")
    mine.touch()
    with work_folder(name) as first, work_folder(name) as second:  # neither takes the other's
        assert sorted(name.parent.iterdir()) == sorted([mine, first, second])
    assert list(name.parent.iterdir()) == [mine]
