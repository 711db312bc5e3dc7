"""From token shards to training batches, in an order that is a pure function of (seed, number of the window)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sioconv.data.order import fair_sequence, permuted, whole_weights
from sioconv.data.shards import ShardSet
from sioconv.errors import UserError

IGNORED = -100
PADDING = 0  # any id does: no target follows it, and what comes before it doesn't see it


@dataclass
class Batch:
    """B windows of T tokens, all [B, T].

    Args:
        input_ids: int64; a window that is shorter than T ends with padding.
        targets: int64, already shifted: the token that follows in the same document; -100 where there is none, where
            it isn't to be learned, and on padding.
        reset: bool, True where a document begins and nowhere else. A window that begins inside a document has none at
            its first token: a model starts a window from its initial state anyway.
        position_ids: int64, counted from the beginning of the document, or of the window where the document began
            before it.
    """

    input_ids: Tensor
    targets: Tensor
    reset: Tensor
    position_ids: Tensor


class Mixture:
    """An endless sequence of windows over several sources, mixed by their weights.

    After N windows each source has given within 1 of weight · N of them, for every N. Each source goes through all its
    windows in an order of its own, then through all of them again in another: within such an epoch no token is left
    out and none is seen twice. Nothing is kept from call to call.

    Args:
        sets: shard sets by source.
        weights: share of each source, in any unit; sources of weight 0 are left out.
        sequence_length: T, tokens in a window.
        seed: decides the order.
        whole_documents: pack whole documents into a window, in their order, as many as fit; only documents longer than
            T are cut. Otherwise a window is any T tokens that follow each other.

    Raises:
        UserError: a source has no tokens, or its weight is negative, not a number, or too small beside the others.
    """

    def __init__(
        self,
        sets: Mapping[str, ShardSet],
        weights: Mapping[str, float],
        sequence_length: int,
        seed: int,
        whole_documents: bool = False,
    ) -> None:
        if sequence_length < 1 or sets.keys() != weights.keys():
            raise ValueError(
                f"sequence_length >= 1 and a weight for each set expected, got sequence_length={sequence_length}, "
                f"sets={list(sets)}, weights={dict(weights)}"
            )
        self.sequence_length, self.seed = sequence_length, seed
        self._names = [name for name in sets if weights[name] != 0]
        self._sets = [sets[name] for name in self._names]
        for name, shards in zip(self._names, self._sets, strict=True):
            if shards.tokens_total == 0:
                raise UserError(
                    f"source {name} has no tokens: {shards.folder}: give it text or take it out of the recipe"
                )
        try:
            self._weights = whole_weights([weights[name] for name in self._names])
        except ValueError as error:
            raise UserError(f"the weights of the sources {', '.join(sets)} can't be used: {error}") from error
        self._sequence = fair_sequence(self._weights)  # [period]
        # How often the same source has come before in the period, so that no counting is needed later.
        self._earlier = np.empty_like(self._sequence)  # [period]
        for number, weight in enumerate(self._weights):
            self._earlier[self._sequence == number] = np.arange(weight)
        self._starts: list[Sequence[int]] = [  # where each source's windows begin
            _whole_document_windows(shards, sequence_length)
            if whole_documents
            else range(0, shards.tokens_total, sequence_length)
            for shards in self._sets
        ]

    def counts(self, windows: int) -> dict[str, int]:
        """How many of the first `windows` windows come from each source."""
        periods, rest = divmod(windows, len(self._sequence))
        partial = np.bincount(self._sequence[:rest], minlength=len(self._names))
        return {
            name: periods * weight + int(count)
            for name, weight, count in zip(self._names, self._weights, partial, strict=True)
        }

    def batch(self, first_window: int, size: int) -> Batch:
        """The windows `first_window` … `first_window + size - 1`."""
        if first_window < 0 or size < 0:
            raise ValueError(f"first_window and size must not be negative, got {first_window} and {size}")
        shape = (size, self.sequence_length)
        input_ids = np.full(shape, PADDING, np.int64)
        targets = np.full(shape, IGNORED, np.int64)
        reset = np.zeros(shape, np.bool_)
        for row in range(size):
            source, start, stop = self._place(first_window + row)
            _fill(self._sets[source], start, stop, input_ids[row], targets[row], reset[row])
        steps = np.arange(self.sequence_length)
        position_ids = steps - np.maximum.accumulate(np.where(reset, steps, 0), axis=1)  # [B, T]
        return Batch(*(torch.from_numpy(values) for values in (input_ids, targets, reset, position_ids)))

    def _place(self, window: int) -> tuple[int, int, int]:
        """The number of the source, and the range of its tokens, that a window holds."""
        period, place = divmod(window, len(self._sequence))
        source = int(self._sequence[place])
        count = period * self._weights[source] + int(self._earlier[place])
        starts = self._starts[source]
        epoch, index = divmod(count, len(starts))
        chosen = permuted(index, len(starts), self.seed, self._names[source], epoch)
        stop = starts[chosen + 1] if chosen + 1 < len(starts) else self._sets[source].tokens_total
        return source, starts[chosen], stop


def _fill(
    shards: ShardSet,
    start: int,
    stop: int,
    input_ids: NDArray[np.int64],
    targets: NDArray[np.int64],
    reset: NDArray[np.bool_],
) -> None:
    """Writes the tokens from `start` up to `stop` into a row; all arrays are [T]."""
    length, following = stop - start, min(stop + 1, shards.tokens_total)
    tokens = shards.slice(start, following)  # [length], or one more where something follows
    input_ids[:length] = tokens[:length]
    targets[: following - start - 1] = tokens[1:]
    if shards.masked:
        targets[: following - start - 1][shards.mask_slice(start + 1, following) == 0] = IGNORED
    begins = shards.document_starts(start, following) - start
    targets[begins[begins > 0] - 1] = IGNORED
    reset[begins[begins < length]] = True


def _whole_document_windows(shards: ShardSet, length: int) -> list[int]:
    """Where windows begin that have at most `length` tokens and end where a document ends, if any does within them."""
    ends, starts, start = shards.document_ends, [], 0
    while start < shards.tokens_total:
        starts.append(start)
        last = int(np.searchsorted(ends, start + length, "right")) - 1
        fits = last >= 0 and ends[last] > start
        start = int(ends[last]) if fits else start + length
    return starts
