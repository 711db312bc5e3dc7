"""What the system has no more of, under its real limits: one line, nothing half-written, and the same line goes on."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.workplace import hidden, write_workplace

FILES = 20  # fewer than two workers of `data` need


@pytest.mark.slow
def test_too_many_open_files_are_one_line_and_the_same_line_goes_on(tmp_path: Path) -> None:
    work = write_workplace(tmp_path / "work")
    command = [sys.executable, "-m", "sioconv", "data", "recipe.yaml", "--data.tasks=4", "--data.workers=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}

    def run(files: int) -> subprocess.CompletedProcess[str]:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return subprocess.run(
            command, cwd=work, env=environment, capture_output=True, encoding="utf-8", check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard)),
        )  # fmt: skip

    done = run(FILES)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("sioconv: too many open files"), done.stderr
    assert run(1024).returncode == 0
    assert hidden(work / "runs/small") == []
