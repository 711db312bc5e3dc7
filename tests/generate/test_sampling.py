import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from sioconv.errors import UserError
from sioconv.generate.config import LARGEST_SEED, SamplingConfig
from sioconv.generate.sampling import Sampler, _likeliest, random_seed, uniform

finite = st.floats(-20, 20, width=32)
vectors = st.lists(finite, min_size=2, max_size=40).map(lambda values: torch.tensor(values, dtype=torch.float32))
seeds = st.integers(0, LARGEST_SEED)


def config(**values: float) -> SamplingConfig:
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    return SamplingConfig(**(plain | values))  # type: ignore[arg-type]


def drawn(settings: SamplingConfig, logits: Tensor, seed: int, times: int = 20) -> set[int]:
    sampler = Sampler(settings, seed)
    return {sampler.choose(logits) for _ in range(times)}


@given(vectors, seeds, st.integers(0, 50), st.floats(0.01, 1), st.floats(0, 1))
def test_greedy_takes_the_likeliest_whatever_the_filters(
    logits: Tensor, seed: int, top_k: int, top_p: float, min_p: float
) -> None:
    settings = config(temperature=0, top_k=top_k, top_p=top_p, min_p=min_p)
    assert drawn(settings, logits, seed, 3) == {int(logits.argmax())}


@given(vectors, seeds, st.integers(1, 50))
def test_top_k_keeps_the_k_likeliest(logits: Tensor, seed: int, k: int) -> None:
    lowest = logits.sort(descending=True).values[min(k, len(logits)) - 1]
    assert all(logits[token] >= lowest for token in drawn(config(top_k=k), logits, seed))


@given(vectors, seeds, st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_with_that_mass(logits: Tensor, seed: int, p: float) -> None:
    probabilities = logits.double().softmax(0)
    for token in drawn(config(top_p=p), logits, seed):
        # Those strictly likelier don't reach p without it.
        assert float(probabilities[logits > logits[token]].sum()) < p + 1e-5


@given(
    scores=st.one_of(
        st.lists(st.integers(-30, 5), min_size=1, max_size=60),
        st.lists(st.one_of(st.floats(-50, 50), st.just(-math.inf)), min_size=1, max_size=60),
    ).filter(lambda scores: max(scores) > -math.inf),
    p=st.one_of(st.floats(0.001, 0.999), st.sampled_from([0.5, 0.95, 1 - 1e-16])),
)
def test_top_p_is_what_sorting_everything_gives(scores: list[float], p: float) -> None:
    values = np.array(scores, np.float64)
    order = np.argsort(-values, kind="stable")
    weights = np.exp(values - values.max())
    cut = int(np.searchsorted(np.cumsum((weights / weights.sum())[order]), p)) + 1
    assert _likeliest(values, p).tolist() == order[:cut].tolist()


def test_top_p_keeps_the_whole_set() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert drawn(config(top_p=0.7), logits, 0, 200) == {0, 1}
    assert drawn(config(top_p=0.9), logits, 0, 200) == {0, 1, 2}


@given(vectors, seeds, st.floats(0.001, 1))
def test_min_p_is_a_share_of_the_likeliest(logits: Tensor, seed: int, min_p: float) -> None:
    probabilities = logits.double().softmax(0)
    for token in drawn(config(min_p=min_p), logits, seed):
        assert float(probabilities[token]) >= min_p * float(probabilities.max()) * (1 - 1e-5)


@given(vectors, seeds, st.floats(0.001, 100), st.integers(0, 50), st.floats(0.01, 1), st.floats(0, 1))
def test_the_same_seed_draws_the_same_and_leaves_others_random_numbers_alone(
    logits: Tensor, seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    settings = config(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    before = torch.random.get_rng_state()
    first, second = Sampler(settings, seed), Sampler(settings, seed)
    assert [first.choose(logits) for _ in range(5)] == [second.choose(logits) for _ in range(5)]
    assert torch.equal(torch.random.get_rng_state(), before)


@given(vectors, seeds, st.data())
def test_a_token_without_probability_is_never_chosen(logits: Tensor, seed: int, data: st.DataObject) -> None:
    ids = list(range(len(logits)))
    impossible = data.draw(st.sets(st.sampled_from(ids), max_size=len(ids) - 1))
    banned = data.draw(st.sets(st.sampled_from(ids)))
    assume(impossible | banned != set(ids))
    logits = logits.clone()
    logits[list(impossible)] = -math.inf
    given_logits = logits.clone()
    sampler = Sampler(config(), seed, torch.tensor(sorted(banned), dtype=torch.int64))
    assert not {sampler.choose(logits) for _ in range(20)} & (impossible | banned)
    assert torch.equal(logits, given_logits)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(1)) * 2
    sampler = Sampler(config(temperature=temperature), seed=7)
    times = 20_000
    counts = torch.bincount(torch.tensor([sampler.choose(logits) for _ in range(times)]), minlength=50).double()
    expected = (logits.double() / temperature).softmax(0) * times
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]])
    chi_square = float(((observed - wanted) ** 2 / wanted.clamp(min=1)).sum())
    freedom = len(observed) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)  # four standard deviations above its mean


def test_the_repetition_penalty_follows_its_history() -> None:
    logits = torch.tensor([3.0, 2.5, -1.0, -1.5])
    history: set[int] = set()
    sampler = Sampler(config(temperature=0, repetition_penalty=2), 0, history=history)
    assert sampler.choose(logits) == 0
    history.add(0)  # 3 / 2
    assert sampler.choose(logits) == 1
    history.add(1)  # 2.5 / 2
    assert sampler.choose(logits) == 0
    negative = Sampler(config(temperature=0, repetition_penalty=2), 0, torch.tensor([0, 1]), {2})
    assert negative.choose(logits) == 3  # -1 * 2 < -1.5


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_output_that_is_not_a_number_is_an_error(broken: float, temperature: float) -> None:
    with pytest.raises(UserError, match="weights are broken"):
        Sampler(config(temperature=temperature), 0).choose(torch.tensor([0.0, broken, 1.0]))


@given(seeds, st.integers(0, 10**12), st.integers(0, 100))
def test_a_random_number_depends_on_seed_place_and_branch(seed: int, position: int, branch: int) -> None:
    number = uniform(seed, position, branch)
    assert 0 <= number < 1 and number == uniform(seed, position, branch)
    others = {
        uniform(seed ^ 1, position, branch),
        uniform(seed, position + 1, branch),
        uniform(seed, position, branch + 1),
    }
    assert len(others | {number}) == 4


def test_random_numbers_are_uniform_and_don_t_go_together() -> None:
    numbers = torch.tensor([uniform(5, i) for i in range(20_000)], dtype=torch.float64)
    assert abs(float(numbers.mean()) - 0.5) < 4 * (1 / 12 / 20_000) ** 0.5
    centred = numbers - 0.5
    assert abs(float((centred[1:] * centred[:-1]).mean()) * 12) < 4 / 20_000**0.5


def test_random_seeds_differ_and_are_valid() -> None:
    assert len({random_seed() for _ in range(8)}) > 1
    SamplingConfig(seed=random_seed())
