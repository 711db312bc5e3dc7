"""How fast the page without a server is: `python -m benchmarks.page FOLDER`, a folder of `sioconv export page`.

Chromium loads the page from this machine three times, each time without anything kept, and writes two replies of 200
tokens to a Japanese message. Printed are the medians: seconds from the start of loading to the first token of the first
reply; from the second message to its first token; and tokens per second. Give the machine to it alone.
"""

import argparse
import shutil
import statistics
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from playwright.sync_api import Browser, sync_playwright

ASK = """async ([content, tokens]) => {
  const start = performance.now();
  const worker = new Worker("worker.js", { type: "module" });
  const sampling = { temperature: null, top_p: null, top_k: null, min_p: null, repetition_penalty: null,
                     max_tokens: tokens, seed: 1 };
  const ask = (id) => new Promise((done, fail) => {
    const asked = performance.now();
    let first = null;
    worker.onmessage = ({ data }) => {
      if ("text" in data) first ??= performance.now();
      else if ("trouble" in data) fail(new Error(data.message));
      else {
        const { tokens, finish } = data.end;
        const end = performance.now();
        done({ asked, first, tokens, finish, perSecond: (tokens - 1) / ((end - first) / 1000) });
      }
    };
    const turns = [{ role: "user", content }];
    worker.postMessage({ id, reply: { model: "", persona: null, turns, state: null, stored: false, sampling } });
  });
  const one = await ask(1), two = await ask(2);
  worker.terminate();
  return { loaded: (one.first - start) / 1000, warm: (two.first - two.asked) / 1000, perSecond: two.perSecond,
           tokens: two.tokens };
}"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def measure(browser: Browser, url: str, message: str, tokens: int) -> dict[str, float]:
    """One load and two replies, with nothing kept from before."""
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.goto(url)
    found: dict[str, float] = page.evaluate(ASK, [message, tokens])
    context.close()
    return found


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--message", default="宮城県はどんなところですか。")
    parser.add_argument("--tokens", type=int, default=200)
    arguments = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=arguments.folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program)
        url = f"http://127.0.0.1:{server.server_port}/"
        runs = [measure(browser, url, arguments.message, arguments.tokens) for _ in range(3)]
        browser.close()
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    print(f"from the start of the worker to the first token: {median['loaded']:.2f} s")
    print(f"from a message to its first token, once the model is there: {median['warm']:.3f} s")
    print(f"{median['perSecond']:.0f} tokens/s over {median['tokens']:.0f} tokens")


if __name__ == "__main__":
    main()
