"""What the server costs over its bare engine, in processor seconds: the machine may be busy."""

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.serve.client import ask, opening, web
from benchmarks.serve.processes import Server, ours
from sioconv.data.chat import encode
from sioconv.generate import Engine, Event, Request, SamplingConfig, Vocabulary
from sioconv.generate.states.state import State
from sioconv.model import load_model_folder
from sioconv.serve.config import ServeConfig


def bare(folder: Path) -> Any:
    """A call that writes replies with the engine alone, all at once; the processor seconds of a token."""
    model, tokenizer = load_model_folder(folder)
    vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
    texts = ServeConfig().texts
    engine = Engine(model, token_budget=max(512, 2 * texts), max_texts=texts)

    def run(first: int, count: int, tokens: int) -> float:
        written = 0

        def note(event: Event) -> None:
            nonlocal written
            written += event.token is not None

        start = time.process_time()
        sampling = SamplingConfig(min_new_tokens=tokens, max_new_tokens=tokens)
        for number in range(first, first + count):
            ids, _ = encode(tokenizer, opening(number), add_generation_prompt=True)
            ends = (vocabulary.eos, vocabulary.end_of_turn)
            engine.submit(Request(ids, State(), sampling, tokens, number, ending=ends, banned=vocabulary.banned), note)
        while engine.step():
            pass
        return (time.process_time() - start) / written

    return run


async def streams(server: Server, first: int, count: int, tokens: int, **options: Any) -> float:
    """Processor seconds of the server for a token, of so many streams at once."""
    async with web(server) as client:
        start = server.cpu_seconds
        asked = (ask(client, server, opening(n), tokens, seed=n, **options) for n in range(first, first + count))
        written = sum(reply.tokens for reply in await asyncio.gather(*asked))
        await asyncio.to_thread(server.wait_for_rest)  # what it does after the last answer counts too
        return (server.cpu_seconds - start) / written


def measure(folder: Path, at_once: list[int], tokens: int, rounds: int) -> list[dict[str, float]]:
    """Engine and server in turns; a row for each number of streams.

    A random model spells its replies in other tokens than the tokenizer, so that each is read once more for the store
    (docs/serving.md); a trained one seldom does. So both are measured: with `store: false`, and as requests are.
    """
    rows, engine, first = [], bare(folder), 64
    with ours(folder) as server:
        asyncio.run(streams(server, 0, 64, 4))  # what is loaded at the first use
        engine(0, 64, 4)
        for count in at_once:
            found: dict[str, list[float]] = {"engine": [], "server": [], "server_and_store": []}
            for _ in range(rounds):
                found["engine"].append(engine(first, count, tokens))
                found["server"].append(asyncio.run(streams(server, first, count, tokens, store=False)))
                found["server_and_store"].append(asyncio.run(streams(server, first, count, tokens)))
                first += count
            row: dict[str, float] = {"at_once": count}
            for name, seconds in found.items():
                row[f"{name}_cpu_us_per_token"] = 1e6 * statistics.median(seconds)
                ratios = [each / alone for each, alone in zip(seconds, found["engine"], strict=True)]
                row[f"{name}_overhead"] = statistics.median(ratios) - 1
            del row["engine_overhead"]
            rows.append(row)
    return rows
