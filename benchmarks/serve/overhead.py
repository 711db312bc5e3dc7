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

WORDS = 64


def words_of(vocabulary: Vocabulary, size: int) -> dict[int, float]:
    """A `logit_bias` that leaves some words with a space before them: text of these is spelt by the tokenizer alike."""
    spelt = [(i, vocabulary.bytes_of(i)) for i in range(size)]
    words = [i for i, data in spelt if data.startswith(b" ") and data[1:].isalpha() and data.isascii()]
    return dict.fromkeys(words[:: max(1, len(words) // WORDS)][:WORDS], 100.0)


def bare(model: Any, tokenizer: Any, vocabulary: Vocabulary) -> Any:
    """A call that writes replies with the engine alone, all at once; the processor seconds of a token."""
    texts = ServeConfig().texts
    engine = Engine(model, token_budget=max(512, 2 * texts), max_texts=texts)

    def run(first: int, count: int, tokens: int, bias: dict[int, float]) -> float:
        written = 0

        def note(event: Event) -> None:
            nonlocal written
            written += event.token is not None

        start = time.process_time()
        sampling = SamplingConfig(min_new_tokens=tokens, max_new_tokens=tokens, logit_bias=bias)
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

    A reply that the model spells in other tokens than the tokenizer is read once more for the store (docs/serving.md):
    trained models seldom do that, a random one always. So replies are of words that the tokenizer spells alike, with
    `store: false` and as requests are; and once more of any tokens, as `respelt`, beside the engine writing such.
    """
    model, tokenizer = load_model_folder(folder)
    vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
    bias = words_of(vocabulary, model.config.vocab_size)
    words = {"logit_bias": {str(token): value for token, value in bias.items()}}
    rows, engine, first = [], bare(model, tokenizer, vocabulary), 64
    with ours(folder) as server:
        asyncio.run(streams(server, 0, 64, 4))  # what is loaded at the first use
        engine(0, 64, 4, bias)
        for count in at_once:
            ways = {"server": words | {"store": False}, "server_and_store": words, "respelt": {}}
            found: dict[str, list[float]] = {name: [] for name in ("engine", "engine_respelt", *ways)}
            for _ in range(rounds):
                found["engine"].append(engine(first, count, tokens, bias))
                found["engine_respelt"].append(engine(first, count, tokens, {}))
                for name, options in ways.items():
                    found[name].append(asyncio.run(streams(server, first, count, tokens, **options)))
                    first += count
            row: dict[str, float] = {"at_once": count}
            for name, seconds in found.items():
                row[f"{name}_cpu_us_per_token"] = 1e6 * statistics.median(seconds)
                if name in ways:
                    alone = found["engine_respelt" if name == "respelt" else "engine"]
                    row[f"{name}_overhead"] = statistics.median(a / b for a, b in zip(seconds, alone, strict=True)) - 1
            rows.append(row)
    return rows
