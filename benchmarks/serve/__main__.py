"""Speed of `sioconv serve`: conversations of many turns at once, beside the bare engine on the same prompts.

`python -m benchmarks.serve [--json FILE] [--size 25m] [--at-once 1 16 64] [--turns 10] [--tokens 32]`

The bare engine writes as many replies of as many tokens to the prompts of the first turn, all at once, in a process
without a server: what the server gives away to HTTP, JSON and Python is the difference.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import torch

from sioconv.data.chat import encode
from sioconv.data.config import TokenizerConfig
from sioconv.data.tokenizer.tokenizer import train_tokenizer
from sioconv.generate import Engine, Event, Request, SamplingConfig, Vocabulary
from sioconv.generate.states.state import State
from sioconv.model import SioConvConfig, SioConvForCausalLM, load_model_folder, save_model_folder
from sioconv.plan.size import derive, parse_size

MESSAGE = "川は山から海へ流れます。では、海の水はどこへ行きますか。"
VOCABULARY = 4096


def make_folder(folder: Path, size: int) -> Path:
    """A folder with a model of about so many random parameters."""
    texts = [MESSAGE * 3, "The river runs from the hills to the sea."] * 9
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=384), texts, folder / "tokenizer")
    torch.manual_seed(0)
    shape = derive(size, VOCABULARY, 1024)["model"]
    model = SioConvForCausalLM(SioConvConfig(vocab_size=VOCABULARY, **shape))
    save_model_folder(model.eval(), tokenizer, folder / "model", [tokenizer.eos_token_id])
    return folder / "model"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server of the model in a process of its own; its address."""
    command = [sys.executable, "-m", "sioconv", "serve", f"bench={folder}", "--port", "0"]
    child = subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE, encoding="utf-8")
    assert child.stderr is not None
    found = next(found for line in child.stderr if (found := re.search(r"at (http://\S+)", line)))
    threading.Thread(target=child.stderr.read, daemon=True).start()  # its log, or it would wait for a reader
    try:
        yield found[1]
    finally:
        child.terminate()
        child.wait()


async def converse(web: httpx.AsyncClient, number: int, turns: int, tokens: int) -> list[tuple[float, list[float]]]:
    """One conversation; of each turn the seconds to its first text, and those between its pieces."""
    messages, times = [{"role": "system", "content": f"conversation {number}"}], []
    for _ in range(turns):
        messages.append({"role": "user", "content": MESSAGE})
        body = {"model": "bench", "messages": messages, "max_tokens": tokens, "min_tokens": tokens, "stream": True}
        start, marks, text = time.perf_counter(), list[float](), ""
        async with web.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {") and (part := json.loads(line[6:])["choices"][0]["delta"].get("content")):
                    marks.append(time.perf_counter())
                    text += part
        messages.append({"role": "assistant", "content": text})
        times.append((marks[0] - start, [b - a for a, b in pairwise(marks)]))
    return times


async def crowd(url: str, at_once: int, turns: int, tokens: int) -> dict[str, float]:
    """Many conversations at once."""
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=httpx.Limits(max_connections=None)) as web:
        await converse(web, -1, 1, 2)  # what is compiled or loaded at the first use
        start = time.perf_counter()
        all_times = await asyncio.gather(*(converse(web, n, turns, tokens) for n in range(at_once)))
        seconds = time.perf_counter() - start
    gaps = sorted(gap for times in all_times for _, each in times for gap in each)
    first, last = ([times[turn][0] for times in all_times] for turn in (0, -1))
    return {
        "at_once": at_once,
        "tokens_per_second": at_once * turns * tokens / seconds,
        "first_text_turn_1_ms": 1e3 * statistics.median(first),
        "first_text_last_turn_ms": 1e3 * statistics.median(last),
        "between_median_ms": 1e3 * statistics.median(gaps),
        "between_99_ms": 1e3 * gaps[int(0.99 * len(gaps))],
    }


def bare(folder: Path, at_once: int, tokens: int) -> float:
    """Tokens a second of the engine alone."""
    model, tokenizer = load_model_folder(folder)
    vocabulary, engine = Vocabulary(tokenizer, model.config.vocab_size), Engine(model)
    sampling = SamplingConfig(min_new_tokens=tokens, max_new_tokens=tokens)

    def run(count: int) -> float:
        written = 0

        def note(event: Event) -> None:
            nonlocal written
            written += event.token is not None

        start = time.perf_counter()
        for number in range(count):
            system = {"role": "system", "content": f"conversation {number}"}
            ids, _ = encode(tokenizer, [system, {"role": "user", "content": MESSAGE}], add_generation_prompt=True)
            ends = (vocabulary.eos, vocabulary.end_of_turn)
            engine.submit(Request(ids, State(), sampling, tokens, ending=ends, banned=vocabulary.banned), note)
        while engine.step():
            pass
        return written / (time.perf_counter() - start)

    run(1)
    return run(at_once)


def main() -> None:
    """Prints a table, and writes JSON where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", type=parse_size, default=parse_size("25m"))
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=32)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = make_folder(Path(name), arguments.size)
        for at_once in arguments.at_once:
            alone = bare(folder, at_once, arguments.tokens)
            with served(folder) as url:
                row = asyncio.run(crowd(url, at_once, arguments.turns, arguments.tokens))
            row["bare_engine_tokens_per_second"] = alone
            rows.append(row)
            print("  ".join(f"{key} {value:,.1f}" for key, value in row.items()), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
