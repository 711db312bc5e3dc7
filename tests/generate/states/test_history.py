import random
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from sioconv.errors import UserError
from sioconv.generate import Engine, SamplingConfig, Session, StateStore
from sioconv.generate.states.history import History
from sioconv.generate.states.state import State
from sioconv.model import SioConvForCausalLM

TinyModel = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]
SETTINGS = SamplingConfig(max_new_tokens=15, repetition_penalty=1.4, temperature=0.9)


@pytest.fixture(scope="module")
def plain(tiny_model: TinyModel, make_model: object) -> TinyModel:
    """A model that the compiled kernel runs, whose results don't depend on how a text is cut."""
    return make_model(tiny_model[1]), tiny_model[1]  # type: ignore[operator]


class Script:
    """What was done to a session, so that it can be done again up to any token."""

    def __init__(self, pair: TinyModel, seed: int, store: StateStore | None = None, history: int = 2**26) -> None:
        self.pair, self.chance, self.store = pair, random.Random(seed), store
        self.session = self.new(history)
        self.deeds: list[tuple[int, str, list[int]]] = []  # tokens seen after each, what it was, and ids

    def new(self, history: int = 2**26) -> Session:
        return Session(*self.pair, 7, Engine(self.pair[0], store=self.store), history)

    def feed(self, length: int) -> None:
        ids = [self.chance.randrange(10, 384) for _ in range(length)]
        self.session.feed(ids)
        self.deeds.append((self.session.tokens_seen, "feed", ids))

    def write(self, pieces: int) -> None:
        before = self.session.tokens_seen
        for _ in zip(range(pieces), self.session.stream(SETTINGS), strict=False):
            pass
        ids = self.session._history.ids(before, self.session.tokens_seen)
        self.deeds.append((self.session.tokens_seen, "write", ids))

    def end(self) -> None:
        self.session.end_turn()
        self.deeds.append((self.session.tokens_seen, "end", []))

    def at_random(self) -> None:
        self.feed(self.chance.choice([1, 3, 40, 255, 256, 300]))
        if self.chance.random() < 0.7:
            self.write(self.chance.choice([1, 4, 100]))
            if self.chance.random() < 0.8:
                self.end()

    def until(self, tokens: int) -> Session:
        """A session that never was further than so many tokens."""
        session, before = self.new(), 0
        for after, what, ids in self.deeds:
            if before >= tokens:
                break
            if what == "end":
                if after <= tokens:
                    session.end_turn()
                else:
                    break
            elif what == "feed":
                session.feed(ids[: tokens - before])
            else:
                for _ in range(min(len(ids), tokens - before)):
                    list(session.stream(SamplingConfig(**{**vars(SETTINGS), "max_new_tokens": 1})))
            before = after
        return session


def same(one: Session, other: Session) -> None:
    assert one.tokens_seen == other.tokens_seen and one.turns == other.turns
    assert one._turn_ids == other._turn_ids and one._place.unread[-1:] == other._place.unread[-1:]
    texts = []
    for session in (one.fork(), other.fork()):
        if session._place.unread:
            texts.append("".join(session.stream(SETTINGS)))
        session.feed([300, 301])
        texts.append(session.state)
    assert texts[: len(texts) // 2 - 1] == texts[len(texts) // 2 : -1]
    first, second = texts[len(texts) // 2 - 1], texts[-1]
    assert first.tokens == second.tokens and first.prefix == second.prefix
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name


def going_back(plain: TinyModel, seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    script = Script(plain, seed, chance.choice([None, StateStore()]))
    for _ in range(rounds):
        script.at_random()
    whole = script.session
    ends = [0, *(after for after, what, _ in script.deeds if what == "end")]
    for _ in range(rounds):
        session = whole.fork()
        if chance.random() < 0.3:
            back = chance.randrange(len(ends))
            session.rewind(turns=back)
            target = ends[-1 - back]
        else:
            target = chance.randrange(whole.tokens_seen + 1)
            session.rewind(tokens=whole.tokens_seen - target)
        assert session.tokens_seen == target
        same(session, script.until(target))
    for after, what, ids in script.deeds:  # the one that was forked is as it was
        if what != "end":
            assert whole._history.ids(after - len(ids), after) == ids


@given(st.integers(0, 2**32))
@settings(max_examples=4, phases=[Phase.generate])
def test_going_back_anywhere_is_never_having_gone_on(plain: TinyModel, seed: int) -> None:
    going_back(plain, seed, 5)


@pytest.mark.slow
def test_going_back_200_times_is_never_having_gone_on(plain: TinyModel) -> None:
    for seed in range(10):
        going_back(plain, 1000 + seed, 20)


def test_going_back_reads_at_most_255_tokens_again(plain: TinyModel) -> None:
    script = Script(plain, 1)
    for length in (700, 10, 600):
        script.feed(length)
        script.write(100)
        script.end()
    whole = script.session
    read: list[int] = []
    engine = whole._engine
    usual = engine.stream
    engine.stream = lambda request: read.append(len(request.ids)) or usual(request)  # type: ignore[method-assign]
    for target in range(1, whole.tokens_seen, 13):
        whole.fork().rewind(tokens=whole.tokens_seen - target)
    assert 0 < max(read) <= 255
    read.clear()
    whole.fork().rewind(turns=1)
    whole.fork().rewind(turns=2)
    assert max(read, default=0) <= 1


def test_a_reply_can_be_taken_back_inside_a_character(plain: TinyModel) -> None:
    for seed in range(40):
        session = Session(*plain, seed)
        session.feed([1, 300, 301])
        text = "".join(session.stream(SamplingConfig(max_new_tokens=12)))
        session.rewind(tokens=6)
        half = session._text.pending
        rest = "".join(session.stream(SamplingConfig(max_new_tokens=6)))
        assert text.endswith(rest)
        if half:
            return
    raise AssertionError("no reply had half a character in its middle")


def test_what_was_forgotten_can_t_be_gone_back_to(plain: TinyModel) -> None:
    script = Script(plain, 3, history=20_000)
    for _ in range(4):
        script.feed(900)
        script.write(10)
        script.end()
    session = script.session
    assert session.snapshots[1] <= 20_000
    before = session.tokens_seen
    for values in ({"tokens": before}, {"turns": 4}, {"turns": 9}, {"tokens": before + 1}):
        with pytest.raises(UserError, match="can't take back"):
            session.rewind(**values)
        assert session.tokens_seen == before
    session.rewind(tokens=700)
    same(session, script.until(before - 700))


@given(st.lists(st.integers(1, 600), min_size=1, max_size=12), st.integers(3_000, 40_000), st.data())
def test_turn_ids_are_right_also_where_the_turns_beginning_was_forgotten(
    lengths: list[int], budget: int, data: st.DataObject
) -> None:
    history, ids, starts = History(State(), (), budget), [], [0]
    for number, length in enumerate(lengths):
        new = [number * 1000 + i % 700 for i in range(length)]
        history.feed(new)
        for at in range(len(ids), len(ids) + length):
            if (at + 1) % 256 == 0 or at + 1 == len(ids) + length:
                history.add(State({}, at + 1))
        ids += new
        if data.draw(st.booleans()):
            history.end_turn()
            starts.append(len(ids))
    assert history.bytes <= max(budget, 1_600)
    target = data.draw(st.integers(history.start, len(ids)))
    start = max(start for start in starts if start <= target)
    assert history.turn_ids(target) == set(ids[start:target])
    history.cut(target)
    state = history.before(target)
    assert history.ids(state.tokens, target) == ids[state.tokens : target]
    assert history.turns == sum(0 < start <= target for start in starts)


@pytest.mark.parametrize("values", [{}, {"turns": 1, "tokens": 1}, {"turns": -1}, {"tokens": -3}])
def test_what_to_take_back_must_be_clear(plain: TinyModel, values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="rewind takes"):
        Session(*plain).rewind(**values)


def test_a_loaded_session_goes_back_to_where_it_was_saved_and_no_further(plain: TinyModel, tmp_path: Path) -> None:
    script = Script(plain, 5)
    script.feed(300)
    script.write(9)
    script.end()
    script.session.save(tmp_path / "s")
    session = Session.load(tmp_path / "s", *plain)
    session.feed([300, 301])
    "".join(session.stream(SETTINGS))
    session.end_turn()
    assert session.turns == 2
    with pytest.raises(UserError, match="this session remembers its text from token"):
        session.rewind(turns=2)
    session.rewind(turns=1)
    assert session.turns == 1
    same(session, Session.load(tmp_path / "s", *plain))


def test_what_a_reply_had_to_read_is_told(plain: TinyModel) -> None:
    store = StateStore()
    first = Session(*plain, engine=Engine(plain[0], store=store))
    first.feed([1, *[300] * 600])
    "".join(first.stream(SETTINGS))
    assert (first.reading.reused, first.reading.read) == (0, 601) and first.reading.why is not None
    seen = first.tokens_seen
    first.feed([301, 302])
    "".join(first.stream(SETTINGS))
    assert (first.reading.reused, first.reading.read) == (seen - 1, 3)
    second = Session(*plain, engine=Engine(plain[0], store=store))
    second.feed([1, *[300] * 600])
    "".join(second.stream(SETTINGS))
    assert (second.reading.reused, second.reading.read, second.reading.why) == (512, 89, None)
