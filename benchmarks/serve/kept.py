"""Whether very many stored conversations go on with the tokens that they would have had, and what they take."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.serve.client import Messages, Reply, ask, opening, web
from benchmarks.serve.processes import Server

AT_ONCE = 16
TOKENS = 6
Start = Callable[..., AbstractContextManager[Server]]


def measure(start: Start, store: Path, conversations: int) -> dict[str, float]:
    """Begins conversations, stops the server, starts it again, and goes on with each.

    Args:
        start: starts a server with options of `sioconv serve`.
        store: the file for states.
        conversations: how many.

    Returns:
        Among others `different`: how many have gone on otherwise than on a server that has never heard of them;
        `read_anew`: how many weren't found in the store; `memory` and `file`: bytes of the server and its file.
    """
    begun = [opening(number) for number in range(conversations)]
    clock = time.perf_counter()
    with start("--store", str(store)) as server:
        at_start = server.memory
        first = asyncio.run(_all(server, begun))
        after_first = server.memory
    went_on = [
        [*messages, {"role": "assistant", "content": reply.text}, {"role": "user", "content": "それから？"}]
        for messages, reply in zip(begun, first, strict=True)
    ]
    with start("--store", str(store)) as server:
        second = asyncio.run(_all(server, went_on))
        after_second = server.memory
    with start("--no_store") as server:
        alone = asyncio.run(_all(server, went_on))
    size = sum(file.stat().st_size for file in store.parent.glob(f"{store.name}*"))
    return {
        "conversations": conversations,
        "different": sum(a.text != b.text for a, b in zip(second, alone, strict=True)),
        "read_anew": sum(reply.cached == 0 for reply in second),
        "memory_at_start": at_start,
        "memory_after_first_turns": after_first,
        "memory_after_second_turns": after_second,
        "file": size,
        "seconds": time.perf_counter() - clock,
    }


async def _all(server: Server, conversations: Sequence[Messages]) -> list[Reply]:
    """The next reply of each, some at once."""
    room = asyncio.Semaphore(AT_ONCE)
    async with web(server) as client:

        async def one(number: int, messages: Messages) -> Reply:
            async with room:
                return await ask(client, server, messages, TOKENS, seed=number)

        return await asyncio.gather(*(one(number, messages) for number, messages in enumerate(conversations)))
