"""Speed of `sioconv serve`, beside its bare engine and other servers: `python -m benchmarks.serve [--json FILE]`.

Models have random weights and one tokenizer. Parts:

- `conversations`: some at once, of several turns; time to the first token at the first and the last turn and when the
  last reply is asked for again; time between tokens; tokens a second, and a second of the server's processor time;
  memory. Peers with a Llama of the same size, the same client, in turns: llama-cpp-python's server and `transformers
  serve` with continuous batching.
- `long`: one conversation of 100 turns.
- `overhead`: processor time of a token, of the engine alone and of the server.
- `kept`: 10,000 stored conversations go on after a restart, each compared with a server that has never heard of it.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.decode_models import SHAPES
from benchmarks.serve import conversations, kept, overhead
from benchmarks.serve.folders import make_tokenizer, save_gguf, save_llama, save_ours
from benchmarks.serve.processes import Server, llama_cpp, ours, transformers_serve
from sioconv.files import atomic_write
from sioconv.hardware import describe_machine, describe_versions

PARTS = ("conversations", "long", "overhead", "kept")
SERVERS = ("sioconv", "llama.cpp", "transformers")
CONTEXT = 8192  # tokens that llama.cpp has room for


def start_server(name: str, size: str, tokenizer: Any, folder: Path, threads: int) -> AbstractContextManager[Server]:
    """One of `SERVERS`; its model is made where it isn't there yet."""
    if name == "sioconv":
        place = folder / "sioconv"
        return ours(place if place.exists() else save_ours(size, tokenizer, place), threads=threads)
    llama = folder / "llama"
    if not llama.exists():
        save_llama(size, tokenizer, llama)
    if name == "transformers":
        return transformers_serve(llama, threads)
    return llama_cpp(save_gguf(llama, folder / "llama.gguf"), CONTEXT, threads)


def measure(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Any]]:
    """A name and the figures of each measurement."""
    for size in options.sizes:
        here = folder / size
        tokenizer = make_tokenizer(size, here / "tokenizer")
        start = partial(start_server, size=size, tokenizer=tokenizer, folder=here, threads=options.threads)
        if "conversations" in options.parts:
            yield from _beside_each_other(options, size, start)
        if "long" in options.parts:
            with start("sioconv") as server:
                yield f"{size}/long", asyncio.run(conversations.long(server, 0, options.long, options.tokens))
        model = here / "sioconv"
        if not model.exists():
            save_ours(size, tokenizer, model)
        if "overhead" in options.parts:
            yield f"{size}/overhead", overhead.measure(model, options.at_once, options.tokens, options.rounds)
        if "kept" in options.parts:
            serve = partial(ours, model, threads=options.threads)
            yield f"{size}/kept", kept.measure(serve, here / "states.db", options.conversations)


def _beside_each_other(options: argparse.Namespace, size: str, start: Any) -> Iterator[tuple[str, Any]]:
    """All servers run, and are asked in turns."""
    with ExitStack() as running:
        servers = {name: running.enter_context(start(name)) for name in options.servers}
        for server in servers.values():
            asyncio.run(conversations.crowd(server, -1, 1, 2, 4))  # what is compiled or loaded at the first use
        first = 0
        for at_once in options.at_once:
            for name, server in servers.items():
                work = conversations.crowd(server, first, at_once, options.turns, options.tokens)
                yield f"{size}/{at_once} at once/{name}", asyncio.run(work)
            first += at_once


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument(
        "--sizes", nargs="+", choices=[size for size in SHAPES if size != "tiny"], default=["25M", "125M"]
    )
    options.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    options.add_argument("--at-once", type=int, nargs="+", default=[1, 16, 64])
    options.add_argument("--turns", type=int, default=10)
    options.add_argument("--tokens", type=int, default=32, help="of each reply")
    options.add_argument("--long", type=int, default=100, help="turns of the long conversation")
    options.add_argument("--rounds", type=int, default=3, help="of the overhead")
    options.add_argument("--conversations", type=int, default=10_000, help="that are kept")
    options.add_argument("--threads", type=int, default=1, help="of each server")
    options.add_argument("--folder", type=Path, help="where models are made, or were; else a temporary one")
    options.add_argument("--json", type=Path, help="where the figures are written")
    return options


def main() -> None:
    """Prints the figures, and writes them after each measurement where that is asked for."""
    options = parser().parse_args()
    said = {"machine": describe_machine(), "versions": describe_versions(), "threads": options.threads}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for part, figures in measure(options, options.folder or Path(name)):
            results[part] = figures
            for row in figures if isinstance(figures, list) else [figures]:
                print(part, json.dumps(row), flush=True)
            if options.json is not None:
                with atomic_write(options.json) as temporary:
                    temporary.write_text(json.dumps({**said, "results": results}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
