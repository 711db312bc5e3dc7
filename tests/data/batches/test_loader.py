"""Every token is seen once an epoch, sources keep to their shares, and targets stay inside documents."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.batches.loader import IGNORED, Batch, Mixture
from sioconv.data.shards.shard_set import ShardSet
from sioconv.errors import UserError

MakeShards = Callable[..., ShardSet]
Tasks = list[list[list[int]]]

lengths = st.lists(st.lists(st.integers(1, 12), max_size=6), min_size=1, max_size=3).filter(lambda tasks: any(tasks))
windows = st.integers(1, 10)


def numbered(tasks: list[list[int]]) -> Tasks:
    """Documents of the given lengths in which every token is another number."""
    numbers = iter(range(1, 10_000))
    return [[[next(numbers) for _ in range(length)] for length in task] for task in tasks]


def fields(batch: Batch) -> list[torch.Tensor]:
    return [batch.input_ids, batch.targets, batch.reset, batch.position_ids]


def epoch(mixture: Mixture, number: int = 0) -> list[list[tuple[int, int, bool, int]]]:
    """The windows of one epoch of a single source as rows of (input, target, reset, position), without padding."""
    [starts] = mixture._starts
    batch = mixture.batch(number * len(starts), len(starts))
    columns = torch.stack([field.long() for field in fields(batch)], dim=-1).tolist()  # [windows, T, 4]
    return [[(*step[:2], bool(step[2]), step[3]) for step in row if step[0]] for row in columns]


@given(lengths, windows, st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 2**32))
def test_an_epoch_holds_every_token_and_every_successor_once(
    make_shards: MakeShards, tasks: list[list[int]], length: int, whole: bool, masked: bool, number: int, seed: int
) -> None:
    written = numbered(tasks)
    masks = [[[token % 3 > 0 for token in ids] for ids in task] for task in written] if masked else None
    rows = epoch(Mixture({"x": make_shards(written, masks)}, {"x": 1.0}, length, seed, whole), number)
    documents = [ids for task in written for ids in task]
    successors = {a: b for ids in documents for a, b in pairwise(ids) if not masked or b % 3}
    firsts = {ids[0] for ids in documents}
    steps = [step for row in rows for step in row]
    assert sorted(step[0] for step in steps) == [token for ids in documents for token in ids]
    for token, target, reset, _ in steps:
        assert target == successors.get(token, IGNORED)
        assert reset == (token in firsts)


@given(lengths, windows, st.booleans())
def test_positions_count_from_the_document_or_the_window(
    make_shards: MakeShards, tasks: list[list[int]], length: int, whole: bool
) -> None:
    for row in epoch(Mixture({"x": make_shards(numbered(tasks))}, {"x": 1.0}, length, 0, whole)):
        expected = -1
        for _, _, reset, position in row:
            expected = 0 if reset else expected + 1
            assert position == expected


@given(lengths, windows)
def test_a_document_that_fits_is_never_cut(make_shards: MakeShards, tasks: list[list[int]], length: int) -> None:
    written = numbered(tasks)
    rows = epoch(Mixture({"x": make_shards(written)}, {"x": 1.0}, length, 0, whole_documents=True))
    place = {step[0]: (number, column) for number, row in enumerate(rows) for column, step in enumerate(row)}
    for ids in (ids for task in written for ids in task):
        used = {place[token][0] for token in ids}
        if len(ids) <= length:
            assert len(used) == 1
        else:
            assert len(used) == -(-len(ids) // length)
            assert place[ids[0]][1] == 0
    sizes = {ids[0]: len(ids) for task in written for ids in task}
    rows.sort()
    for row, following in pairwise(rows):  # as many as fit
        assert len(row) + sizes.get(following[0][0], length) > length


@given(lengths, windows, st.booleans())
def test_padding_has_no_targets_and_begins_nothing(
    make_shards: MakeShards, tasks: list[list[int]], length: int, whole: bool
) -> None:
    mixture = Mixture({"x": make_shards(numbered(tasks))}, {"x": 1.0}, length, 0, whole)
    batch = mixture.batch(0, len(mixture._starts[0]))
    padding = batch.input_ids == 0
    assert (batch.targets[padding] == IGNORED).all()
    assert not batch.reset[padding].any()
    assert (padding.int().diff(dim=1) >= 0).all()  # only at the end
    if not whole:
        assert padding.any(dim=1).sum() <= 1


@pytest.fixture(scope="module")
def three(make_shards: MakeShards) -> dict[str, ShardSet]:
    """Sources of different sizes whose tokens tell which source they come from; the last is masked."""

    def tokens(source: int, documents: int) -> Tasks:
        return [[[1000 * source + number % 1000] * (1 + number % 7) for number in range(documents)]]

    sets = {"a": make_shards(tokens(1, 5)), "b": make_shards(tokens(2, 40))}
    third = tokens(3, 17)
    return sets | {"c": make_shards(third, [[[column % 2 for column, _ in enumerate(ids)] for ids in third[0]]])}


weights = st.tuples(*[st.integers(1, 10_000).map(lambda number: number / 10_000)] * 3).map(
    lambda values: dict(zip("abc", values, strict=True))
)


@given(weights, st.integers(0, 5000), st.integers(0, 40), st.booleans())
def test_sources_keep_to_their_shares(
    three: dict[str, ShardSet], weights: dict[str, float], first: int, size: int, whole: bool
) -> None:
    mixture = Mixture(three, weights, 4, 0, whole)
    before, after = mixture.counts(first), mixture.counts(first + size)
    for count, counts in ((first, before), (first + size, after)):
        assert sum(counts.values()) == count
        for name, weight in weights.items():
            assert abs(counts[name] - count * weight / sum(weights.values())) <= 1
    sources = (mixture.batch(first, size).input_ids[:, 0] // 1000).tolist()
    for number, name in enumerate("abc", start=1):
        assert sources.count(number) == after[name] - before[name]


@given(st.integers(0, 500), st.lists(st.integers(0, 6), min_size=1, max_size=5), st.booleans())
def test_a_batch_is_its_windows_however_it_is_split(
    three: dict[str, ShardSet], first: int, sizes: list[int], whole: bool
) -> None:
    def mixture() -> Mixture:
        return Mixture(three, {"a": 0.2, "b": 0.5, "c": 0.3}, 8, 7, whole)

    expected = fields(mixture().batch(first, sum(sizes)))
    parts, place = [], first
    for size in sizes:  # each part from a fresh mixture, as on another process or after a restart
        parts.append(fields(mixture().batch(place, size)))
        place += size
    for whole_batch, pieces in zip(expected, zip(*parts, strict=True), strict=True):
        assert torch.equal(whole_batch, torch.cat(pieces))


def test_shapes_and_types(three: dict[str, ShardSet]) -> None:
    batch = Mixture(three, {"a": 1, "b": 1, "c": 1}, 8, 0).batch(3, 5)
    assert [field.shape for field in fields(batch)] == [(5, 8)] * 4
    assert [field.dtype for field in fields(batch)] == [torch.int64, torch.int64, torch.bool, torch.int64]


def test_epochs_and_seeds_have_their_own_orders(make_shards: MakeShards) -> None:
    shards = make_shards(numbered([[4] * 64]))
    mixture = Mixture({"x": shards}, {"x": 1.0}, 4, seed=0)
    orders = [[row[0][0] for row in epoch(mixture, number)] for number in range(3)]
    orders.append([row[0][0] for row in epoch(Mixture({"x": shards}, {"x": 1.0}, 4, seed=1))])
    assert all(sorted(one) == sorted(orders[0]) for one in orders)
    assert len({tuple(one) for one in orders}) == 4


def test_far_windows_cost_no_more_than_near_ones(three: dict[str, ShardSet]) -> None:
    mixture = Mixture(three, {"a": 1.0, "b": 1.0, "c": 1.0}, 4, 0)
    assert mixture.batch(10**15, 2).input_ids.shape == (2, 4)
    assert sum(mixture.counts(10**15).values()) == 10**15


def test_sources_without_weight_are_left_out(three: dict[str, ShardSet], make_shards: MakeShards) -> None:
    mixture = Mixture({**three, "empty": make_shards([[]])}, {"a": 1, "b": 0, "c": 0, "empty": 0}, 4, 0)
    assert mixture.counts(10) == {"a": 10}
    assert set((mixture.batch(0, 10).input_ids[:, 0] // 1000).tolist()) == {1}


def test_a_source_without_tokens_is_refused(make_shards: MakeShards) -> None:
    with pytest.raises(UserError, match="source x has no tokens"):
        Mixture({"x": make_shards([[]])}, {"x": 1.0}, 4, 0)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), 1e-9])
def test_impossible_weights_are_refused(three: dict[str, ShardSet], bad: float) -> None:
    with pytest.raises(UserError, match="weights of the sources a, b, c"):
        Mixture(three, {"a": 1.0, "b": 1.0, "c": bad}, 4, 0)
    with pytest.raises(UserError, match="weights of the sources a, b, c"):
        Mixture(three, dict.fromkeys("abc", 0.0), 4, 0)


def test_wrong_arguments_are_programming_errors(three: dict[str, ShardSet]) -> None:
    arguments: list[tuple[dict[str, Any], int]] = [({"a": 1.0}, 4), (dict.fromkeys("abc", 1.0), 0)]
    for weights, length in arguments:
        with pytest.raises(ValueError, match="sequence_length"):
            Mixture(three, weights, length, 0)
    with pytest.raises(ValueError, match="first_window"):
        Mixture(three, dict.fromkeys("abc", 1.0), 4, 0).batch(-1, 2)
