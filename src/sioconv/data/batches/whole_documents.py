"""Windows that hold whole documents, and where those are cut that are longer than a window."""

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sioconv.data.shards.shard_set import ShardSet


@dataclass(frozen=True)
class Cuts:
    """What packing whole documents had to cut.

    Args:
        documents: documents that are longer than a window.
        turns: places inside what the assistant says at which one of them was cut, because that alone is longer than a
            window; always 0 for text.
    """

    documents: int
    turns: int


def whole_document_windows(shards: ShardSet, length: int) -> tuple[NDArray[np.int64], Cuts]:
    """Where windows of at most `length` tokens begin that hold as many whole documents, in their order, as fit.

    A document that is longer than a window gets windows of its own, and the last of them goes on with the next
    documents. A conversation is cut after the last turn of the assistant that fits, whatever the length; where not even
    one fits, and in text, after `length` tokens.
    """
    ends = shards.document_ends  # [documents]
    starts = array("q")  # 8 bytes a window
    start, documents, turns, fits = 0, 0, 0, True
    while start < shards.tokens_total:
        starts.append(start)
        whole = fits  # a document begins at `start`, not the rest of one
        last = int(np.searchsorted(ends, start + length, "right")) - 1
        fits = last >= 0 and bool(ends[last] > start)
        if fits:
            start = int(ends[last])
            continue
        documents += whole
        start, inside = _cut(shards, start, length)
        turns += inside
    return np.array(starts, np.int64), Cuts(documents, turns)


def _cut(shards: ShardSet, start: int, length: int) -> tuple[int, bool]:
    """Where the document that goes on for over `length` tokens is cut, and whether that is in an assistant's turn."""
    if not shards.masked:
        return start + length, False
    mask = shards.mask_slice(start, start + length + 1)  # one more: the token that the next window begins with
    ended = np.flatnonzero((mask[:-1] == 1) & (mask[1:] == 0))  # the last tokens of the assistant's turns
    if len(ended):
        return start + int(ended[-1]) + 1, False
    return start + length, bool(mask[-1])
