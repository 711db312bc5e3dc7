"""The threads of the cpu backend under every threading layer that numba may have, each in its own process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sioconv

# Small enough that torch itself stays on one thread: its parallel loops hang in a forked process.
WORK = """
import hashlib, os, sys, torch
from sioconv.ops import scan

assert "numba" not in sys.modules, "importing the package loads numba"
torch.set_num_threads(2)


def digest():
    random = torch.Generator().manual_seed(0)
    z = torch.randn(3, 60, 4, 32, generator=random).requires_grad_()
    log_a = (-torch.rand(3, 60, 4, generator=random)).requires_grad_()
    c, final = scan(z, log_a, output_final_state=True)
    slopes = torch.autograd.grad(c.square().sum() + final.sum(), (z, log_a))
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in (c, final, *slopes))).hexdigest()


def layer():
    import numba

    try:
        return numba.threading_layer()
    except ValueError:
        return "none"


def report():
    print(digest(), flush=True)
    if hasattr(os, "fork"):
        child = os.fork()
        if child == 0:
            print(digest(), flush=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    print(layer())

"""
HIDE_TBB = "sys.modules['numba.np.ufunc.tbbpool'] = None\n"
HIDE_OPENMP = "sys.modules['numba.np.ufunc.omppool'] = None\n"
OTHER_CODE = "import numba\nnumba.get_num_threads()\n"


def run_alone(code: str, **environment: str) -> tuple[set[str], str, str]:
    """The digests that the process and its forked child printed, the layer, and what was logged."""
    done = subprocess.run(
        [sys.executable, "-c", WORK + code + "report()"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    *digests, layer = done.stdout.split()
    return set(digests), layer, done.stderr


@pytest.fixture(scope="module")
def usual() -> set[str]:
    digests, layer, _ = run_alone("")
    assert len(digests) == 1
    assert layer != "workqueue"
    return digests


def test_workqueue_is_never_chosen(usual: set[str]) -> None:
    digests, layer, _ = run_alone("", NUMBA_THREADING_LAYER="workqueue")
    assert digests == usual
    assert layer != "workqueue"


def test_openmp_works_and_a_forked_child_goes_on_alone(usual: set[str]) -> None:
    digests, layer, _ = run_alone(HIDE_TBB)
    assert digests == usual
    assert layer in ("omp", "none")


def test_without_any_layer_one_thread_does_the_work_and_says_so(usual: set[str]) -> None:
    digests, layer, said = run_alone(HIDE_TBB + HIDE_OPENMP)
    assert digests == usual
    assert layer == "none"
    assert said.count("neither tbb nor OpenMP") == 1


def test_workqueue_started_by_other_code_is_not_used(usual: set[str]) -> None:
    digests, layer, said = run_alone(OTHER_CODE, NUMBA_THREADING_LAYER="workqueue")
    assert digests == usual
    assert layer == "workqueue"
    assert said.count("already started its threads on workqueue") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="the user's cache folder isn't found through HOME there")
def test_folders_that_cannot_be_written_do_not_stop_the_scan(tmp_path: Path, usual: set[str]) -> None:
    source = Path(sioconv.__file__).parent
    copy = tmp_path / "sioconv"
    shutil.copytree(source / "ops", copy / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    for file in source.glob("*.py"):  # what the package itself imports
        shutil.copy(file, copy)
    no_folder = copy / "ops" / "cpu" / "__pycache__"
    no_folder.touch()  # a file where a folder must be stops root too
    homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME"), str(no_folder))
    digests, _, said = run_alone("", PYTHONPATH=str(tmp_path), NUMBA_CACHE_DIR="", **homes)
    assert digests == usual
    assert said.count("NUMBA_CACHE_DIR") == 1
