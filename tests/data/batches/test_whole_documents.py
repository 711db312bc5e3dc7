"""Whole documents stay whole; conversations that are too long are cut after an answer, or it is told."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.batches.loader import Mixture
from sioconv.data.batches.whole_documents import Cuts, whole_document_windows
from sioconv.data.shards.shard_set import ShardSet

MakeShards = Callable[..., ShardSet]
# A conversation as the lengths of what is said in turn: by the user, by the assistant, …
talks = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=6)


def conversations(talks: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens and masks: bos, then for every turn a role's token, what is said, and its end; tokens count up from 1."""
    masks = []
    for lengths in talks:
        mask = [0]
        for number, length in enumerate(lengths):
            mask += [0, *[number % 2] * (length + 1)]
        masks.append(mask)
    numbers = iter(range(1, 1000))
    return [[next(numbers) for _ in mask] for mask in masks], masks


@given(talks, st.integers(1, 30))
def test_conversations_are_cut_after_an_answer_or_it_is_counted(
    make_shards: MakeShards, talks: list[list[int]], length: int
) -> None:
    written, masks = conversations(talks)
    shards = make_shards([written], [masks])
    starts, cuts = whole_document_windows(shards, length)
    mask = [value for one in masks for value in one]
    firsts = {ids[0] - 1 for ids in written}
    ends = [*starts[1:].tolist(), len(mask)]
    assert starts[0] == 0
    inside = 0
    for start, end in zip(starts.tolist(), ends, strict=True):
        assert 0 < end - start <= length
        if end in firsts or end == len(mask):
            continue
        if mask[end - 1] and not mask[end]:  # after an answer, and there is no later one that would have fitted
            room = mask[start : start + length + 1]
            assert not any(a and not b for a, b in zip(room[end - start :], room[end - start + 1 :], strict=False))
        else:
            assert end - start == length
            inside += mask[end]
    assert cuts == Cuts(sum(len(ids) > length for ids in written), inside)


def test_an_answer_that_fits_is_never_cut(make_shards: MakeShards) -> None:
    written, masks = conversations([[2, 5, 3, 6, 2, 4], [1, 2]])  # each question and answer at most 13 tokens
    mixture = Mixture({"x": make_shards([written], [masks])}, {"x": 1.0}, 14, 0, whole_documents=True)
    assert mixture.cuts == {"x": Cuts(1, 0)}
    batch = mixture.batch(0, len(mixture._starts[0]))
    rows = [[token for token in row if token] for row in batch.input_ids.tolist()]
    assert sorted(rows) == [[*range(1, 13)], [*range(13, 26)], [*range(26, 36)], [*range(36, 44)]]
    learned = sorted(target for row in batch.targets.tolist() for target in row if target > 0)
    answers = [token for ids, mask in zip(written, masks, strict=True) for token, m in zip(ids, mask, strict=True) if m]
    assert learned == answers


def test_text_is_cut_at_the_length(make_shards: MakeShards) -> None:
    starts, cuts = whole_document_windows(make_shards([[[1] * 25, [2] * 3], [[3] * 10]]), 10)
    assert starts.tolist() == [0, 10, 20, 28]
    assert cuts == Cuts(1, 0)


def test_what_was_cut_is_told(make_shards: MakeShards) -> None:
    written, masks = conversations([[2, 5, 3, 30], [1, 2]])
    sets = {"talks": make_shards([written], [masks]), "text": make_shards([[[1] * 5]])}
    weights = {"talks": 1.0, "text": 1.0}
    assert list(Mixture(sets, weights, 14, 0, whole_documents=True).notes()) == [
        "talks: 1 of 2 documents are longer than a window of 14 tokens and are cut, "
        "2 times inside what the assistant says"
    ]
    assert list(Mixture(sets, weights, 100, 0, whole_documents=True).notes()) == []
    assert list(Mixture(sets, weights, 100, 0).notes()) == [
        "talks: windows of 100 tokens cut its conversations anywhere: whole_documents: true keeps them whole"
    ]
