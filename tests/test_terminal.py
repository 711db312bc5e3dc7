"""The standard streams: what is shown, what is refused, and that nothing which is printed commands a terminal."""

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.errors import UserError
from sioconv.language import columns
from sioconv.terminal import decode_chunks, decode_utf8, one_line, read_prompt, show, show_json, visible

fcntl, pty, termios = map(pytest.importorskip, ("fcntl", "pty", "termios"))  # Windows has none
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x1b]8;;http://a.example\x07link\x1b]8;;\x1b\\", "␛]8;;http://a.example␇link␛]8;;␛\\"),
        ("\x9b2J", "␛[2J"),
        ("\x9d0;title\x9c", "␛]0;title␛\\"),
        ("password\rnothing", "password␍nothing"),
        ("ab\x08\x08cd", "ab␈␈cd"),
        ("a\x00b\x7f", "a␀b␡"),
        ("abc\u202edef\u2066g\u2069", "abc\ufffddef\ufffdg\ufffd"),
        ("a\u2028b\x85c", "a␤b␛Ec"),
        ("half \ud83d", "half \ufffd"),
    ],
)
def test_what_commands_a_terminal_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text", ["宮城県(みやぎけん)\n\tは、", "👩‍👩‍👧 ❤️", "שלום", "می‌خواهم", "e\u0301", "[red] :smile:"]
)
def test_all_other_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@given(st.text())
def test_nothing_that_is_shown_is_a_control(text: str) -> None:
    assert all(char in "\n\t" or (ord(char) >= 0x20 and not 0x7F <= ord(char) < 0xA0) for char in visible(text))
    assert len(one_line(text).splitlines()) <= 1
    visible(text).encode()


def test_a_terminal_is_shown_signs_and_a_pipe_gets_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for output in (terminal, pipe):
        monkeypatch.setattr(sys, "stdout", output)
        show("\x1b[2J川", end="")
    assert (terminal.getvalue(), pipe.getvalue()) == ("␛[2J川", "\x1b[2J川")


@given(st.text())
def test_json_holds_the_text_and_no_controls(text: str) -> None:
    output, before = io.StringIO(), sys.stdout
    sys.stdout = output
    try:
        show_json({"text": text})
    finally:
        sys.stdout = before
    assert json.loads(output.getvalue()) == {"text": text}
    assert visible(output.getvalue()) == output.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp932", "utf-8"])
def test_an_encoding_without_a_character_gets_its_escape(encoding: str) -> None:
    code = (
        "from sioconv.terminal import *; prepare_streams()\n"
        "show('川\\ud83d한'); show_json('川\\ud83d한'); complain('川\\ud83d한')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT | {"PYTHONIOENCODING": encoding}, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    text, data = done.stdout.decode(encoding).splitlines()
    written = {"ascii": r"\u5ddd\ud83d\ud55c", "latin-1": r"\u5ddd\ud83d\ud55c", "cp932": r"川\ud83d\ud55c"}
    assert text == written.get(encoding, r"川\ud83d한")
    assert json.loads(data) == "川\ud83d한"
    assert done.stderr.startswith(b"sioconv: ")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("宮城県は", "宮城県は"),
        ("\ufeff宮城県は", "宮城県は"),
        ("a\n", "a"),
        ("a\r\n", "a"),
        ("a\n\n", "a\n"),
        ("\n", ""),
        ("", ""),
        ("\ufeff", ""),
        ("a\ufeffb", "a\ufeffb"),
        ("a b", "a b"),
    ],
)
def test_a_piped_prompt_is_its_text(monkeypatch: pytest.MonkeyPatch, data: str, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode()), encoding="cp932"))
    assert read_prompt() == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("川".encode("utf-16"), "the input is UTF-16: convert it to UTF-8 first"),
        (b"\xfe\xff" + "川".encode("utf-16-be"), "the input is UTF-16"),
        ("川".encode("utf-32"), "the input is UTF-32"),
        ("river".encode("utf-16-le"), "the input looks like UTF-16: 5 of its bytes are 0"),
        ("川は".encode("cp932"), "the input is not UTF-8 at byte 0 (0x90)"),
        (b"abc\xff", "the input is not UTF-8 at byte 3 (0xff)"),
        (b"\xef\xbb\xbfabc\xff", "the input is not UTF-8 at byte 6 (0xff)"),
    ],
)
def test_input_in_another_encoding_is_named(data: bytes, message: str) -> None:
    with pytest.raises(UserError) as refused:
        decode_utf8(data, "the input")
    assert str(refused.value).startswith(message)


def test_no_standard_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="no standard input"):
        read_prompt()


CLOSED = """
import os, sys
from pathlib import Path
from sioconv.terminal import prepare_streams, complain
from sioconv.cli.last_net import exit_code_of
from sioconv.terminal import show
prepare_streams()
opened = open("opened", "w")
code = exit_code_of(lambda: show("text"))
print(opened.fileno() > 2, code, sys.stdin is None, file=opened)
"""


@pytest.mark.parametrize(
    ("redirections", "code", "message"),
    [
        ("<&- >&- 2>&-", 2, ""),
        ("</dev/null >&-", 2, "sioconv: can't write to standard output: Bad file descriptor: give it another place\n"),
        (">/dev/full", 2, "sioconv: can't write to standard output: No space left on device: give it another place\n"),
        (">/dev/full 2>/dev/full", 2, ""),
        ("<&-", 0, ""),
        ("2>&-", 0, ""),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_closed_and_full_streams_end_in_one_line(
    tmp_path: Path, redirections: str, code: int, message: str, unbuffered: str
) -> None:
    (tmp_path / "closed.py").write_text(CLOSED, encoding="utf-8")
    done = subprocess.run(
        f"'{sys.executable}' closed.py {redirections}", shell=True, cwd=tmp_path, timeout=60, capture_output=True,
        env=ENVIRONMENT | {"PYTHONUNBUFFERED": unbuffered}, encoding="utf-8",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, message)
    assert (tmp_path / "opened").read_text() == f"True {code} {'<&-' in redirections}\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    code = (
        "import sys; from sioconv.cli.last_net import exit_code_of; from sioconv.terminal import *; prepare_streams()\n"
        "sys.exit(exit_code_of(lambda: [show('x' * 1000) for _ in range(1000)]))"
    )
    command = f"'{sys.executable}' -c \"{code}\" | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=ENVIRONMENT, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x", b"")


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=40), st.integers(1, 7))
def test_bytes_in_chunks_are_decoded_as_the_whole(text: str, size: int) -> None:
    data = b"\xef\xbb\xbf" + text.encode()
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    assert "".join(decode_chunks(chunks, "the file")) == text == decode_utf8(data, "the file")


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_the_place_of_what_is_no_text_is_named_whatever_the_chunks(size: int) -> None:
    for data, place in ((b"abc\xe5\xb7", "byte 3 (0xe5)"), (b"a\xe5\xb7\x9d\xff!", "byte 4 (0xff)")):
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        with pytest.raises(UserError, match="the file is not UTF-8") as caught:
            list(decode_chunks(chunks, "the file"))
        assert place in str(caught.value)


@pytest.mark.parametrize("width", [60, 80])
def test_a_long_error_is_cut_between_words_on_a_terminal(width: int) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    for language in ("en", "ja"):
        command = [sys.executable, "-m", "sioconv", "nothing", "--lang", language]
        done = subprocess.run(command, stdin=slave, stderr=slave, stdout=slave, check=False, env=ENVIRONMENT)
        assert done.returncode == 2
        lines = os.read(master, 1 << 16).decode().splitlines()
        assert len(lines) > 2 and max(map(columns, lines)) <= width
        assert " ".join(lines).split("sioconv: ")[1].startswith("unknown verb") == (language == "en")
        assert {"tokenizer,", "pretrain,", "finetune,"} <= {word for line in lines for word in line.split()}
    os.close(master)
    os.close(slave)
