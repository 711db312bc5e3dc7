"""The engine's thread: what is read aside waits until nobody else needs the engine."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sioconv.generate.engine import Engine, Event, Request
from sioconv.model import SioConvForCausalLM
from sioconv.serve.runner import Runner


@pytest.fixture
def engine(tiny_model: tuple[SioConvForCausalLM, Any]) -> Engine:
    return Engine(tiny_model[0])


def test_what_is_read_aside_waits_until_nothing_else_runs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    submit, hold = engine.submit, threading.Event()

    def noted(request: Request, *on_event: Callable[[Event], object]) -> int:
        order.append(f"{request.scope} beside {engine.running}")
        return submit(request, *on_event)

    monkeypatch.setattr(engine, "submit", noted)
    runner = Runner(engine, "test")
    runner.call(hold.wait)  # nothing is stepped until all is asked for
    runner.read_aside(Request([1, 2, 3], max_new_tokens=0, scope="aside"))
    runner.read_aside(Request([1, 2, 3], max_new_tokens=0, scope="other/persona"))
    runner.read_aside(Request([1, 2, 3], max_new_tokens=0, scope="forgotten/persona"))
    forgotten = runner.forget_aside("forgotten")
    done = threading.Event()

    def last(event: Event) -> None:
        if event.ended is not None:
            done.set()

    runner.call(lambda: engine.submit(Request([1, 2], max_new_tokens=5, scope="asked"), last))
    hold.set()
    forgotten.result(30)
    assert done.wait(60)
    while runner.running:
        pass
    runner.close()
    assert order == ["asked beside 0", "aside beside 0", "other/persona beside 1"]


def test_who_asks_again_at_once_waits_for_nothing_that_is_read_aside(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As "regenerate" does: the reply is read aside in the words of the tokenizer, and that isn't what is asked for."""
    monkeypatch.setattr("sioconv.serve.runner.REST", 1e6)

    async def ask(runner: Runner) -> None:
        async with runner.start(Request([1, 2], max_new_tokens=3, scope="asked")) as running:
            async for _ in running:
                pass

    runner = Runner(engine, "test")
    asyncio.run(ask(runner))
    runner.read_aside(Request([1, 2, 3], max_new_tokens=0, scope="aside"))
    asyncio.run(ask(runner))
    assert runner.call(lambda: runner.running).result(60) == 1
    monkeypatch.setattr("sioconv.serve.runner.REST", 0.05)
    while runner.call(lambda: runner.running).result(60):  # asking doesn't put it off
        pass
    runner.close()


def test_only_as_much_is_read_aside_at_once_as_a_step_reads(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    submit, hold = engine.submit, threading.Event()

    def noted(request: Request) -> int:
        order.append(engine.running)
        return submit(request)

    monkeypatch.setattr(engine, "submit", noted)
    runner = Runner(engine, "test")
    runner.call(hold.wait)
    for number in range(6):
        runner.read_aside(Request([number + 1] * 100, max_new_tokens=0))
    hold.set()
    while runner.call(lambda: runner.running).result(60):
        pass
    runner.close()
    assert order == [0, 1, 2, 0, 1, 2]


def test_what_is_read_for_the_store_of_a_key_ends_with_the_keys_states(
    engine: Engine,
) -> None:
    events: list[Event] = []
    engine.submit(Request([1, 2, 3], max_new_tokens=0, scope="owner/persona"))
    engine.submit(Request([1, 2, 3], max_new_tokens=0, scope="owner"))
    engine.submit(Request([1, 2, 3], max_new_tokens=0, scope="owners"))
    engine.submit(Request([1, 2, 3], max_new_tokens=2, scope="owner"), events.append)
    engine.forget("owner")
    assert engine.running == 2  # another's, and one that somebody waits for
    while engine.step():
        pass
    assert events[-1].ended == "length"
