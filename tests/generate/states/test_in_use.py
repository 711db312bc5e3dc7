"""States that are kept, forked, gone back to, stored, evicted and found again give what reading all anew gives."""

import gc
import random
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sioconv.generate import Engine, Event, Request, SamplingConfig, SqliteFile, State, StateStore
from sioconv.generate.states.file import StateFormat, pack_state, unpack_state
from sioconv.model import SioConvConfig, SioConvForCausalLM

VOCABULARY, END = 97, 96


@pytest.fixture(scope="module")
def model() -> SioConvForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "intermediate_size": 48}
    model = SioConvForCausalLM(SioConvConfig(vocab_size=VOCABULARY, y_gain=1.0, **sizes)).eval()
    with torch.no_grad():
        model.lm_head.weight *= 4
    return model


class Use:
    """An engine with a small store under random requests, each compared with the same request alone, read anew."""

    def __init__(self, model: SioConvForCausalLM, seed: int, path: Path) -> None:
        self.model, self.path, self.chance = model, path, random.Random(seed)
        self.stems = [self.ids(600) for _ in range(5)]
        self.texts: list[tuple[list[int], State]] = [([], State())]  # what was read, and what it has become
        self.running: dict[int, tuple[list[int], Request, list[Event]]] = {}
        self.done: Counter[str] = Counter()
        self.format = StateFormat(model)
        self.start()

    def ids(self, length: int) -> list[int]:
        return [END if self.chance.random() < 0.02 else self.chance.randrange(END) for _ in range(length)]

    def start(self) -> None:
        """A process begins: what was in memory is gone, what is in the file is there."""
        backing = (
            SqliteFile(self.path, budget=self.chance.choice([10**5, 10**7])) if self.chance.random() < 0.8 else None
        )
        self.store = StateStore(self.chance.choice([0, 30_000, 10**7]), backing)
        self.engine = Engine(self.model, self.chance.choice([20, 300, 1000]), 15, self.store)

    def arrive(self) -> None:
        chance = self.chance
        before, state = chance.choice(self.texts) if chance.random() < 0.5 else ([], State())
        stem = [] if before else chance.choice(self.stems)[: chance.randint(0, 600)]
        sampling = SamplingConfig(
            temperature=chance.choice([0.0, 0.8, 1.3]),
            top_p=chance.choice([1.0, 0.9]),
            repetition_penalty=chance.choice([1.0, 1.3]),
        )
        request = Request(
            [*stem, *self.ids(chance.randint(1, 30))],
            state,
            sampling,
            max_new_tokens=chance.choice([0, 1, 8, 8, 40]),
            seed=chance.randrange(2**63),
            n=chance.choice([1, 1, 1, 2]),
            ending={END},
            logprobs=1,
            boundaries=(END,),
            snapshots=True,
        )
        events: list[Event] = []
        self.running[self.engine.submit(request, events.append)] = before, request, events
        self.done["from a state" if before else "from nothing"] += 1

    def check(self, number: int, whole: bool) -> None:
        """Compares what a request has given so far with what it gives alone, without a store or a state."""
        before, request, events = self.running.pop(number)
        text = [*before, *request.ids]
        alone = list(Engine(self.model).stream(replace(request, ids=text, state=State())))
        for branch in range(request.n):
            got = [event for event in events if event.branch == branch and event.snapshot is None]
            wanted = [event for event in alone if event.branch == branch and event.snapshot is None]
            assert len(got) == len(wanted) if whole else len(got) <= len(wanted)
            for one, other in zip(got, wanted, strict=False):
                assert (one.token, one.logprob, one.top, one.ended) == (
                    other.token, other.logprob, other.top, other.ended,
                )  # fmt: skip
                if one.place is not None and other.place is not None:
                    assert one.place.unread == other.place.unread
                    self.equal(one.place.state, other.place.state)
            written = [*text, *(event.token for event in wanted if event.token is not None)]
            for event in events:
                state = event.snapshot or (event.place.state if event.place is not None else None)
                if event.branch == branch and state is not None and self.chance.random() < 0.3:
                    self.keep(written[: state.tokens], state)
        self.done["whole" if whole else "cut off"] += 1
        reading = next((event.reading for event in events if event.reading is not None), None)
        if reading is not None:
            assert reading.reused + reading.read == len(text)
            self.done["helped by the store"] += reading.reused > len(before)

    def keep(self, text: list[int], state: State) -> None:
        if len(self.texts) > 40:
            self.texts.pop(self.chance.randrange(1, len(self.texts)))
        if state.tokens and self.chance.random() < 0.3:
            state = unpack_state(self.format, pack_state(self.format, state), "what was saved")
            self.done["saved and loaded"] += 1
        self.texts.append((text, state))

    def equal(self, one: State, other: State) -> None:
        assert one.tokens == other.tokens and one.prefix == other.prefix
        assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())

    def go(self, requests: int) -> None:
        arrived = 0
        while arrived < requests or self.running:
            if arrived < requests and self.chance.random() < 0.5:
                self.arrive()
                arrived += 1
            self.engine.step()
            for number, (_, request, events) in list(self.running.items()):
                branches = request.n if request.max_new_tokens else 1
                if sum(event.ended is not None for event in events) == branches:
                    self.check(number, True)
            if self.running and self.chance.random() < 0.01:
                number = self.chance.choice(list(self.running))
                self.engine.cancel(number)
                self.check(number, False)
            if self.chance.random() < 0.005:
                for number in list(self.running):
                    self.check(number, False)
                self.start()
                self.done["restarts"] += 1


@given(st.integers(0, 2**32))
@settings(max_examples=3, phases=[Phase.generate])
def test_states_in_any_use_give_what_reading_anew_gives(
    model: SioConvForCausalLM, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    use = Use(model, seed, tmp_path_factory.mktemp("store") / "s.db")
    use.go(30)
    assert use.done["whole"] + use.done["cut off"] == 30


@pytest.mark.slow
def test_10_000_requests_on_states_in_any_use_give_what_reading_anew_gives(
    model: SioConvForCausalLM, tmp_path: Path
) -> None:
    done: Counter[str] = Counter()
    for part in range(10):
        use = Use(model, part, tmp_path / "s.db")
        use.go(1000)
        done += use.done
    print(dict(done))
    assert done["whole"] + done["cut off"] == 10_000
    assert min(done["from a state"], done["helped by the store"], done["restarts"] * 50) > 1000


@pytest.mark.slow
def test_memory_comes_back_after_10_000_requests_with_a_store(model: SioConvForCausalLM, tmp_path: Path) -> None:
    chance, store = random.Random(1), StateStore(50_000, SqliteFile(tmp_path / "s.db", budget=10**6))
    engine = Engine(model, store=store)

    def rounds(count: int) -> int:
        for _ in range(count):
            ids = [chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 300))]
            engine.submit(Request(ids, max_new_tokens=3, seed=1, boundaries=(END,), snapshots=True), lambda _: None)
            engine.step()
        while engine.step():
            pass
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    before = rounds(1000)
    after = rounds(9000)
    tracemalloc.stop()
    assert engine.running == 0 and store.bytes <= 50_000 and (tmp_path / "s.db").stat().st_size < 2 * 10**6
    assert after - before < 9000 * 20  # bytes a request; the state of one alone takes 1,024
