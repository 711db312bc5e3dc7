"""How long `sioconv chat` and `sioconv serve` take to talk: `python -m benchmarks.first_reply chat|serve`.

From the start of the command, without MODEL, to the first letter of a reply. Once with the kernels never compiled, as
right after the installation (an empty NUMBA_CACHE_DIR), then with them kept on disk. Each figure is a median with the
least and the most: seconds of the clock, and of the processor (Linux only), which other work hardly changes.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

MESSAGE = "こんにちは"
BESIDE = str(Path(sys.executable).with_name("sioconv"))


def chat(program: str, environment: dict[str, str], finish: bool) -> tuple[float, float]:
    """Seconds of the clock and of the processor until the first letter; with `finish` it then may end by itself."""
    start = time.perf_counter()
    command = [program, "chat", "-p", MESSAGE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        if not process.stdout.read(1):
            sys.exit(f"{' '.join(command)} says nothing")
        found = time.perf_counter() - start, processor_seconds(process.pid)
        if not finish:
            process.kill()
    return found


def serve(program: str, environment: dict[str, str], _: bool) -> tuple[float, float]:
    """The same of a server: until the first letter of a reply that is asked for as soon as it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.perf_counter()
    command = [program, "serve", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            while process.poll() is None:
                try:
                    first_letter(port)
                    return time.perf_counter() - start, processor_seconds(process.pid)
                except ConnectionError:
                    time.sleep(0.02)
            sys.exit(f"{' '.join(command)} has ended: it needs pip install 'sioconv[serve]'")
        finally:
            process.kill()


def first_letter(port: int) -> None:
    """Asks for a reply and returns with its first letter."""
    body = {"model": "sioconv-ja-en-7m", "stream": True, "messages": [{"role": "user", "content": MESSAGE}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        answer = urllib.request.urlopen(request, timeout=600)
    except urllib.error.URLError as error:
        raise ConnectionError from error
    with answer:
        for line in answer:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return
    sys.exit("the server's reply is empty")


def processor_seconds(pid: int) -> float:
    """What a process has computed; NaN where there is no /proc."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("chat", "serve"))
    parser.add_argument("--program", default=BESIDE, help="another installation's sioconv")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--kept", action="store_true", help="only with the kernels that earlier calls have kept")
    arguments = parser.parse_args()
    talk = {"chat": chat, "serve": serve}[arguments.verb]

    def told(what: str, environment: dict[str, str], times: int, kernels: Path | None = None) -> None:
        found = []
        for _ in range(times):
            if kernels is not None:
                shutil.rmtree(kernels)
                kernels.mkdir()
            found.append(talk(arguments.program, environment, kernels is None))
        clock, processor = (
            f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
            for values in zip(*found, strict=True)
        )
        print(f"{arguments.verb}, {what}: {clock} s, {processor} s of the processor", flush=True)

    if arguments.kept:
        told("kernels kept", dict(os.environ), arguments.times)
        return
    with tempfile.TemporaryDirectory() as kernels:
        environment = os.environ | {"NUMBA_CACHE_DIR": kernels}
        told("kernels never compiled", environment, arguments.times, Path(kernels))
        talk(arguments.program, environment, True)  # compiles
        told("kernels kept", environment, arguments.times)


if __name__ == "__main__":
    main()
