"""How the commands' threads wait."""

import json
import os
import subprocess
import sys

import pytest

from sioconv.__main__ import WAITING

SHOW = (
    "import json, os\nfrom sioconv.__main__ import WAITING, quiet_waiting\nquiet_waiting()\n"
    "print(json.dumps({name: os.environ.get(name) for name in WAITING}))"
)


@pytest.mark.parametrize(
    ("given", "turns"),
    [
        ({}, "10000"),
        ({"OMP_WAIT_POLICY": "active"}, None),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"KMP_BLOCKTIME": "1"}, None),
    ],
)
def test_they_spin_for_a_little_unless_the_user_says_how_they_wait(given: dict[str, str], turns: str | None) -> None:
    usual = {key: value for key, value in os.environ.items() if key not in WAITING}
    done = subprocess.run([sys.executable, "-c", SHOW], env=usual | given, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["GOMP_SPINCOUNT"] == turns


def test_the_libraries_that_read_it_come_after_it() -> None:
    code = "import sys, sioconv.__main__\nassert not {'torch', 'numba', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
