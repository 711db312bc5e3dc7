"""What a shell gets for the Tab key, asked as argcomplete's shell functions ask."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def completions(line: str, tmp_path: Path) -> set[str]:
    answer = tmp_path / "answer"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    asked |= {"COMP_LINE": line, "COMP_POINT": str(len(line.encode())), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    code = "import sys; from sioconv.cli.main import main; main([]); "
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stdout, done.stderr
    return {word.strip() for word in answer.read_text().split("\n")}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sioconv ", {"demo", "pretrain", "chat", "convert", "data"}),
        ("sioconv fine", {"finetune"}),
        ("sioconv generate some/model --max", {"--max_new_tokens"}),
        ("sioconv data inspect runs --", {"--help"}),
        ("sioconv pretrain demo.yaml --train.minu", {"--train.minutes"}),
    ],
)
def test_the_tab_key_gives_verbs_and_their_options(line: str, expected: set[str], tmp_path: Path) -> None:
    found = completions(line, tmp_path)
    assert expected <= found, found
    last = line.split(" ")[-1]
    assert all(word.startswith(last) for word in found)
