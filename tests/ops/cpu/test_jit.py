"""Compiled kernels on disk: kept, found again, and done without where the files or their folder are broken."""

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from numba.core import config

from sioconv.ops.cpu import jit

SOURCE = """
from sioconv.ops.cpu.jit import kernel

@kernel()
def double(x):
    return x + x
"""
# A kernel that closes over another, in two forms.
AROUND = """
import numba
import numpy as np

from sioconv.ops.cpu.jit import kernel


def entry(form):
    @kernel(f"fill.{form}", parallel=form == "parallel")
    def fill(x):
        for i in numba.prange(x.size):
            x[i] += i * 3.0

    @kernel(f"twice.{form}")
    def twice(x):
        fill(x)
        fill(x)

    return twice


forms = entry("parallel"), entry("serial")
found = []
for form in forms:
    x = np.zeros(3)
    form(x)
    found.append([float(number) for number in x])
print(found, sum(sum(form.stats.cache_hits.values()) for form in forms))
"""
Load = Callable[[], Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kernels are kept."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def load(tmp_path: Path, folder: Path) -> Load:  # noqa: ARG001
    """The kernel as a new process finds it: nothing compiled, nothing said yet."""
    path = tmp_path / "kernels.py"
    path.write_text(SOURCE)

    def make() -> Any:
        jit._said.clear()
        spec = importlib.util.spec_from_file_location("kernels", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.double

    return make


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level("WARNING", logger="sioconv"):
        yield caplog


def hits(double: Any) -> int:
    return sum(double.stats.cache_hits.values())


def the_file(folder: Path) -> Path:
    (file,) = folder.rglob("*.nbc")
    return file


def test_a_kernel_is_compiled_once(load: Load, folder: Path, warnings: pytest.LogCaptureFixture) -> None:
    assert load()(2) == 4
    again = load()
    assert (again(3), hits(again)) == (6, 1)
    assert again(1.5) == 3.0
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 2  # a file for each signature, none left over
    third = load()
    assert (third(1.5), third(2), hits(third)) == (3.0, 4, 2)
    assert not warnings.records


def test_whether_a_kernel_is_kept(load: Load, folder: Path) -> None:
    double = load()
    assert not jit.is_kept(double, 2)
    double(2)
    assert jit.is_kept(double, 3) and not jit.is_kept(double, 1.5)
    again = load()
    assert jit.is_kept(again, 2) and not again.overloads
    the_file(folder).write_bytes(b"damaged")
    assert not jit.is_kept(load(), 2) and jit.is_kept(double, 2)


def test_other_sources_compile_it_again(load: Load, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load()(2)
    monkeypatch.setattr(jit, "sources_digest", lambda: "other")
    double = load()
    assert (double(2), hits(double)) == (4, 0)
    the_file(folder)  # in the place of the old one
    found = load()
    assert (found(2), hits(found)) == (4, 1)


def damage(file: Path, kind: str) -> None:
    content = file.read_bytes()
    if kind == "a folder":
        file.unlink()
        file.mkdir()
    elif kind == "a pipe":
        file.unlink()
        os.mkfifo(file)
    elif kind == "a link to itself":
        file.unlink()
        file.symlink_to(file.name)
    elif kind == "not a pickle":
        file.write_bytes(b"x" * len(content))
    elif kind == "another pickle":
        file.write_bytes(pickle.dumps(("0.0", {})))
    elif kind.startswith("cut"):
        file.write_bytes(content[: len(content) * int(kind.split()[1]) // 100])
    else:
        at = (len(content) - 1) * int(kind.split()[1]) // 19
        file.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])


KINDS = [
    "a folder",
    *(["a pipe", "a link to itself"] if os.name == "posix" else []),
    "not a pickle",
    "another pickle",
    "cut 0",
    "cut 1",
    "cut 50",
    "cut 99",
]


@pytest.mark.parametrize("kind", [*KINDS, *(f"flip {at}" for at in range(20))])
def test_a_damaged_file_is_compiled_again(
    kind: str, load: Load, folder: Path, warnings: pytest.LogCaptureFixture
) -> None:
    load()(2)
    damage(the_file(folder), kind)
    double = load()
    assert (double(2), hits(double)) == (4, 0)
    assert len(warnings.records) == 1 and "NUMBA_CACHE_DIR" in warnings.records[0].getMessage()
    after = load()
    assert (after(2), hits(after)) == (4, 0 if kind == "a folder" else 1)
    assert len(warnings.records) == (2 if kind == "a folder" else 1)  # once in every process


@pytest.mark.skipif(os.name != "posix", reason="no owners of files here")
@pytest.mark.parametrize("how", ["owner", "mode"])
def test_what_another_user_can_have_written_is_not_read(
    how: str, load: Load, folder: Path, warnings: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()(2)
    if how == "mode":
        the_file(folder).chmod(0o666)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        found = os.fstat

        def as_of_another(descriptor: int) -> os.stat_result:
            status = list(found(descriptor))
            status[4] = 54321
            return os.stat_result(status)

        monkeypatch.setattr(os, "fstat", as_of_another)
    double = load()
    assert (double(2), hits(double)) == (4, 0)
    assert len(warnings.records) == 1 and "another user" in warnings.records[0].getMessage()


class Harmful:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_put_there_is_not_run(load: Load, folder: Path, tmp_path: Path) -> None:
    load()(2)
    the_file(folder).write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    assert load()(2) == 4
    assert not (tmp_path / "harm").exists()


def test_a_file_made_by_anyone_may_be_written_by_its_owner_only(load: Load, folder: Path) -> None:
    before = os.umask(0)
    try:
        load()(2)
    finally:
        os.umask(before)
    assert the_file(folder).stat().st_mode & 0o022 == 0


def test_a_folder_that_disappears_is_made_again(load: Load, folder: Path, warnings: pytest.LogCaptureFixture) -> None:
    double = load()
    shutil.rmtree(folder)
    assert double(2) == 4
    assert the_file(folder).is_file()
    shutil.rmtree(folder)
    folder.touch()  # and now there can be none
    assert double(1.5) == 3.0
    assert len(warnings.records) == 1


@pytest.mark.parametrize("where", ["a file", "below a file", "a name too long"])
def test_another_folder_is_taken_where_the_chosen_one_cannot_be(
    where: str, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    chosen = {"a file": "file", "below a file": "file/below", "a name too long": "x" * 300}[where]
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / chosen))
    assert load()(2) == 4


def test_no_folder_at_all(load: Load, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(config, "CACHE_LOCATOR_CLASSES", "ZipCacheLocator")
    assert load()(2) == 4
    assert len(warnings.records) == 1 and "NUMBA_CACHE_DIR" in warnings.records[0].getMessage()


PROCESS = """
import sys
sys.path.insert(0, {path!r})
from kernels import double
print(double({value}), sum(double.stats.cache_hits.values()))
"""


def start(path: Path, value: str, before: str = "") -> subprocess.Popen[str]:
    code = before + PROCESS.format(path=str(path), value=value)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(path / "cache")}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a process's files here")
def test_where_nothing_can_be_written_the_kernel_works(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(SOURCE)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))\n"
    output, said = (process := start(tmp_path, "2", limit)).communicate(timeout=300)
    assert (process.returncode, output) == (0, "4 0\n"), said
    assert said.count("NUMBA_CACHE_DIR") == 1
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_two_processes_at_once_keep_what_both_compiled(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(SOURCE)
    for process in [start(tmp_path, value) for value in ("2", "1.5")]:
        _, said = process.communicate(timeout=300)
        assert (process.returncode, said) == (0, "")
    for value, found in (("2", "4 1\n"), ("1.5", "3.0 1\n")):
        assert start(tmp_path, value).communicate(timeout=300) == (found, "")


def test_every_file_of_the_folder_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path(jit.__file__).parent, tmp_path / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(jit, "__file__", str(tmp_path / "ops" / "jit.py"))

    def digest() -> str:
        jit.sources_digest.cache_clear()
        return jit.sources_digest()

    seen = {digest()}
    (tmp_path / "ops" / "new_kernels.py").write_text("A = 1\n")
    seen.add(digest())
    (tmp_path / "ops" / "new_kernels.py").write_text("A = 2\n")
    seen.add(digest())
    with (tmp_path / "ops" / "gates.py").open("a") as file:
        file.write("# a constant that a kernel reads\n")
    seen.add(digest())
    monkeypatch.undo()
    jit.sources_digest.cache_clear()
    assert len(seen) == 4


def test_a_kernel_around_another_is_found_by_another_process_until_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "around.py"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    said = []
    for factor in (3, 3, 5):  # the same bytecode with another constant
        file.write_text(AROUND.replace("3.0", f"{factor}.0"))
        done = subprocess.run([sys.executable, str(file)], env=environment, capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stderr) == (0, "")
        said.append(done.stdout.strip())
    threes, fives = [0.0, 6.0, 12.0], [0.0, 10.0, 20.0]
    assert said == [f"{[threes, threes]} 0", f"{[threes, threes]} 2", f"{[fives, fives]} 0"]
