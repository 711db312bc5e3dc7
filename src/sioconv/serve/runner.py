"""An engine on a thread of its own, and what it writes in an event loop."""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sioconv.generate.engine import Engine, Event, Request

T = TypeVar("T")
logger = logging.getLogger("sioconv.serve")
Sink = Callable[[Event | BaseException], object]
AT_ONCE_ASIDE = 256  # tokens of such requests that are read at once
REST = 0.05  # seconds after the latest answer, before they are read: a request that follows mustn't wait for them
MOST_ASIDE = 1024  # requests that wait for an engine with nothing else to do; older ones are forgotten


class EngineFailedError(Exception):
    """The engine's step has failed; the requests that ran are lost."""


class CancelledByClientError(Exception):
    """Another request has asked for the end of this one."""


class Runner:
    """Steps an engine while anything runs.

    All calls of the engine happen on its thread, between two steps, so that nobody waits for a step but those whose
    call it is.

    Args:
        engine: the engine; nobody else calls it.
        name: of the thread.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._events: list[tuple[asyncio.AbstractEventLoop, Sink, Event]] = []  # of this step
        self._sinks: dict[int, tuple[asyncio.AbstractEventLoop, Sink]] = {}  # of all requests that somebody waits for
        self._aside: deque[Request] = deque(maxlen=MOST_ASIDE)
        self._latest = 0.0  # when somebody has got something, in seconds of the monotonic clock
        self._closed = False
        self.steps = 0
        self._written, self._seconds = 0.0, 0.0  # of late: what is older counts less
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Texts that are being read or written, or wait for that."""
        return self._engine.running + len(self._aside)

    @property
    def tokens_per_second(self) -> float:
        """Tokens that were written by all replies together in a second of the latest work; 0 before the first."""
        return self._written / self._seconds if self._written else 0.0

    @property
    def alive(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Calls a function on the engine's thread."""
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)

        self._calls.put(run)
        return future

    def start(
        self, request: Request, seconds: float | None = None, done: Callable[[], None] | None = None
    ) -> "Running":
        """A request that runs while one is inside `async with`, see `Running`."""
        return Running(self, request, seconds, done)

    def read_aside(self, request: Request) -> None:
        """Runs a request whose events nobody waits for, REST after the others: it fills the engine's store.

        Where the engine never rests it isn't run, and whoever goes on from its text reads it then.
        """
        self.call(lambda: self._aside.append(request))

    def forget_aside(self, owner: str) -> "Future[None]":
        """Forgets what is read for the store alone of an owner, see `serve.prompts.scope_of`, and what waits for it."""

        def forget() -> None:
            self._engine.forget(owner)
            kept = [request for request in self._aside if request.scope.partition("/")[0] != owner]
            self._aside.clear()
            self._aside.extend(kept)

        return self.call(forget)

    def close(self) -> None:
        """Ends the thread after its current step; what runs is lost."""
        self._closed = True
        self._calls.put(_wake)
        self._thread.join(timeout=60)

    def submit(self, request: Request, loop: asyncio.AbstractEventLoop, sink: Sink) -> int:
        """Takes a request in; its number. On the engine's thread only."""
        number = self._engine.submit(request, lambda event: self._events.append((loop, sink, event)))
        self._sinks[number] = (loop, sink)
        return number

    def cancel(self, number: int, branch: int | None = None) -> None:
        """Ends a request, or one of its continuations. On the engine's thread only."""
        self._engine.cancel(number, branch)
        if branch is None:
            self._sinks.pop(number, None)

    def _run(self) -> None:
        busy = False
        while not self._closed:
            self._take_calls(busy)
            try:
                if self._aside and not self._engine.running and time.monotonic() >= self._latest + REST:
                    self._read_some_aside()
                start = time.perf_counter()
                busy = self._engine.step()
                self.steps += busy
                self._measure(time.perf_counter() - start)
            except Exception:
                logger.exception("a step of the engine has failed")
                self._fail()
            self._hand_out()

    def _take_calls(self, busy: bool) -> None:
        """Makes the calls that are asked for; where nothing runs, waits for one, or until what is aside may be read."""
        left = self._latest + REST - time.monotonic() if self._aside else None
        with contextlib.suppress(queue.Empty):
            self._calls.get(not busy and (left is None or left > 0), left)()
            while True:
                self._calls.get_nowait()()

    def _read_some_aside(self) -> None:
        """Submits what is read in about one step: whoever comes meanwhile waits for no more than that."""
        left = AT_ONCE_ASIDE
        while self._aside and left > 0:
            request = self._aside.popleft()
            left -= len(request.ids)
            self._engine.submit(request)

    def _measure(self, seconds: float) -> None:
        written = sum(event.token is not None for _, _, event in self._events)
        if written:  # steps that only read say nothing of the speed of writing
            self._written, self._seconds = 0.99 * self._written + written, 0.99 * self._seconds + seconds

    def _hand_out(self) -> None:
        events, self._events = self._events, []
        if events:
            self._latest = time.monotonic()
            loops = {loop for loop, _, _ in events}
            for loop in loops:
                self._deliver(loop, [(sink, event) for there, sink, event in events if there is loop])

    def _fail(self) -> None:
        """Ends everything that runs or waits."""
        self._engine.clear()
        self._aside.clear()
        for loop, sink in self._sinks.values():
            self._deliver(loop, [(sink, EngineFailedError("a step of the engine has failed"))])
        self._sinks.clear()

    def _deliver(self, loop: asyncio.AbstractEventLoop, events: list[tuple[Sink, Any]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(_put, events)


class Running:
    """A request on a runner's engine: `async with` runs it, `async for` gives its events.

    Args:
        runner: what runs it.
        request: what is to be read and written.
        seconds: how long it may take; None for any time.
        done: called in the event loop when all is written, though nobody may have taken it yet.
    """

    def __init__(
        self, runner: Runner, request: Request, seconds: float | None, done: Callable[[], None] | None
    ) -> None:
        self._runner, self._request, self._seconds, self._done = runner, request, seconds, done
        self._timer: asyncio.TimerHandle | None = None
        self._numbers: list[int] = []
        self._left = set(range(request.n if request.max_new_tokens else 1))
        self._unwritten = len(self._left)
        self._events = asyncio.Queue[Event | BaseException]()

    async def __aenter__(self) -> "Running":
        """Submits the request. Raises ValueError and UserError as `Engine.submit`."""
        loop = asyncio.get_running_loop()

        def submit() -> None:
            self._numbers.append(self._runner.submit(self._request, loop, self._take))

        try:
            await asyncio.wrap_future(self._runner.call(submit))
        except asyncio.CancelledError:
            self._cancel(None)
            raise
        if self._seconds is not None:
            self._timer = loop.call_later(self._seconds, self._events.put_nowait, TimeoutError())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancels what still runs."""
        if self._timer is not None:
            self._timer.cancel()
        self._cancel(None)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events, up to the end of each continuation.

        Raises:
            EngineFailedError: a step has failed.
            TimeoutError: the time is over.
            CancelledByClientError: after `interrupt`.
        """
        while self._left:
            event = await self._events.get()
            if isinstance(event, BaseException):
                raise event
            if event.branch in self._left:  # else it was written before the engine heard of its end
                if event.ended is not None:
                    self._left.discard(event.branch)
                yield event

    def _take(self, event: Event | BaseException) -> None:
        self._events.put_nowait(event)
        if isinstance(event, Event) and event.ended is not None:
            self._unwritten -= 1
            if not self._unwritten and self._done is not None:
                self._done()

    def interrupt(self) -> None:
        """Ends the request: its events end with CancelledByClientError. In the event loop only."""
        self._events.put_nowait(CancelledByClientError())

    def stop(self, branch: int) -> None:
        """Ends one continuation."""
        if branch in self._left:
            self._left.discard(branch)
            self._cancel(branch)

    def _cancel(self, branch: int | None) -> None:
        # The engine's thread takes calls in their order: where the request was submitted, its number is there by then.
        def cancel() -> None:
            for number in self._numbers:
                self._runner.cancel(number, branch)

        self._runner.call(cancel)


def _put(events: list[tuple[Sink, Any]]) -> None:
    for sink, event in events:
        sink(event)


def _wake() -> None:
    """For a thread that waits for calls."""
