"""Lines that can be typed as they stand name the program as it was called."""

import os
import sys
from pathlib import Path

import pytest

from sioconv.run.demo import own_command


@pytest.mark.skipif(os.name == "nt", reason="programs have another ending there")
def test_the_command_is_what_finds_this_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "sioconv"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", str(folder))
    assert own_command() == "sioconv"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert own_command() == str(Path("bin") / "sioconv")
    monkeypatch.setattr(sys, "argv", ["/lib/sioconv/__main__.py"])
    assert own_command() == "python -m sioconv"
