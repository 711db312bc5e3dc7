"""How fast the page without a server is: `python -m benchmarks.page FOLDER`, a folder of `sioconv export page`.

Chromium loads the page from this machine several times, each time without anything kept, and writes replies to a
Japanese message, of seeds 1, 2, …, until there are 200 tokens. Printed are the bytes of the folder, and medians with
the least and the most: seconds from the start of loading to the first token; from a message to its first token; tokens
per second between a reply's first token and its end. Each of the first and the last also by the clock of the processor
(Linux only), which other work on the machine hardly changes: seconds of all threads of the page, tokens per second of
the thread that writes, the reading of the message included.
"""

import argparse
import os
import shutil
import statistics
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from sioconv.publish.page.runtime import FILE

START = """() => {
  const worker = new Worker("worker.js", { type: "module" });
  window.ask = (content, seed) => new Promise((done, fail) => {
    const sampling = { temperature: null, top_p: null, top_k: null, min_p: null, repetition_penalty: null,
                       max_tokens: 200, seed };
    const asked = performance.now();
    let first = null;
    worker.onmessage = ({ data }) => {
      if ("text" in data) first ??= performance.now();
      else if ("trouble" in data) fail(new Error(data.message));
      else {
        const end = performance.now(), begun = first ?? end;
        done({ tokens: data.end.tokens, wait: (begun - asked) / 1000, writing: (end - begun) / 1000 });
      }
    };
    const turns = [{ role: "user", content }];
    worker.postMessage({ id: seed, reply: { model: "", persona: null, turns, state: null, stored: false, sampling } });
  });
}"""
ASK = "([content, seed]) => window.ask(content, seed)"
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def processor_seconds(wanted: Callable[[str], bool]) -> float:
    """What the threads of Chromium's pages have computed, of those whose name is wanted; 0 where there is no /proc."""
    seconds = 0.0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" not in (process / "cmdline").read_bytes() or not _is_ours(process):
                continue
            for thread in (process / "task").iterdir():
                name, _, rest = (thread / "stat").read_text().partition("(")[2].rpartition(")")
                if wanted(name):
                    seconds += sum(map(int, rest.split()[11:13])) / TICKS
        except OSError:  # it has ended
            continue
    return seconds


def _is_ours(process: Path) -> bool:
    while process.name not in ("0", "1", ""):
        if process.name == str(os.getpid()):
            return True
        parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        process = process.with_name(parent)
    return False


def measure(browser: Browser, url: str, message: str, tokens: int) -> dict[str, float]:
    """One load and replies, with nothing kept from before."""
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.goto(url)
    every, writer = (lambda _: True), (lambda name: name.startswith("DedicatedWorker"))
    before = processor_seconds(every)
    page.evaluate(START)
    loaded = page.evaluate(ASK, [message, 1])
    spent, begun = processor_seconds(every) - before, processor_seconds(writer)
    replies: list[dict[str, float]] = []
    while sum(reply["tokens"] for reply in replies) < tokens:
        replies.append(page.evaluate(ASK, [message, len(replies) + 1]))
    written, used = sum(reply["tokens"] for reply in replies), processor_seconds(writer) - begun
    context.close()
    return {
        "loaded": loaded["wait"],
        "spent": spent,
        "worker": begun,
        "wait": statistics.median(reply["wait"] for reply in replies),
        "speed": (written - len(replies)) / sum(reply["writing"] for reply in replies),
        "processor_speed": written / used if used else 0.0,
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--message", default="宮城県はどんなところですか。")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--loads", type=int, default=5)
    arguments = parser.parse_args()
    files = [file for file in Path(arguments.folder).rglob("*") if file.is_file() and file.name != FILE]
    print(f"{sum(file.stat().st_size for file in files):,} bytes in {len(files)} files, besides {FILE}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=arguments.folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program)
        url = f"http://127.0.0.1:{server.server_port}/"
        runs = [measure(browser, url, arguments.message, arguments.tokens) for _ in range(arguments.loads)]
        browser.close()

    def told(key: str, form: str) -> str:
        values = [run[key] for run in runs]
        return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"

    print(f"from the start of loading to the first token: {told('loaded', '.2f')} s")
    print(f"computed for that and the rest of this reply: {told('spent', '.2f')} s of the processor, of these")
    print(f"  by the thread that loads and writes: {told('worker', '.2f')} s")
    print(f"from a message to its first token, once the model is there: {told('wait', '.3f')} s")
    print(f"{told('speed', '.0f')} tokens/s")
    print(f"{told('processor_speed', '.0f')} tokens per second of the writing thread's processor time")


if __name__ == "__main__":
    main()
