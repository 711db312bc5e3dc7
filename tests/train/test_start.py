"""A start from counts: what is counted, the best approximation of it, and that the model says the same."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from sioconv.data.shards.shard_set import ShardSet
from sioconv.model import SioConvForCausalLM
from sioconv.train import start
from sioconv.train.start import PRIOR, Factors, begin_with, count_pairs, count_start, factorise, spread
from tests.train.small import SIZES, VOCABULARY, make_baseline


@dataclass
class Tokens:
    """Stands for a `ShardSet`: tokens, and which of them are to be learned."""

    tokens: NDArray[np.uint16]
    learned: NDArray[np.uint8]

    @property
    def tokens_total(self) -> int:
        return len(self.tokens)

    def slice(self, begin: int, end: int) -> NDArray[np.uint16]:
        return self.tokens[begin:end]

    def mask_slice(self, begin: int, end: int) -> NDArray[np.uint8]:
        return self.learned[begin:end]


def shards(tokens: list[int], learned: list[int] | None = None) -> ShardSet:
    mask = np.array(learned or [1] * len(tokens), np.uint8)
    return cast(ShardSet, Tokens(np.array(tokens, np.uint16), mask))


def drawn(count: int = 20_000, vocabulary: int = VOCABULARY) -> ShardSet:
    """Text in which each token depends on the one before."""
    numbers = np.random.default_rng(0)
    likely = numbers.dirichlet(np.full(vocabulary, 0.1), vocabulary)
    tokens = [0]
    for _ in range(count):
        tokens.append(int(numbers.choice(vocabulary, p=likely[tokens[-1]])))
    return shards(tokens)


def smoothed(counts: Tensor) -> tuple[Tensor, Tensor]:
    """P(j | i) [V, V] and P(j) [V] in fp64, as the module's first lines have them."""
    dense = counts.to_dense().double()
    p = dense.sum(0) + 0.5
    p = p / p.sum()
    return (dense + PRIOR * p) / (dense.sum(1, keepdim=True) + PRIOR), p


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), max_size=30), min_size=1, max_size=3),
    st.integers(2, 7),
)
def test_pairs_are_counted_by_share_and_where_they_are_learned(
    sources: list[list[tuple[int, int]]], chunk: int
) -> None:
    sets = {str(n): shards([t for t, _ in rows], [m for _, m in rows]) for n, rows in enumerate(sources)}
    shares = {name: 1.0 + int(name) for name in sets}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "CHUNK", chunk)
        counts = count_pairs(sets, shares, 5).to_dense()
    used = {name: share for name, share in shares.items() if sets[name].tokens_total > 1}
    total = sum(sets[name].tokens_total for name in used)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for name, share in used.items():
        rows = sources[int(name)]
        for (before, _), (after, learned) in pairwise(rows):
            expected[before, after] += learned * share / sum(shares.values()) * total / len(rows)
    torch.testing.assert_close(counts, expected)


def test_a_long_source_is_read_up_to_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "MOST_TOKENS", 200)
    counts = count_pairs({"long": shards([0, 1] * 500), "short": shards([2, 3] * 25)}, {"long": 3, "short": 1}, 4)
    dense = counts.to_dense()
    assert dense[:2, :2].sum() / dense.sum() == pytest.approx(0.75, abs=0.01)
    assert dense.sum() == pytest.approx(200, abs=2)


def test_at_full_rank_the_factors_are_the_smoothed_bigrams() -> None:
    counts = count_pairs({"a": drawn()}, {"a": 1.0}, VOCABULARY)
    expected, p = smoothed(counts)
    factors = factorise(counts, VOCABULARY, seed=0)
    found = (factors.rows @ factors.columns.T + factors.always).double().softmax(1)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(factors.columns.double().T @ p, torch.zeros(VOCABULARY).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("rank", [1, 8, 20])
def test_at_a_lower_rank_they_are_the_best_approximation(rank: int) -> None:
    counts = count_pairs({"a": drawn()}, {"a": 1.0}, VOCABULARY)
    _, p = smoothed(counts)
    before = counts.to_dense().sum(1) + 1
    weights = ((before / before.sum())[:, None] * p).sqrt()
    wanted = torch.log1p(counts.to_dense() / (PRIOR * p))
    best = torch.linalg.svdvals(wanted * weights)[rank:].norm()
    factors = factorise(counts, rank, seed=0)
    found = (factors.rows @ factors.columns.T + factors.always).double() - p.log()
    # But for a summand of each row, which softmax doesn't see.
    error = found - wanted
    error = (error - (error * p).sum(1, keepdim=True)) * weights
    assert best > 0.01
    assert float(error.norm()) <= float(best) * 1.01


@pytest.mark.parametrize("tokens", [[], [3], [3, 3, 3]])
def test_a_text_of_almost_nothing_gives_finite_weights(tokens: list[int]) -> None:
    counts = count_pairs({"a": shards(tokens)}, {"a": 1.0}, VOCABULARY)
    made = spread(factorise(counts, 6, seed=0), 8, 0.02, True, seed=0)
    assert made.bias is not None
    assert all(tensor.isfinite().all() for tensor in made)


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_head_says_after_the_norm_what_the_factors_say(with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    rows, columns = (torch.randn(30, 10, generator=generator, dtype=torch.float32) for _ in range(2))
    factors = Factors(rows, columns, torch.randn(30, generator=generator))
    made = spread(factors, 16, 0.02, with_bias, seed=3)
    assert float(made.embedding.square().mean().sqrt()) == pytest.approx(0.02)
    normed = torch.nn.functional.rms_norm(made.embedding, (16,))
    logits = normed @ made.head.T + (0 if made.bias is None else made.bias)
    assert (made.bias is not None) == with_bias
    kept = rows.norm(dim=1) <= rows.norm(dim=1).quantile(start.SHARPEST)
    assert 25 <= int(kept.sum()) < 30  # the sharpest are shrunk
    torch.testing.assert_close(logits[kept], (rows @ columns.T + factors.always)[kept], rtol=1e-3, atol=1e-3)


def in_pieces(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(ids).logits
    return logits


@pytest.mark.parametrize("architecture", ["sioconv", "llama", "mingru"])
def test_a_model_begins_with_what_bigrams_say(architecture: str, make_model: Callable[..., SioConvForCausalLM]) -> None:
    text = drawn()
    options = {"zero_out_projections": True}
    model: Any = make_model(**options) if architecture == "sioconv" else make_baseline(architecture, **options)
    made = count_start(model, {"a": text}, {"a": 1.0}, seed=0)
    begin_with(model, made)
    ids = torch.from_numpy(text.slice(0, 4096).astype(np.int64)).view(8, 512)
    losses = torch.nn.functional.cross_entropy(in_pieces(model, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    expected, p = smoothed(count_pairs({"a": text}, {"a": 1.0}, VOCABULARY))
    of_bigrams = -expected[ids[:, :-1], ids[:, 1:]].log().mean()
    of_unigrams = -p[ids[:, 1:]].log().mean()
    assert of_unigrams - of_bigrams > 1
    assert float(losses) < float(of_bigrams + 0.2 * (of_unigrams - of_bigrams))


def test_the_same_seed_gives_the_same_start(make_model: Callable[..., SioConvForCausalLM]) -> None:
    text = drawn(2000)
    one, two, other = (count_start(make_model(), {"a": text}, {"a": 1.0}, seed) for seed in (0, 0, 1))
    assert torch.equal(one.embedding, two.embedding) and torch.equal(one.head, two.head)
    assert not torch.allclose(one.embedding, other.embedding)
    assert SIZES["hidden_size"] == one.embedding.shape[1]


def test_a_model_whose_blocks_drown_it_keeps_its_random_weights(capsys: pytest.CaptureFixture[str]) -> None:
    text, model, weights = drawn(), make_baseline("lstm"), make_baseline("lstm").state_dict()
    begin_with(model, count_start(model, {"a": text}, {"a": 1.0}, seed=0))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert "random weights are kept" in capsys.readouterr().err
