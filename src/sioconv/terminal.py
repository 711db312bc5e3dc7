"""The standard streams: any character can be printed, nothing that is printed commands the terminal, input is UTF-8."""

import codecs
import errno
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, TextIO

from sioconv.errors import UserError
from sioconv.language import hung, translated

# C0 and C1 controls, delete, the line separators that are no line feed, directional overrides and isolates, halves of
# surrogate pairs: what a terminal obeys, what makes text read as another text, and what no encoding can hold.
NARROWEST = 20  # columns of a terminal in which lines are cut between words
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class OutputError(Exception):
    """Standard output takes nothing more.

    Args:
        error: what the system said.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.gone = error.errno == errno.EPIPE  # its reader has ended, as `sioconv … | head` does
        self.reason = error.strerror


def visible(text: str) -> str:
    """`text` with what could command a terminal shown as a sign of its own, such as ␛; line feeds and tabs stay.

    A C1 control is shown as the escape sequence that means the same: U+009B as ␛[. Directional overrides and halves of
    surrogate pairs are shown as U+FFFD.
    """
    return CONTROL.sub(lambda found: _sign(ord(found[0])), text)


def one_line(text: str) -> str:
    """`visible(text)` with ⏎ for a line feed and ␉ for a tab."""
    return visible(text).replace("\n", "⏎").replace("\t", "␉")


def _sign(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if code < 0xA0:
        return "\u241b" + chr(code - 0x40)
    return "\u2424" if code in (0x2028, 0x2029) else "\ufffd"


def prepare_streams() -> None:
    """Makes the standard streams safe to use, however the process was started.

    What an output's encoding can't hold is written as an escape (backslashreplace). A descriptor that was closed gets a
    stand-in, because otherwise the next file that is opened would be taken for it: writing to a closed standard output
    fails, messages to a closed standard error go nowhere. `sys.stdin` stays None where there is no input.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", write_through=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output(number: int) -> None:
    """Sends what is still to be written to descriptor 1 or 2 nowhere: whoever read it has gone."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def write_out(text: str, output: TextIO | None = None) -> None:
    """Writes to standard output, or another, at once and as it is. Raises OutputError where nothing can be written."""
    stream = sys.stdout if output is None else output
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        raise OutputError(error) from error


def show(text: str, end: str = "\n") -> None:
    """Writes text that a model, a user or a file has made: visible on a terminal, as it is to a pipe or file.

    Through a pipe it is data: `sioconv generate … > file` must hold what the model wrote.
    """
    write_out((visible(text) if sys.stdout.isatty() else text) + end)


def tell(message: str, end: str = "\n") -> None:
    """Writes a message of this program's own to standard output, in the user's language; on a terminal in its width.

    For lines that are copied, such as commands, `show` is right.
    """
    show_lines(translated(message), end)


def show_json(values: Any) -> None:
    """Writes one JSON object to standard output; controls, and what its encoding may lack, as the escapes of JSON."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    text = json.dumps(values, ensure_ascii=not unicode)
    write_out(CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def in_lines(text: str, stream: TextIO) -> str:
    """The text with its lines cut between words where `stream` is a terminal that they don't fit; else as it is."""
    if not stream.isatty():
        return text
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return text
    return text if width < NARROWEST else "\n".join(part for line in text.split("\n") for part in hung(line, width))


def show_lines(text: str, end: str = "\n") -> None:
    """`show` for sentences and columns of this program's own, which are cut between words on a terminal."""
    show(in_lines(text, sys.stdout), end)


def complain(message: str) -> None:
    """The command's last line on standard error, in the user's language, if anybody can still read it."""
    try:
        print(in_lines(" ".join(("sioconv:", one_line(translated(message)))), sys.stderr), file=sys.stderr, flush=True)
    except OSError:
        drop_output(2)


class VisibleFormatter(logging.Formatter):
    """Messages of a log, fit for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The message in the user's language, with signs for controls."""
        return visible(translated(super().format(record)))


def read_prompt() -> str:
    """All of standard input as text, without a byte-order mark and without the line end that it ends with.

    Raises UserError where there is no standard input or it isn't UTF-8.
    """
    if sys.stdin is None:
        raise UserError("there is no standard input to read the prompt from: give the prompt itself, or a pipe")
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise UserError(f"can't read standard input: {error.strerror}: give the prompt itself, or a pipe") from error
    return re.sub(r"\r?\n\Z", "", decode_utf8(data, "the input"))


def decode_utf8(data: bytes, what: str) -> str:
    """Bytes as text, without a byte-order mark.

    Raises UserError, which calls them `what`, for UTF-16, UTF-32 and anything else that isn't UTF-8.
    """
    return "".join(decode_chunks([data], what))


def decode_chunks(chunks: Iterable[bytes], what: str) -> Iterator[str]:
    """What `decode_utf8` gives for bytes that come in chunks, as they come; UTF-16 is looked for in the first one."""
    decoder, before, begun = codecs.getincrementaldecoder("utf-8")(), 0, False
    for data, last in chain(((chunk, False) for chunk in chunks), [(b"", True)]):
        if before == 0:
            _refuse_other_encodings(data, what)
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, last)
        except UnicodeDecodeError as error:
            place = f"byte {before - held + error.start} (0x{error.object[error.start]:02x})"
            raise UserError(f"{what} is not UTF-8 at {place}: convert it first") from error
        before += len(data)
        if text:
            yield text if begun else text.removeprefix("\ufeff")
            begun = True


def _refuse_other_encodings(data: bytes, what: str) -> None:
    for mark, name in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            raise UserError(f"{what} is {name}: convert it to UTF-8 first")
    if len(data) > 1 and 4 * data.count(0) >= len(data):  # letters of UTF-16 without a mark are half zeros
        raise UserError(f"{what} looks like UTF-16: {data.count(0):,} of its bytes are 0: convert it to UTF-8 first")
