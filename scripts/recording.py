"""Records the demo on a terminal and draws the recording: `python scripts/recording.py` (or with --draw alone).

A shell runs on a terminal of this script, which types the lines of SESSION and writes down all that comes back, with
the time, as asciicast (docs/pictures/demo.cast, https://docs.asciinema.org). svg-term-cli, by npx, makes the moving
picture docs/pictures/demo.svg of it. In both, time runs SPEED times as fast.
"""

import argparse
import codecs
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from fcntl import ioctl
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
CAST, PICTURE = FOLDER / "demo.cast", FOLDER / "demo.svg"
DRAWER = "svg-term-cli@2.1.1"
COLUMNS, ROWS = 96, 28
SPEED = 12  # minutes of training become seconds
FRAME = 0.5  # seconds of the picture: what comes within is one frame
READY = b"\x1b]777;ready\x07"  # the shell's prompt ends with it; no terminal shows it
QUIET = 4.0  # seconds without a word, after which a program waits for a line
# What is typed, and whether a shell or a conversation waits for it.
SESSION = [
    ("shell", "sioconv demo --minutes 2"),
    ("shell", "sioconv chat runs/demo/model --seed 1"),
    ("chat", "こんにちは"),
    ("chat", "宮城県の県庁はどこですか？"),
    ("chat", "Who are you?"),
    ("chat", "/exit"),
]
Event = tuple[float, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="only draw the recording that is there")
    if not parser.parse_args().draw:
        with tempfile.TemporaryDirectory() as folder:
            events = recorded(Path(folder))
        CAST.write_text(asciicast(events), encoding="utf-8")
    draw()
    for file in (CAST, PICTURE):
        print(f"{file.name}: {file.stat().st_size:,} bytes")


def recorded(folder: Path) -> list[Event]:
    """What a terminal shows when SESSION is typed to a shell in an empty folder, and when, in seconds."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        words = {"PS1": r"\[\e]777;ready\a\]$ ", "TERM": "xterm-256color", "LANG": "C.UTF-8", "SIOCONV_LANG": "en"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        os.execvpe(
            "bash", ["bash", "--norc", "-i"], {**os.environ, **words, "PATH": path, "PROMPT_TOOLKIT_NO_CPR": "1"}
        )
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    start, events = time.monotonic(), list[Event]()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read_until(waits: str) -> None:
        """Reads on until the shell, or a program, waits for a line."""
        seen = b""
        while True:
            quiet = waits == "chat" and not select.select([terminal], [], [], QUIET)[0]
            if quiet and seen:
                break
            piece = os.read(terminal, 1 << 16)
            seen += piece
            events.append((time.monotonic() - start, decoder.decode(piece.replace(READY, b""))))
            if waits == "shell" and READY in seen:
                break

    for waits, line in SESSION:
        read_until(waits)
        for letter in line:
            os.write(terminal, letter.encode())
            time.sleep(0.06 * SPEED)
        os.write(terminal, b"\r")
    read_until("shell")
    os.kill(child, signal.SIGHUP)
    os.waitpid(child, 0)
    return events


def asciicast(events: list[Event]) -> str:
    """The recording as a file: its time is divided by SPEED, and what comes within a FRAME is one event."""
    head = {"version": 2, "width": COLUMNS, "height": ROWS, "env": {"TERM": "xterm-256color"}}
    frames: dict[int, str] = {}
    for at, text in events:
        frame = int(at / SPEED / FRAME)
        frames[frame] = frames.get(frame, "") + text
    lines = [json.dumps(head), *(json.dumps([n * FRAME, "o", text]) for n, text in frames.items())]
    return "".join(f"{line}\n" for line in lines)


def draw() -> None:
    """The moving picture of the recording."""
    if shutil.which("npx") is None:
        sys.exit("npx isn't there: install Node.js 20 or newer")
    command = ["npx", "--yes", DRAWER, "--in", str(CAST), "--out", str(PICTURE), "--window", "--no-cursor"]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
