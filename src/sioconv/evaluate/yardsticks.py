"""Yardsticks for bits per byte: a general compressor and a byte n-gram model, trained on the same text."""

import lzma
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from sioconv.evaluate.figures import Yardsticks

SEPARATOR = b"\n"  # of "", "\\n", "\\n\\n" and "\\0" the one that costs xz least on the bundled text
SYMBOL_BITS = 9  # 256 bytes and the padding before a document's first byte
MAX_ORDER = 7  # 7 symbols of 9 bits fit in 63 bits


def measure_yardsticks(train: Sequence[str], heldout: Sequence[str]) -> Yardsticks:
    """Both yardsticks for `heldout` documents after `train` documents; divided by the UTF-8 bytes of `heldout`.

    Raises ValueError when `heldout` has no bytes.
    """
    train_bytes = [text.encode() for text in train]
    heldout_bytes = [text.encode() for text in heldout]
    return Yardsticks(
        xz_primed=xz_primed(train_bytes, heldout_bytes),
        ngram7=ngram_bits_per_byte(train_bytes, heldout_bytes),
        train_bytes=sum(map(len, train_bytes)),
    )


def xz_primed(train: Sequence[bytes], heldout: Sequence[bytes]) -> float:
    """(compressed size of both − compressed size of `train`) in bits ÷ bytes of `heldout`.

    The compressor is `xz -9e`; its window of 64 MiB bounds how much of the training text it can use. Documents
    are joined by a line's end, whose cost counts.
    """
    total = _checked_length(heldout)
    both = (*train, *heldout)
    with ThreadPoolExecutor(2) as pool:  # lzma works outside the interpreter's lock
        before, after = pool.map(_compressed_size, (SEPARATOR.join(train), SEPARATOR.join(both)))
    return (after - before) * 8 / total


def ngram_bits_per_byte(train: Sequence[bytes], heldout: Sequence[bytes], order: int = MAX_ORDER) -> float:
    """Mean −log2 P(byte | the order − 1 bytes before it) over `heldout`, counted on `train`."""
    _checked_length(heldout)
    return float(-np.log2(ngram_probabilities(train, heldout, order)).mean())


def ngram_probabilities(train: Sequence[bytes], heldout: Sequence[bytes], order: int) -> NDArray[np.float64]:
    """Interpolated Witten-Bell probability of every byte of `heldout` in its context.

    P(w|h) = (c(hw) + T(h) P(w|h')) / (c(h) + T(h)), where h' is h without its oldest byte and T(h) the number of
    distinct bytes seen after h; the empty context backs off to 1/256, and an unseen context takes P(w|h').
    Witten & Bell 1991, "The zero-frequency problem", method C; Chen & Goodman 1999, "An empirical study of smoothing
    techniques for language modeling", section 2.4. Documents are independent: before the first byte there is padding.

    Args:
        train: documents that are counted.
        heldout: documents that are predicted.
        order: length of the longest n-gram, 1 to 7.

    Returns:
        float64 [bytes of `heldout`], in order.

    Raises:
        ValueError: `order` is out of range.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"order must be from 1 to {MAX_ORDER}, not {order}")
    train_codes, heldout_codes = _codes(train, order), _codes(heldout, order)
    probability = np.full(heldout_codes.shape, 1 / 256)
    for length in range(1, order + 1):
        mask = np.uint64((1 << SYMBOL_BITS * length) - 1)
        grams, counts = np.unique(train_codes & mask, return_counts=True)
        contexts, starts = np.unique(grams >> np.uint64(SYMBOL_BITS), return_index=True)
        distinct = np.diff(starts, append=len(grams))  # T(h)
        totals = np.add.reduceat(counts, starts) if len(starts) else counts  # c(h)
        wanted = heldout_codes & mask
        count = _look_up(grams, counts, wanted)
        total = _look_up(contexts, totals, wanted >> np.uint64(SYMBOL_BITS))
        types = _look_up(contexts, distinct, wanted >> np.uint64(SYMBOL_BITS))
        np.divide(count + types * probability, total + types, out=probability, where=total > 0)
    return probability


def _codes(documents: Sequence[bytes], order: int) -> NDArray[np.uint64]:
    """One code a byte: itself in the lowest 9 bits, its older neighbours above it; 0 stands before a document."""
    symbols = np.frombuffer(b"".join(documents), np.uint8).astype(np.uint64) + np.uint64(1)
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))
    place = np.arange(len(symbols)) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # within the document
    codes = symbols.copy()
    for age in range(1, order):
        older = symbols[:-age] << np.uint64(SYMBOL_BITS * age)
        codes[age:] |= np.where(place[age:] >= age, older, np.uint64(0))
    return codes


def _look_up(keys: NDArray[np.uint64], values: NDArray[np.int64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """`values` of `wanted` among the sorted `keys`, 0 where there is none."""
    if not len(keys):
        return np.zeros(wanted.shape, np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def _compressed_size(data: bytes) -> int:
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def _checked_length(heldout: Sequence[bytes]) -> int:
    if not (total := sum(map(len, heldout))):
        raise ValueError("heldout must have at least one byte")
    return total
