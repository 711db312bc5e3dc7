"""Conversations of many turns, many at once, with one server."""

import asyncio
import statistics
import time
from itertools import pairwise
from typing import Any

import httpx

from benchmarks.serve.client import MESSAGE, Reply, ask, opening, web
from benchmarks.serve.processes import Server


async def _converse(
    client: httpx.AsyncClient, server: Server, number: int, turns: int, tokens: int
) -> tuple[list[Reply], Reply]:
    """The replies of one conversation, and the last one once more."""
    messages, replies = opening(number), list[Reply]()
    while True:
        replies.append(await ask(client, server, messages, tokens))
        if len(replies) == turns:
            return replies, await ask(client, server, messages, tokens)
        messages.append({"role": "assistant", "content": replies[-1].text})
        messages.append({"role": "user", "content": MESSAGE})


async def crowd(server: Server, first: int, at_once: int, turns: int, tokens: int) -> dict[str, Any]:
    """Many conversations at once.

    Args:
        server: the server.
        first: the number of the first one: no number is used twice with one server.
        at_once: how many.
        turns: of each.
        tokens: of each reply.
    """
    async with web(server) as client:
        memory, cpu, start = server.memory, server.cpu_seconds, time.perf_counter()
        work = (_converse(client, server, number, turns, tokens) for number in range(first, first + at_once))
        found = await asyncio.gather(*work)
        seconds, cpu = time.perf_counter() - start, server.cpu_seconds - cpu
        memory = server.memory - memory
    replies = [reply for all_replies, again in found for reply in (*all_replies, again)]
    written = sum(reply.tokens for reply in replies)
    gaps = sorted(b - a for reply in replies for a, b in pairwise(reply.marks)) or [0.0]
    last, again = [all_replies[-1] for all_replies, _ in found], [again for _, again in found]
    return {
        "at_once": at_once,
        "turns": turns,
        "tokens": written,
        "tokens_per_second": written / seconds,
        "tokens_per_cpu_second": written / cpu,
        "first_token_turn_1_ms": _middle_ms([all_replies[0] for all_replies, _ in found]),
        f"first_token_turn_{turns}_ms": _middle_ms(last),
        "first_token_again_ms": _middle_ms(again),
        "between_median_ms": 1e3 * statistics.median(gaps),
        "between_99_ms": 1e3 * gaps[int(0.99 * len(gaps))],
        "memory_per_conversation": memory / at_once,
    }


def _middle_ms(replies: list[Reply]) -> float:
    return 1e3 * statistics.median(reply.first for reply in replies if reply.marks)


async def long(server: Server, first: int, turns: int, tokens: int) -> dict[str, Any]:
    """One conversation of very many turns: processor seconds and tokens that were read, at some of them."""
    messages, rows = opening(first), {}
    async with web(server) as client:
        for turn in range(1, turns + 1):
            cpu = server.cpu_seconds
            reply = await ask(client, server, messages, tokens)
            await asyncio.to_thread(server.wait_for_rest)  # what it does after an answer belongs to this turn
            if turn in (1, 2, 10, turns):
                rows[f"turn_{turn}"] = {
                    "first_token_ms": 1e3 * reply.first, "cpu_ms": 1e3 * (server.cpu_seconds - cpu),
                    "tokens_not_read_again": reply.cached,
                }  # fmt: skip
            messages += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": MESSAGE}]
    return rows
