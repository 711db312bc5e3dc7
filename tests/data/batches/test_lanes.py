"""Lanes go on where they stopped, see everything once an epoch, and keep to the shares."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.batches.lanes import Lanes
from sioconv.data.batches.loader import IGNORED, Batch
from sioconv.data.shards.shard_set import ShardSet
from sioconv.errors import UserError

MakeShards = Callable[..., ShardSet]
Step = tuple[int, int, bool, int]  # input, target, reset, position

lengths = st.lists(st.lists(st.integers(1, 12), max_size=6), min_size=1, max_size=3).filter(lambda tasks: any(tasks))
small = st.integers(1, 5)
seeds = st.integers(0, 2**32)


def numbered(tasks: list[list[int]], first: int = 1) -> list[list[list[int]]]:
    """Documents of the given lengths in which every token is another number."""
    numbers = iter(range(first, first + 10_000))
    return [[[next(numbers) for _ in range(length)] for length in task] for task in tasks]


def columns(batch: Batch) -> list[list[Step]]:
    fields = [batch.input_ids, batch.targets, batch.reset.long(), batch.position_ids]
    rows = torch.stack(fields, dim=-1).tolist()  # [B, T, 4]
    return [[(*step[:2], bool(step[2]), step[3]) for step in row] for row in rows]


def lane_streams(lanes: Lanes, batches: int) -> list[list[Step]]:
    """What each lane reads in the first batches, one after the other."""
    streams: list[list[Step]] = [[] for _ in range(lanes.lanes)]
    for number in range(batches):
        for stream, row in zip(streams, columns(lanes.batch(number * lanes.lanes, lanes.lanes)), strict=True):
            stream += row
    return streams


@given(lengths, small, small, small, st.booleans(), seeds)
def test_lanes_go_on_or_reset_and_targets_follow_in_the_document(
    make_shards: MakeShards, tasks: list[list[int]], length: int, count: int, span: int, masked: bool, seed: int
) -> None:
    written = numbered(tasks)
    masks = [[[token % 3 > 0 for token in ids] for ids in task] for task in written] if masked else None
    documents = [ids for task in written for ids in task]
    successors = {a: b for ids in documents for a, b in pairwise(ids) if not masked or b % 3}
    following = {a: b for ids in documents for a, b in pairwise(ids)}
    firsts = {ids[0] for ids in documents}
    lanes = Lanes({"x": make_shards(written, masks)}, {"x": 1.0}, length, seed, count, span)
    for stream in lane_streams(lanes, 3 * span):
        assert stream[0][2]
        for token, target, reset, position in stream:
            assert target == successors.get(token, IGNORED)
            assert reset or token not in firsts
            assert position == 0 or not reset
        for (before, _, _, last), (token, _, reset, position) in pairwise(stream):
            assert reset or following[before] == token
            assert position == (0 if reset else last + 1)


@given(lengths, small, small, small, seeds)
def test_an_epoch_holds_every_token_once(
    make_shards: MakeShards, tasks: list[list[int]], length: int, count: int, span: int, seed: int
) -> None:
    written = numbered(tasks)
    lanes = Lanes({"x": make_shards(written)}, {"x": 1.0}, length, seed, count, span)
    tokens = sorted(token for task in written for ids in task for token in ids)
    stages = -(-2 * len(tokens) // (length * count * span))
    stream: list[int] = []  # spans in their order are the source's stream
    read = lane_streams(lanes, stages * span)
    for stage in range(stages):
        for one in read:
            stream += [step[0] for step in one[stage * span * length : (stage + 1) * span * length]]
    assert sorted(stream[: len(tokens)]) == tokens
    assert sorted(stream[len(tokens) : 2 * len(tokens)]) == tokens


@given(lengths.filter(lambda tasks: sum(map(sum, tasks)) >= 8), seeds)
def test_resets_are_only_where_they_must_be(make_shards: MakeShards, tasks: list[list[int]], seed: int) -> None:
    written = numbered(tasks)
    lanes = Lanes({"x": make_shards(written)}, {"x": 1.0}, 2, seed, 1, span=4)
    total = sum(map(sum, tasks))
    firsts = {ids[0] for task in written for ids in task}
    [stream] = lane_streams(lanes, 8)
    segments = {1 + 8 * number for number in range(-(-total // 8))}  # tokens at which a segment begins
    for place, (token, _, reset, _) in enumerate(stream):
        assert reset == (token in firsts or token in segments or place % 8 == 0)


weights = st.tuples(*[st.integers(1, 100).map(lambda number: number / 100)] * 3).map(
    lambda values: dict(zip("abc", values, strict=True))
)


@pytest.fixture(scope="module")
def three(make_shards: MakeShards) -> dict[str, ShardSet]:
    """Sources of different sizes whose tokens tell which source they come from."""
    sizes = {"a": [[5]], "b": [[7] * 30], "c": [[90], [3, 200]]}
    return {
        name: make_shards(numbered(tasks, 1000 * number)) for number, (name, tasks) in enumerate(sizes.items(), start=1)
    }


@given(weights, small, small, st.integers(1, 40))
def test_sources_keep_to_their_shares_of_spans(
    three: dict[str, ShardSet], weights: dict[str, float], count: int, span: int, stages: int
) -> None:
    lanes = Lanes(three, weights, 3, 0, count, span)
    sources: Counter[int] = Counter()
    for stage in range(stages):
        batch = lanes.batch(stage * span * count, count)
        sources.update((batch.input_ids[:, 0] // 1000).tolist())
        read = (stage + 1) * count
        for number, name in enumerate("abc", start=1):
            assert abs(sources[number] - read * weights[name] / sum(weights.values())) <= 1


@given(st.integers(0, 500), st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_a_batch_is_its_windows_however_it_is_split(three: dict[str, ShardSet], first: int, sizes: list[int]) -> None:
    def rows(place: int, size: int) -> list[list[Step]]:  # from fresh lanes, as on another process
        return columns(Lanes(three, {"a": 0.2, "b": 0.5, "c": 0.3}, 8, 7, lanes=4, span=3).batch(place, size))

    parts: list[list[Step]] = []
    for size in sizes:
        parts += rows(first + len(parts), size)
    assert parts == rows(first, sum(sizes))


def test_spans_of_a_lane_are_consecutive_batches(make_shards: MakeShards) -> None:
    lanes = Lanes({"x": make_shards(numbered([[64]]))}, {"x": 1.0}, 4, seed=0, lanes=2, span=4)
    first, second = lane_streams(lanes, 4)
    for stream in (first, second):
        tokens = [step[0] for step in stream]
        assert tokens == list(range(tokens[0], tokens[0] + 16))
        assert [step[3] for step in stream] == list(range(16))
    assert first[0][0] != second[0][0]


def test_far_windows_cost_no_more_than_near_ones(three: dict[str, ShardSet]) -> None:
    lanes = Lanes(three, dict.fromkeys("abc", 1.0), 8, 0, lanes=2)
    assert lanes.batch(10**15, 2).input_ids.shape == (2, 8)


def test_shapes_and_types(three: dict[str, ShardSet]) -> None:
    batch = Lanes(three, dict.fromkeys("abc", 1.0), 8, 0, lanes=5).batch(3, 5)
    fields = [batch.input_ids, batch.targets, batch.reset, batch.position_ids]
    assert [field.shape for field in fields] == [(5, 8)] * 4
    assert [field.dtype for field in fields] == [torch.int64, torch.int64, torch.bool, torch.int64]


def test_what_cant_be_mixed_is_refused(three: dict[str, ShardSet], make_shards: MakeShards) -> None:
    with pytest.raises(UserError, match="source x has no tokens"):
        Lanes({"x": make_shards([[]])}, {"x": 1.0}, 4, 0, 1)
    with pytest.raises(UserError, match="weights of the sources a, b, c"):
        Lanes(three, {"a": 1.0, "b": 1.0, "c": float("nan")}, 4, 0, 1)
    wrong: list[tuple[Any, ...]] = [(0, 0, 1, 1), (4, 0, 0, 1), (4, 0, 1, 0)]
    for arguments in wrong:
        with pytest.raises(ValueError, match="span"):
            Lanes(three, dict.fromkeys("abc", 1.0), *arguments)
    with pytest.raises(ValueError, match="first_window"):
        Lanes(three, dict.fromkeys("abc", 1.0), 4, 0, 1).batch(-1, 2)
