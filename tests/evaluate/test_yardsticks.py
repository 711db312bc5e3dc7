"""The yardsticks against a slow dictionary implementation, and against what they must be on known text."""

import lzma
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sioconv.evaluate.yardsticks import (
    measure_yardsticks,
    ngram_bits_per_byte,
    ngram_probabilities,
    xz_primed,
)

few_bytes = st.lists(st.binary(max_size=12).map(lambda data: bytes(b % 3 for b in data)), max_size=6)
any_bytes = st.lists(st.binary(max_size=12), max_size=4)


def slow_probabilities(train: list[bytes], heldout: list[bytes], order: int) -> list[float]:
    """Witten-Bell as the formula says it, with dictionaries and a recursion."""
    after: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)

    def padded(document: bytes) -> list[int]:
        return [-1] * (order - 1) + list(document)

    for document in map(padded, train):
        for i in range(order - 1, len(document)):
            for size in range(order):
                after[tuple(document[i - size : i])][document[i]] += 1

    def probability(byte: int, context: tuple[int, ...]) -> float:
        lower = probability(byte, context[1:]) if context else 1 / 256
        seen = after.get(context)
        if not seen:
            return lower
        return (seen[byte] + len(seen) * lower) / (seen.total() + len(seen))

    result = []
    for document in map(padded, heldout):
        for i in range(order - 1, len(document)):
            result.append(probability(document[i], tuple(document[i - order + 1 : i])))  # noqa: PERF401
    return result


@settings(max_examples=150, deadline=None)
@given(train=few_bytes | any_bytes, heldout=few_bytes | any_bytes, order=st.integers(1, 7))
def test_ngram_equals_the_slow_one(train: list[bytes], heldout: list[bytes], order: int) -> None:
    fast = ngram_probabilities(train, heldout, order)
    np.testing.assert_allclose(fast, slow_probabilities(train, heldout, order), rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(train=few_bytes | any_bytes, context=st.binary(max_size=8), order=st.integers(1, 7))
def test_ngram_probabilities_sum_to_one(train: list[bytes], context: bytes, order: int) -> None:
    every = [context + bytes([byte]) for byte in range(256)]
    last = ngram_probabilities(train, every, order).reshape(256, -1)[:, -1]
    assert last.sum() == pytest.approx(1, rel=1e-12)


def test_ngram_context_does_not_cross_documents() -> None:
    train = [b"abcabcabc"]
    alone = ngram_probabilities(train, [b"c"], 7)
    after_another = ngram_probabilities(train, [b"ab", b"c"], 7)
    assert after_another[-1] == alone[0]


def test_unseen_bytes_without_training_text_cost_eight_bits() -> None:
    assert ngram_bits_per_byte([], [b"any bytes"]) == pytest.approx(8)


@pytest.mark.parametrize("order", [0, 8])
def test_ngram_refuses_an_order_out_of_range(order: int) -> None:
    with pytest.raises(ValueError, match="order must be from 1 to 7"):
        ngram_probabilities([b"a"], [b"a"], order)


def test_xz_counts_only_what_the_heldout_text_adds() -> None:
    rng = np.random.default_rng(0)
    train, heldout = [rng.bytes(4000)], [rng.bytes(1000)]
    size = [
        len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) for data in (train[0], b"\n".join(train + heldout))
    ]
    assert xz_primed(train, heldout) == (size[1] - size[0]) * 8 / 1000
    assert xz_primed(train, heldout) > 8  # random bytes can't be compressed
    assert xz_primed(train, [train[0][500:1500]]) < 1  # what was read before costs next to nothing


def test_both_yardsticks_divide_by_utf8_bytes() -> None:
    train = ["宮城県は、日本の東北地方に位置する県である。" * 20, "福島県は、日本の東北地方に位置する県である。"]
    heldout = ["秋田県は、日本の東北地方に位置する県である。"]
    result = measure_yardsticks(train, heldout)
    data = [text.encode() for text in train], [text.encode() for text in heldout]
    assert result.train_bytes == sum(map(len, data[0]))
    assert result.xz_primed == xz_primed(*data)
    assert result.ngram7 == ngram_bits_per_byte(*data) < 3


def test_empty_heldout_text_is_refused() -> None:
    with pytest.raises(ValueError, match="heldout"):
        measure_yardsticks(["text"], [""])
