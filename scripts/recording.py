"""Records a session on a terminal as a moving picture: `python scripts/recording.py chat` (or demo).

A shell runs on a terminal of this script, which types the lines of a session and keeps all that comes back, with the
time; pyte, a terminal in Python, says what the screen shows, and a film of it becomes docs/pictures/NAME.svg. Waits are
shortened to PAUSE seconds, and the demo's time runs DEMO_SPEED times as fast. Record it while nothing else runs.
"""

import argparse
import os
import pty
import select
import signal
import struct
import sys
import tempfile
import termios
import time
import unicodedata
from collections.abc import Iterator
from fcntl import ioctl
from html import escape
from itertools import groupby
from pathlib import Path

import pyte

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
COLUMNS, ROWS = 88, 24
CELL, LINE = 8.4, 19  # of the picture, in its pixels
FRAME, PAUSE, LAST = 0.25, 1.5, 4.0  # seconds: the shortest frame, the longest wait, the last screen
DEMO_SPEED = 12
READY = b"\x1b]777;ready\x07"  # the shell's prompt ends with it; no terminal shows it
QUIET = 6.0  # seconds without a word, after which a program waits for a line
# What is typed, and whether a shell or a conversation waits for it.
TALK = ["こんにちは", "あなたの名前は？", "Who are you?", "旭川市がある都道府県はどこですか？", "/memory", "/exit"]
SESSIONS = {
    "chat": [("shell", "sioconv chat"), *(("chat", line) for line in TALK)],
    "demo": [("shell", "sioconv demo --minutes 2"), ("shell", "sioconv chat runs/demo/model"),
             *(("chat", line) for line in TALK)],
}  # fmt: skip
COLOURS = {
    "default": "#c9d1d9", "black": "#6e7681", "red": "#ff7b72", "green": "#7ee787", "brown": "#e3b341",
    "blue": "#79c0ff", "magenta": "#d2a8ff", "cyan": "#76e3ea", "white": "#f0f6fc",
}  # fmt: skip
PAPER = "#0d1117"
Frame = tuple[float, tuple[str, ...]]  # seconds, and the SVG of each line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("session", choices=SESSIONS)
    name = parser.parse_args().session
    with tempfile.TemporaryDirectory() as folder:
        events = recorded(SESSIONS[name], Path(folder))
    frames = list(film(events, DEMO_SPEED if name == "demo" else 1))
    file = FOLDER / f"{name}.svg"
    file.write_text(svg(frames, f"sioconv {name}"), encoding="utf-8")
    seconds = sum(frame[0] for frame in frames)
    print(f"{file.name}: {len(frames)} frames, {seconds:.0f} s, {file.stat().st_size:,} bytes")


def recorded(session: list[tuple[str, str]], folder: Path) -> list[tuple[float, bytes]]:
    """What a terminal is sent when a session is typed to a shell in an empty folder, and when, in seconds."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        words = {"PS1": r"\[\e]777;ready\a\]$ ", "TERM": "xterm-256color", "LANG": "C.UTF-8", "SIOCONV_LANG": "en"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        words |= {"PATH": path, "PROMPT_TOOLKIT_NO_CPR": "1"}
        os.execvpe("bash", ["bash", "--norc", "-i"], {**os.environ, **words})
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    start, events = time.monotonic(), list[tuple[float, bytes]]()

    def read_until(waits: str) -> None:
        """Reads on until the shell, or a program, waits for a line."""
        seen = b""
        while not (waits == "shell" and READY in seen):
            if waits == "chat" and not select.select([terminal], [], [], QUIET)[0] and b">" in seen:
                return
            piece = os.read(terminal, 1 << 16)
            seen += piece
            events.append((time.monotonic() - start, piece.replace(READY, b"")))

    for waits, line in session:
        read_until(waits)
        for letter in line:
            os.write(terminal, letter.encode())
            time.sleep(0.1)
            if select.select([terminal], [], [], 0)[0]:
                events.append((time.monotonic() - start, os.read(terminal, 1 << 16)))
        os.write(terminal, b"\r")
    read_until("shell")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return events


def film(events: list[tuple[float, bytes]], speed: float) -> Iterator[Frame]:
    """The screens that the events make, each with the time for which it is shown."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    shown, lasted = lines_of(screen), 0.0
    for (at, piece), (then, _) in zip(events, [*events[1:], (events[-1][0] + LAST * speed, b"")], strict=True):
        stream.feed(piece)
        lasted += min((then - at) / speed, LAST if then > events[-1][0] else PAUSE)
        if lasted >= FRAME and lines_of(screen) != shown:
            shown = lines_of(screen)
            yield lasted, shown
            lasted = 0.0
    yield max(lasted, FRAME), lines_of(screen)


def lines_of(screen: pyte.Screen) -> tuple[str, ...]:
    """The SVG of each line of the screen, without its place."""
    return tuple("".join(_runs(screen.buffer[row])) for row in range(screen.lines))


def _runs(line: dict[int, "pyte.screens.Char"]) -> Iterator[str]:
    """A line's characters that look alike and are equally wide, each run as long as its columns."""
    cells = [(column, line[column]) for column in range(COLUMNS) if line[column].data]  # none behind a wide one
    for look, run in groupby(cells, lambda cell: (cell[1].fg, cell[1].bold, _width(cell[1].data))):
        group = list(run)
        text = "".join(char.data for _, char in group)
        start, text = group[len(text) - len(text.lstrip())][0] if text.strip() else 0, text.strip()
        if not text:
            continue
        colour = COLOURS.get(look[0], f"#{look[0]}" if len(look[0]) == 6 else COLOURS["default"])
        length, bold = len(text) * look[2] * CELL, ' font-weight="bold"' if look[1] else ""
        yield (
            f'<text x="{start * CELL:.1f}" textLength="{length:.1f}" lengthAdjust="spacingAndGlyphs" '
            f'fill="{colour}"{bold}>{escape(text)}</text>'
        )


def _width(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter[0]) in "WF" else 1


def svg(frames: list[Frame], title: str) -> str:
    """A film: the frames stand side by side, and a window passes over them."""
    width, height = COLUMNS * CELL + 32, ROWS * LINE + 64
    total, names = sum(seconds for seconds, _ in frames), dict[str, str]()
    keys, strips, at = list[str](), list[str](), 0.0
    for number, (seconds, lines) in enumerate(frames):
        keys.append(f"{100 * at / total:.3f}%{{transform:translateX({-number * width:g}px)}}")
        at += seconds
        strips += [
            f'<use href="#{names.setdefault(line, f"l{len(names)}")}" '
            f'x="{number * width + 16:g}" y="{row * LINE + 58}"/>'
            for row, line in enumerate(lines)
            if line
        ]
    defined = "".join(f'<g id="{name}">{line}</g>' for line, name in names.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height}" viewBox="0 0 {width:g} {height}" '
        'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace" '
        f'font-size="14"><title>{escape(title)}</title><style>@keyframes film{{{"".join(keys)}}}'
        f"text{{white-space:pre}}.film{{animation:film {total:.2f}s step-end infinite}}</style>"
        f'<rect width="{width:g}" height="{height}" rx="8" fill="{PAPER}"/>'
        '<circle cx="22" cy="22" r="6" fill="#ff5f58"/><circle cx="42" cy="22" r="6" fill="#ffbd2e"/>'
        '<circle cx="62" cy="22" r="6" fill="#18c132"/>'
        f'<defs>{defined}</defs><g class="film">{"".join(strips)}</g></svg>\n'
    )


if __name__ == "__main__":
    main()
