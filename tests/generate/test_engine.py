import gc
import random
import tracemalloc
from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sioconv.errors import UserError
from sioconv.generate import Engine, Event, Request, SamplingConfig
from sioconv.generate.decoder import pick_decoder
from sioconv.generate.states.store import StateStore
from sioconv.model import SioConvConfig, SioConvForCausalLM

VOCABULARY = 97


def build(**options: object) -> SioConvForCausalLM:
    """A random model whose output depends on what it reads, as `make_model` makes it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "intermediate_size": 48}
    config = SioConvConfig(**{"vocab_size": VOCABULARY, "y_gain": 1.0, **sizes, **options})
    model = SioConvForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight *= 4
        for value in model.parameters():
            if value.dim() == 1:
                value += 0.1 * torch.randn_like(value)
        if model.model.bigrams is not None:  # a new model is as one without them
            model.model.bigrams.out.weight.normal_()
    return model


@pytest.fixture(scope="module", params=[{}, {"bigram_rows": 3}], ids=["plain", "bigrams"])
def model(request: pytest.FixtureRequest) -> SioConvForCausalLM:
    return build(**request.param)


def random_request(chance: random.Random, longest: int = 40) -> Request:
    sampling = SamplingConfig(
        temperature=chance.choice([0.0, 0.7, 1.3]),
        top_k=chance.choice([0, 0, 5]),
        top_p=chance.choice([1.0, 0.9]),
        min_p=chance.choice([0.0, 0.05]),
        typical_p=chance.choice([1.0, 1.0, 0.8]),
        repetition_penalty=chance.choice([1.0, 1.3]),
        presence_penalty=chance.choice([0.0, 0.5]),
        logit_bias=chance.choice([{}, {3: 2.0}]),
    )
    return Request(
        ids=[chance.randrange(VOCABULARY) for _ in range(chance.randint(1, longest))],
        sampling=sampling,
        max_new_tokens=chance.randint(0, 12),
        seed=chance.randrange(2**63),
        n=chance.choice([1, 1, 1, 3]),
        ending={chance.randrange(VOCABULARY)},
        logprobs=chance.choice([None, None, 2]),
        priority=chance.choice([0, 0, 1]),
    )


def alone(model: SioConvForCausalLM, request: Request) -> list[Event]:
    return sorted(Engine(model).stream(request), key=lambda event: event.branch)


def same(events: list[Event], others: list[Event]) -> None:
    """The same tokens, chances, ends and states, bit for bit, but for the requests' numbers."""
    assert len(events) == len(others)
    for one, other in zip(events, others, strict=True):
        assert (one.branch, one.token, one.ended, one.logprob, one.top) == (
            other.branch, other.token, other.ended, other.logprob, other.top,
        )  # fmt: skip
        if one.place is not None:
            assert other.place is not None and one.place.unread == other.place.unread
            assert one.place.state.tokens == other.place.state.tokens
            for name, tensor in one.place.state.tensors.items():
                assert torch.equal(tensor, other.place.state.tensors[name]), name


def mixed(model: SioConvForCausalLM, requests: list[Request], seed: int, budget: int) -> None:
    """Requests arrive at random moments, some are cancelled, some are continued; each gets what it gets alone."""
    chance = random.Random(seed)
    engine = Engine(model, token_budget=budget, max_texts=max(3, budget // 3))
    waiting, running, cancelled = list(requests), {}, set()
    while waiting or engine.running:
        if waiting and chance.random() < 0.5:
            request, events = waiting.pop(), []
            running[engine.submit(request, events.append)] = (request, events)
        engine.step()
        if running and chance.random() < 0.02:
            number = chance.choice(list(running))
            engine.cancel(number)
            cancelled.add(number)
    assert len(running) == len(requests)
    for number, (request, events) in running.items():
        got, wanted = sorted(events, key=lambda event: event.branch), alone(model, request)
        if number in cancelled:
            for branch in range(request.n):
                part = [event for event in got if event.branch == branch]
                same(part, [event for event in wanted if event.branch == branch][: len(part)])
        else:
            same(got, wanted)


@given(st.integers(0, 2**32), st.sampled_from([4, 17, 64]))
@settings(max_examples=4, phases=[Phase.generate])  # an example is too long to be shrunk
def test_requests_get_what_they_get_alone(model: SioConvForCausalLM, seed: int, budget: int) -> None:
    chance = random.Random(seed)
    mixed(model, [random_request(chance) for _ in range(25)], seed, budget)


def test_bigrams_are_of_a_text_s_own_tokens() -> None:
    model = build(bigram_rows=5, bigram_width=16)
    with torch.no_grad():
        model.model.bigrams.out.weight.normal_(std=0.3)
    chance = random.Random(3)
    requests = [replace(random_request(chance), logprobs=None) for _ in range(8)]
    engine, events = Engine(model, token_budget=17, max_texts=5), []
    for request in requests:
        engine.submit(request, events.append)
    while engine.running:
        engine.step()
    for number, request in enumerate(requests):
        got = sorted((event for event in events if event.request == number), key=lambda event: event.branch)
        assert [event.token for event in got] == [event.token for event in alone(model, request)]


@pytest.mark.slow
def test_10_000_mixed_requests_get_what_they_get_alone(model: SioConvForCausalLM) -> None:
    chance = random.Random(1)
    for part in range(20):
        mixed(model, [random_request(chance) for _ in range(500)], part, chance.choice([8, 64, 300]))


@pytest.mark.parametrize("options", [{}, {"conv_width": 4}])
def test_a_reading_that_stops_anywhere_goes_on_as_one_that_never_stopped(options: dict[str, object]) -> None:
    model, ids = build(**options), [i * 7 % VOCABULARY for i in range(60)]
    whole = alone(model, Request(ids, max_new_tokens=8, seed=5))
    for cut in (1, 16, 59):
        (read,) = alone(model, Request(ids[:cut], max_new_tokens=0))
        assert read.place is not None and read.place.state.tokens == cut and not read.place.unread
        rest = alone(model, Request(ids[cut:], read.place.state, max_new_tokens=8, seed=5))
        if options:  # torch's products round by the number of their rows
            assert [event.token for event in rest] == [event.token for event in whole]
        else:
            same(rest, whole)


def test_a_continuation_is_interrupted_and_continued(model: SioConvForCausalLM) -> None:
    request = Request([1, 2, 3], max_new_tokens=12, seed=9)
    whole = alone(model, request)
    engine, events = Engine(model), []
    number = engine.submit(request, events.append)
    for _ in range(5):
        assert engine.step()
    place = engine.place(number)
    engine.cancel(number)
    assert not engine.step() and engine.running == 0
    rest = alone(model, Request(place.unread, place.state, max_new_tokens=7, seed=9))
    same(events + rest, whole)
    with pytest.raises(KeyError):
        engine.place(number)


def test_continuations_of_one_reading_differ_and_the_first_is_the_single_one(model: SioConvForCausalLM) -> None:
    one = alone(model, Request([4, 5], max_new_tokens=10, seed=2))
    three = alone(model, Request([4, 5], max_new_tokens=10, seed=2, n=3))
    texts = [tuple(e.token for e in three if e.branch == branch) for branch in range(3)]
    assert len(set(texts)) == 3
    same([e for e in three if e.branch == 0], one)


def test_reading_a_long_prompt_does_not_stop_those_who_write(model: SioConvForCausalLM) -> None:
    engine, short, long = Engine(model, token_budget=16, max_texts=4), [], []
    engine.submit(Request([1], max_new_tokens=20), short.append)
    engine.step()
    engine.submit(Request([2] * 300, max_new_tokens=1), long.append)
    for written in range(2, 20):
        engine.step()
        assert len(short) == written and not long


def test_a_short_prompt_does_not_wait_for_a_long_one(model: SioConvForCausalLM) -> None:
    engine, order = Engine(model, token_budget=16, max_texts=4), []
    engine.submit(Request([2] * 400, max_new_tokens=1), lambda _: order.append("long"))
    engine.submit(Request([3] * 20, max_new_tokens=1), lambda _: order.append("short"))
    while engine.step():
        pass
    assert order == ["short", "long"]


def test_more_texts_than_may_be_written_wait_and_all_end(model: SioConvForCausalLM) -> None:
    engine, ended = Engine(model, token_budget=8, max_texts=2), []
    for seed in range(9):
        engine.submit(Request([seed, 1], max_new_tokens=3, seed=seed, n=1 + seed % 2), ended.append)
    while engine.step():
        assert len(engine._writing) <= 2
    assert sum(event.ended is not None for event in ended) == 13 and engine.running == 0


def test_minimum_length_bias_and_bans_are_kept(model: SioConvForCausalLM) -> None:
    sampling = SamplingConfig(logit_bias={7: 100.0}, min_new_tokens=3, max_new_tokens=9)
    events = alone(model, Request([1], sampling=sampling, max_new_tokens=9, ending={7}))
    assert [event.token == 7 for event in events] == [False] * 3 + [True] and events[-1].ended == "ending"
    banned = torch.tensor([i for i in range(VOCABULARY) if i not in (5, 6)])
    events = alone(model, Request([1], max_new_tokens=30, banned=banned))
    assert {event.token for event in events} <= {5, 6}


def test_the_likeliest_tokens_are_told_with_their_chances(model: SioConvForCausalLM) -> None:
    first, *_ = alone(model, Request([1, 2], sampling=SamplingConfig(temperature=0), max_new_tokens=1, logprobs=3))
    with torch.no_grad():
        expected = model(torch.tensor([[1, 2]])).logits[0, -1].double().log_softmax(0)
    top = expected.topk(3)
    assert [i for i, _ in first.top] == top.indices.tolist() and first.token == top.indices[0]
    assert [p for _, p in first.top] == pytest.approx(top.values.tolist(), abs=1e-5)
    assert first.logprob == first.top[0][1]


def test_a_request_that_fails_leaves_the_others_alone(model: SioConvForCausalLM) -> None:
    engine, bad, good = Engine(model), [], []
    everything = torch.arange(VOCABULARY)
    engine.submit(Request([1], banned=everything, max_new_tokens=3), bad.append)
    engine.submit(Request([1], max_new_tokens=3), good.append)
    while engine.step():
        pass
    assert [event.ended for event in bad] == ["failed"] and isinstance(bad[0].error, UserError)
    same(good, alone(model, Request([1], max_new_tokens=3)))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"ids": []}, "ids"), ({"ids": [VOCABULARY]}, "ids"), ({"ids": [-1]}, "ids"), ({"n": 0}, "n is 0"),
     ({"n": 257}, "n is 257"), ({"max_new_tokens": -1}, "max_new_tokens")],
)  # fmt: skip
def test_requests_that_can_t_be_run_are_refused(
    model: SioConvForCausalLM, values: dict[str, object], message: str
) -> None:
    engine = Engine(model)
    with pytest.raises(ValueError, match=message):
        engine.submit(Request(**{"ids": [1], **values}), print)
    assert engine.running == 0


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_a_bias_on_a_token_that_is_not_there_is_refused(model: SioConvForCausalLM, token: int) -> None:
    with pytest.raises(UserError, match=f"logit_bias names token {token}"):
        Engine(model).submit(Request([1], sampling=SamplingConfig(logit_bias={token: 1.0})), print)


def test_a_stream_that_is_left_ends_its_request(model: SioConvForCausalLM) -> None:
    engine = Engine(model)
    for _ in engine.stream(Request([1], max_new_tokens=50)):
        break
    gc.collect()
    assert engine.running == 0


def test_memory_comes_back(model: SioConvForCausalLM) -> None:
    engine, chance = Engine(model, token_budget=32, max_texts=16), random.Random(3)

    def rounds(count: int) -> None:
        for _ in range(count):
            engine.submit(random_request(chance, 10), lambda _: None)
            engine.step()
        while engine.step():
            pass
        gc.collect()

    engine.submit(Request([1] * 100, max_new_tokens=1), lambda _: None)  # as much as a step can read
    rounds(100)
    tracemalloc.start()
    rounds(400)  # until what is kept for the next step has grown as large as it becomes
    before = tracemalloc.get_traced_memory()[0]
    rounds(400)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 400 * 100  # bytes a request; its state alone takes 1,024


@pytest.mark.parametrize("fixed", [False, True])
def test_weights_are_looked_at_again_unless_they_are_fixed(
    model: SioConvForCausalLM, monkeypatch: pytest.MonkeyPatch, fixed: bool
) -> None:
    made: list[object] = []

    def noted(model: object) -> object:
        made.append(model)
        return pick_decoder(model)

    monkeypatch.setattr("sioconv.generate.engine.pick_decoder", noted)
    engine = Engine(model, store=StateStore(), fixed=fixed)
    replies = [[event.token for event in engine.stream(Request([5, 6, 7], max_new_tokens=4))] for _ in range(3)]
    assert replies[0] == replies[1] == replies[2]
    assert len(made) == (1 if fixed else 3)
    engine.clear()  # also after a step that has failed
    assert [event.token for event in engine.stream(Request([5, 6, 7], max_new_tokens=4))] == replies[0]
    assert len(made) == (2 if fixed else 4)
