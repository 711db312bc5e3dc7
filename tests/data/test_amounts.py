"""sioconv.data.amounts: texts by their size."""

from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.amounts import at_least, at_most, batches, text_size

TEXTS = st.lists(st.text(max_size=9))


@given(TEXTS, st.integers(1, 20))
def test_batches_end_at_their_size(texts: list[str], size: int) -> None:
    found = list(batches(texts, size, text_size))
    assert [text for batch in found for text in batch] == texts
    for number, batch in enumerate(found):
        sizes = [text_size(text) for text in batch]
        assert sum(sizes[:-1]) < size
        assert number == len(found) - 1 or sum(sizes) >= size


@given(TEXTS, st.integers(1, 20))
def test_at_least_ends_with_the_text_that_reaches_the_size(texts: list[str], size: int) -> None:
    found = list(at_least(texts, size))
    assert found == texts[: len(found)]
    assert sum(map(text_size, found[:-1])) < size
    assert found == texts or sum(map(text_size, found)) >= size


@given(TEXTS, st.integers(0, 20))
def test_at_most_stays_within_the_size_but_for_a_first_text(texts: list[str], size: int) -> None:
    found = at_most(texts, size)
    assert found == texts[: len(found)]
    assert len(found) == min(1, len(texts)) or sum(map(text_size, found)) <= size
    assert found == texts or sum(map(text_size, texts[: len(found) + 1])) > size
    assert at_most(texts, None) == texts
