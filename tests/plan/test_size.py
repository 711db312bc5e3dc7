"""The one dial: what follows from a number of parameters."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.model import SioConvConfig, SioConvForCausalLM
from sioconv.model.architecture import Architecture, parameter_sizes
from sioconv.plan.size import derive, parse_size
from sioconv.train.config import TrainConfig


def test_reads_sizes() -> None:
    assert [parse_size(text) for text in ("25m", "1.6B", "7000k", " 5M ")] == [
        25 * 10**6,
        16 * 10**8,
        7 * 10**6,
        5 * 10**6,
    ]


@pytest.mark.parametrize("text", ["", "25", "m", "-5m", "25mb", "1e6m", "999k", "1001b", "nanm", "２５m!"])
def test_refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"^size: ") as refused:
        parse_size(text)
    assert "\n" not in str(refused.value)


def test_a_vocabulary_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        derive(10**6, 100_000, 256)


def test_a_model_of_25m() -> None:
    values = derive(25 * 10**6, 8192, 256)
    assert values["model"] == {"hidden_size": 448, "num_hidden_layers": 9, "num_heads": 7, "intermediate_size": 896}
    assert values["train"] == {"lr": 2.4e-3, "batch_size": 512, "accumulation": 8, "tokens": 500_000_000}
    model = SioConvForCausalLM(SioConvConfig(vocab_size=8192, **values["model"]))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(25e6, rel=0.03)


@given(
    size=st.integers(5 * 10**6, 10**11),
    vocabulary=st.integers(256, 8192),
    sequence_length=st.sampled_from([64, 256, 1000, 4096]),
)
def test_it_can_be_trained_and_has_about_the_size(size: int, vocabulary: int, sequence_length: int) -> None:
    values = derive(size, vocabulary, sequence_length)
    shape, train = values["model"], values["train"]
    TrainConfig(sequence_length=sequence_length, **train).check()
    assert shape["hidden_size"] == 64 * shape["num_heads"]
    assert parameter_sizes(Architecture(**shape), vocabulary).all == pytest.approx(size, rel=0.2)
    assert train["tokens"] == 20 * size
    pieces = train["batch_size"] // train["accumulation"]
    assert pieces == 1 or pieces * sequence_length <= 16_384


def test_larger_models_are_wider_deeper_and_slower() -> None:
    shapes = [derive(size, 8192, 1024) for size in (10**7, 10**8, 10**9, 10**10)]
    for smaller, larger in pairwise(shapes):
        for key in ("hidden_size", "num_hidden_layers"):
            assert smaller["model"][key] < larger["model"][key]
        assert smaller["train"]["lr"] > larger["train"]["lr"]
        assert smaller["train"]["batch_size"] < larger["train"]["batch_size"]


def test_a_shorter_run_takes_smaller_batches() -> None:
    whole, tenth = (derive(25 * 10**6, 8192, 256, tokens) for tokens in (500_000_000, 50_000_000))
    assert whole == derive(25 * 10**6, 8192, 256)
    assert tenth["train"]["batch_size"] < whole["train"]["batch_size"]
    assert tenth["train"]["lr"] > whole["train"]["lr"]
    assert tenth["model"] == whole["model"]
