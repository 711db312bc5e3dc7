"""The arguments that the launcher of transformers' command line hands on; tests/tools runs it with a real server."""

import json
import subprocess
import sys

import pytest

from sioconv.serve.transformers_cli import OPTION, with_safe_text

SERVE = ["serve", "runs/demo/model", "--port", "8000"]


def test_serve_is_told_that_text_stays_text() -> None:
    *before, option, value = with_safe_text(SERVE)
    assert before == SERVE and option == OPTION and json.loads(value) == {"sanitize_control_tokens": True}


@pytest.mark.parametrize("joined", [True, False])
def test_what_the_user_says_stands(joined: bool) -> None:
    for given in ({"a": 1}, {"sanitize_control_tokens": False}):
        text = json.dumps(given)
        words = [f"{OPTION}={text}"] if joined else [OPTION, text]
        *before, option, value = with_safe_text([*SERVE[:2], *words, *SERVE[2:]])
        assert before == SERVE and option == OPTION
        assert json.loads(value) == {"sanitize_control_tokens": True, **given}


@pytest.mark.parametrize("bad", ["no json", "[1]", "3", ""])
def test_what_is_no_object_is_left_to_be_refused(bad: str) -> None:
    words = [*SERVE, OPTION, bad]
    assert with_safe_text(words) == words


@pytest.mark.parametrize("words", [["chat", "m"], ["serve", "--help"], ["version"], []])
def test_other_commands_are_handed_on(words: list[str]) -> None:
    assert with_safe_text(words) == words


def test_a_missing_package_is_said_in_one_line() -> None:
    code = (
        "import sys, runpy; sys.modules['openai'] = None;\n"
        "from transformers.utils import import_utils as u; u.is_openai_available = lambda: False;\n"
        "sys.argv = ['x', 'serve', 'm']; runpy.run_module('sioconv.serve.transformers_cli', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "pip install 'transformers[serving]'" in done.stderr


def test_help_names_the_launcher() -> None:
    command = [sys.executable, "-m", "sioconv.serve.transformers_cli", "serve", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "sioconv.serve.transformers_cli serve" in done.stdout, done.stderr
