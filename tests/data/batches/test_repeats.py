"""How often a budget reads its sources, and the one line about those that it reads too often."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.batches.repeats import times_read, warning


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(1, 10**6), min_size=1), st.integers(0, 10**9))
def test_all_that_is_read_comes_from_the_sources(sizes: dict[str, int], tokens: int) -> None:
    weights = {name: 1.0 + number for number, name in enumerate(sizes)}
    times = times_read(sizes, weights, tokens)
    assert sum(times[name] * sizes[name] for name in sizes) == pytest.approx(tokens)


def test_the_worst_are_named_in_one_line() -> None:
    assert warning({"a": 4.0, "b": 0.1}) is None
    assert warning({}) is None
    said = warning({"few": 4.01, "b": 3.9, "poems": 1234.56, "c": 5.0, "d": 4.5}) or ""
    assert "over 4 times: poems 1,234.6×, c 5.0×, d 4.5× and 1 more: add text" in said
    assert "\n" not in said
