"""How much runs at once, and how much of it for one client."""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from sioconv.serve.config import ServeConfig
from sioconv.serve.errors import ApiError

MINUTE = 60.0


class Limits:
    """Lets requests in, makes them wait, or sends them away.

    Args:
        config: the limits.
        clock: seconds.

    Attributes:
        waiting: replies that wait, by model.
        running: replies that are written, by model.
    """

    def __init__(self, config: ServeConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self.waiting: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self._held: Counter[str] = Counter()  # replies by client
        self._queues: dict[str, deque[tuple[int, asyncio.Future[None]]]] = {}
        self._sent: dict[str, deque[float]] = {}  # times of each client's requests in the last minute

    def count(self, client: str) -> None:
        """Counts a request of a client. Raises ApiError where it sends too many."""
        rate, now = self._config.key_rate, self._clock()
        if not rate:
            return
        sent = self._sent.setdefault(client, deque())
        while sent and sent[0] <= now - MINUTE:
            sent.popleft()
        if len(sent) >= rate:
            wait = math.ceil(sent[0] + MINUTE - now)
            raise _too_many(f"more than {rate} requests a minute: wait {wait} s", max(wait, 1), "rate_limit_exceeded")
        sent.append(now)
        if len(self._sent) > 10_000:  # addresses that were seen once
            self._sent = {name: times for name, times in self._sent.items() if times and times[-1] > now - MINUTE}

    @asynccontextmanager
    async def room(self, model: str, client: str, texts: int) -> AsyncGenerator[Callable[[], None], None]:
        """Room for replies of one request; it waits until there is some, those that came first in front.

        It gives what leaves the room to others before its end: they needn't wait until the client has read all of it.

        Raises:
            ApiError: the client has too many already, or too many wait.
        """
        if self._held[client] + texts > self._config.key_texts:
            message = f"this key has {self._held[client]} replies running: {self._config.key_texts} may at once"
            raise _too_many(message, 1, "concurrency_limit_exceeded")
        if self._full(model, texts) and self.waiting[model] + texts > self._config.queue:
            # A guess: by then a part of what runs has ended.
            raise _too_many("the server is full: come again", 2, "server_full")
        self._held[client] += texts
        try:
            await self._enter(model, texts)
            inside = [texts]

            def leave() -> None:
                if inside:
                    self.running[model] -= inside.pop()
                    self._wake(model)

            try:
                yield leave
            finally:
                leave()
        finally:
            self._held[client] -= texts
            if not self._held[client]:
                del self._held[client]

    def _full(self, model: str, texts: int) -> bool:
        return bool(self._queues.get(model)) or self.running[model] + texts > self._config.texts

    async def _enter(self, model: str, texts: int) -> None:
        if not self._full(model, texts):
            self.running[model] += texts
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (texts, turn)
        self._queues.setdefault(model, deque()).append(entry)
        self.waiting[model] += texts
        try:
            # Not wait_for: of a task that is cancelled at the moment of its turn, it forgets the cancellation.
            async with asyncio.timeout(self._config.max_seconds):
                await asyncio.shield(turn)
        except (asyncio.CancelledError, TimeoutError) as error:
            if turn.done() and not turn.cancelled():  # it was let in at the same moment
                self.running[model] -= texts
            else:
                self._queues[model].remove(entry)
                self.waiting[model] -= texts
            self._wake(model)
            if isinstance(error, TimeoutError):
                raise timed_out(self._config.max_seconds) from error
            raise

    def _wake(self, model: str) -> None:
        queue = self._queues.get(model, deque())
        while queue and self.running[model] + queue[0][0] <= self._config.texts:
            texts, turn = queue.popleft()
            self.waiting[model] -= texts
            self.running[model] += texts
            turn.set_result(None)


def timed_out(seconds: float) -> ApiError:
    """A request that has run for too long; OpenAI's clients don't send it again."""
    return ApiError(
        504, f"the request took more than {seconds:g} s", code="timeout", headers={"x-should-retry": "false"}
    )


def _too_many(message: str, seconds: int, code: str) -> ApiError:
    return ApiError(429, message, code=code, headers={"Retry-After": str(seconds)})
