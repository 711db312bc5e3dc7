"""The machine and the versions in words."""

import platform

import torch

import sioconv
from sioconv.evaluate.machine import describe_machine, describe_versions, usable_cores


def test_machine() -> None:
    machine = describe_machine()
    assert all(machine.values())
    assert machine["cores"] == str(usable_cores()) and usable_cores() >= 1
    assert platform.system() in machine["system"]


def test_versions() -> None:
    versions = describe_versions()
    assert versions["sioconv"] == sioconv.__version__
    assert versions["python"] == platform.python_version()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
