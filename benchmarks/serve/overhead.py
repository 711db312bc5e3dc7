"""What the server costs over its bare engine, in processor seconds: the machine may be busy."""

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.serve.processes import Server, ours
from sioconv.data.chat import encode
from sioconv.generate import Engine, Event, Request, SamplingConfig, Vocabulary
from sioconv.generate.states.state import State
from sioconv.model import load_model_folder
from sioconv.serve.config import ServeConfig

MESSAGE = "川は山から海へ流れます。では、海の水はどこへ行きますか。"


def messages_of(number: int) -> list[dict[str, str]]:
    """What a conversation begins with: no two alike, so that nothing is found in the store."""
    return [{"role": "system", "content": f"conversation {number}"}, {"role": "user", "content": MESSAGE}]


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
            ids, _ = encode(tokenizer, messages_of(number), add_generation_prompt=True)
            ends = (vocabulary.eos, vocabulary.end_of_turn)
            engine.submit(Request(ids, State(), sampling, tokens, number, ending=ends, banned=vocabulary.banned), note)
        while engine.step():
            pass
        return (time.process_time() - start) / written

    return run


async def streams(server: Server, first: int, count: int, tokens: int, **options: Any) -> float:
    """Processor seconds of the server for a token, of so many streams at once."""

    async def one(number: int) -> int:
        body = {
            "model": server.model, "messages": messages_of(number), "seed": number, "stream": True,
            "max_tokens": tokens, "min_tokens": tokens, "stream_options": {"include_usage": True}, **options,
        }  # fmt: skip
        written = 0
        async with web.stream("POST", "/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if '"usage":{' in line:
                    written = int(line.partition('"completion_tokens":')[2].partition(",")[0])
        return written

    async with httpx.AsyncClient(base_url=server.url, timeout=None, limits=httpx.Limits(max_connections=None)) as web:
        start = server.cpu_seconds
        written = sum(await asyncio.gather(*(one(number) for number in range(first, first + count))))
        await asyncio.sleep(0.5)  # what it does after the last answer counts too
        return (server.cpu_seconds - start) / written


def measure(folder: Path, at_once: list[int], tokens: int, rounds: int) -> list[dict[str, float]]:
    """Engine and server in turns; a row for each number of streams."""
    rows, engine, first = [], bare(folder), 64
    with ours(folder) as server:
        asyncio.run(streams(server, 0, 64, 4))  # what is compiled or loaded at the first use
        engine(0, 64, 4)
        for count in at_once:
            alone, served = [], []
            for _ in range(rounds):
                alone.append(engine(first, count, tokens))
                served.append(asyncio.run(streams(server, first, count, tokens)))
                first += count
            row = {
                "at_once": count,
                "engine_cpu_us_per_token": 1e6 * statistics.median(alone),
                "server_cpu_us_per_token": 1e6 * statistics.median(served),
                "overhead": statistics.median(b / a for a, b in zip(alone, served, strict=True)) - 1,
            }
            rows.append(row)
    return rows
