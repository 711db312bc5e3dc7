"""sioconv.data.cleaning.unicode_forms: as Python's own, and as fast on texts that are made to be slow."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.cleaning.unicode_forms import Form, normal_form

# Marks of several classes, some that are made of others (one of class 0), half-width ones, letters to put them on.
MARKS = "\u0301\u0316\u0327\u0344\u3099\u0f71\u0f73\u0f81\u20d0\uff9e\uff9f\u1d165\u0345\u200b。—"
BASES = "ae\u00e9かガ각\u1100\u1161\u11a8ﾊ\U0001109b"


@given(st.text(st.one_of(st.sampled_from(MARKS), st.sampled_from(BASES), st.characters())), st.integers(1, 200))
@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_it_is_python_s_form(form: Form, text: str, times: int) -> None:
    long = text[: 400 // times + 1] * times
    assert normal_form(form, long) == unicodedata.normalize(form, long)


@given(st.lists(st.sampled_from(MARKS), min_size=64, max_size=300), st.sampled_from(BASES))
@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_long_runs_of_marks_are_in_python_s_order(form: Form, marks: list[str], base: str) -> None:
    text = base + "".join(marks) + base
    assert normal_form(form, text) == unicodedata.normalize(form, text)


def test_marks_in_disorder_are_put_in_order_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python is given is in order already: its insertion moves nothing."""
    given: list[str] = []
    usual = unicodedata.normalize

    def normalize(form: Form, text: str) -> str:
        given.append(text)
        return usual(form, text)

    monkeypatch.setattr(unicodedata, "normalize", normalize)
    normal_form("NFC", "a" + "\u0301\u0316" * 100_000)  # by insertion it would take more than two minutes
    classes = [unicodedata.combining(one) for one in given[-1]]
    assert len(classes) == 200_001 and classes == sorted(classes)
