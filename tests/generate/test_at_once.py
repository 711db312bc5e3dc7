"""A text that begins at once, with torch, while the kernel that nobody has compiled yet is compiled."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sioconv.cli import main as cli
from sioconv.generate import Engine, Event, Request, SamplingConfig, StateStore, decoder, terminal
from sioconv.generate.decoder import TorchDecoder
from sioconv.generate.native import NativeDecoder
from sioconv.model.in_package import packaged_model
from sioconv.ops.operators import Operator
from tests.generate.test_engine import VOCABULARY, build

GREEDY = SamplingConfig(temperature=0.0)
REQUEST = Request([i * 31 % VOCABULARY for i in range(300)], sampling=GREEDY, max_new_tokens=20)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As right after the installation."""
    monkeypatch.setattr(NativeDecoder, "is_kept", lambda _: False)
    monkeypatch.setattr(decoder, "_said", set())


def tokens(events: list[Event]) -> list[int | None]:
    return [event.token for event in events if event.snapshot is None]


@pytest.mark.parametrize("options", [{}, {"trapezoid": True}, {"bigram_rows": 3, "bigram_width": 32}])
@pytest.mark.usefixtures("uncompiled")
def test_torch_begins_and_the_kernel_goes_on(options: dict[str, Any]) -> None:
    model = build(**options)
    right = tokens(list(Engine(model).stream(REQUEST)))
    engine = Engine(model, at_once=True)
    assert tokens(list(engine.stream(REQUEST))) == right and isinstance(engine._decoder, TorchDecoder)
    engine.finish()
    assert tokens(list(engine.stream(REQUEST))) == right and isinstance(engine._decoder, NativeDecoder)
    assert engine._compilation is None


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
@pytest.mark.usefixtures("uncompiled")
def test_a_text_may_be_written_by_both(steps: int) -> None:
    model = build(trapezoid=True)
    right = tokens(list(Engine(model).stream(REQUEST)))
    engine, events = Engine(model, at_once=True), list[Event]()
    engine.submit(REQUEST, events.append)
    for _ in range(steps):
        engine.step()
    assert isinstance(engine._decoder, TorchDecoder)
    engine.finish()
    while engine.step():
        pass
    assert tokens(events) == right and isinstance(engine._decoder, NativeDecoder)


@pytest.mark.usefixtures("uncompiled")
def test_it_compiles_when_the_first_text_is_written_and_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, logger="sioconv"):
        engine = Engine(build(), at_once=True)
        engine.submit(REQUEST, lambda _: None)
        compilation = engine._compilation
        assert compilation is not None and compilation._thread.ident is None
        while engine.running:
            engine.step()
        assert compilation._thread.ident is not None
        engine.finish()
        monkeypatch.setattr(NativeDecoder, "is_kept", lambda _: True)
        list(engine.stream(REQUEST))
    said = [record.message for record in caplog.records if record.message.startswith("decoding")]
    assert said == [
        "decoding: torch, until the kernel is compiled: once, half a minute", "decoding: the compiled kernel"
    ]  # fmt: skip


@pytest.mark.usefixtures("uncompiled")
def test_who_waits_for_the_kernel_is_told_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="sioconv"):
        list(Engine(build()).stream(REQUEST))
    said = [record.message for record in caplog.records if record.message.startswith("decoding")]
    assert said == ["decoding: the compiled kernel", "decoding: the kernel is compiled first: once, half a minute"]


@pytest.mark.usefixtures("uncompiled")
def test_a_kernel_that_cannot_be_compiled_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(NativeDecoder, "read", fail)
    engine = Engine(build(), at_once=True)
    list(engine.stream(REQUEST))
    engine.finish()
    with pytest.raises(RuntimeError, match="no compiler"):
        list(engine.stream(REQUEST))


@pytest.mark.usefixtures("uncompiled")
def test_nothing_is_compiled_for_the_first_text(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Callable[..., Any]] = []
    call = Operator.__call__
    monkeypatch.setattr(NativeDecoder, "read", lambda *_: None)

    def watched(operator: Operator, *arguments: Any) -> Any:
        guarded = Operator(lambda *_: used.append(operator.definition), operator.plain, operator.compiled)
        return call(guarded, *arguments)

    monkeypatch.setattr(Operator, "__call__", watched)
    with torch.inference_mode():
        engine = Engine(build(), at_once=True)
        assert len(tokens(list(engine.stream(REQUEST)))) == 20
    assert used == []
    engine.finish()


@pytest.mark.parametrize(
    ("sampling", "options", "at_once"),
    [
        (SamplingConfig(), {}, True),
        (SamplingConfig(seed=1), {}, False),
        (GREEDY, {}, False),
        (SamplingConfig(), {"at_once": False}, False),
        (SamplingConfig(), {"store": StateStore()}, False),
    ],
)
def test_replies_that_can_be_asked_for_again_wait_for_the_kernel(
    tiny_model: Any, sampling: SamplingConfig, options: dict[str, Any], at_once: bool
) -> None:
    assert terminal.begin(*tiny_model, sampling, **options)._engine._at_once is at_once


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
def test_the_packages_model_talks_before_its_kernel_is_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def finish(conversation: Any) -> None:
        said.append(capsys.readouterr().out)
        engine.append(conversation._engine)

    engine: list[Engine] = []
    monkeypatch.setattr("sioconv.generate.conversation.Conversation.finish", finish)
    monkeypatch.setattr(decoder.Compilation, "begin", lambda _: None)  # done at once where another test has compiled it
    with pytest.raises(SystemExit):
        cli.main(["chat", str(packaged_model()), "-p", "こんにちは", "--max-new-tokens", "8"])
    assert said[0].strip() and isinstance(engine[0]._decoder, TorchDecoder)
