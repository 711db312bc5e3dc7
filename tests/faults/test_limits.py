"""What the system has no more of, under its real limits: one line, nothing half-written, and the same line goes on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.faults.workplace import hidden, write_workplace

resource = pytest.importorskip("resource")  # Windows has none
FILES = 20  # fewer than two workers of `data` need
NOBODY = "54321"  # a user who runs nothing else
RIGHTS = "+dac_override,+dac_read_search"  # to the files of the tests


def run(work: Path, before: Callable[[], object], prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "sioconv", "data", "recipe.yaml", "--data.tasks=4", "--data.workers=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        command, cwd=work, env=environment, capture_output=True, encoding="utf-8", check=False, timeout=300,
        preexec_fn=before,
    )  # fmt: skip


@pytest.mark.slow
def test_too_many_open_files_are_one_line_and_the_same_line_goes_on(tmp_path: Path) -> None:
    work = write_workplace(tmp_path / "work")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    done = run(work, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard)))
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("sioconv: too many open files"), done.stderr
    assert run(work, lambda: None).returncode == 0
    assert hidden(work / "runs/small") == []


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, to be another user")
@pytest.mark.parametrize("threads", [1, 4, 9, 12])
def test_too_few_threads_are_one_line_and_the_same_line_goes_on(tmp_path: Path, threads: int) -> None:
    """None at all; too few for the tokenizer's training; for the pool of workers, which waits for ever by itself."""
    work = write_workplace(tmp_path / "work")
    other = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--inh-caps", RIGHTS]
    done = run(
        work,
        lambda: resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads)),
        [*other, "--ambient-caps", RIGHTS, "env", "HOME=/nonexistent"],
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("sioconv: ") and "threads" in said, done.stderr
    assert run(work, lambda: None).returncode == 0
    assert hidden(work / "runs/small") == []
