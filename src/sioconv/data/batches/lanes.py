"""Batches whose rows go on where they stopped, for training that carries the state from step to step."""

from collections.abc import Iterator, Mapping

from sioconv.data.batches.loader import Batch, Rows, open_turns
from sioconv.data.batches.order import permuted
from sioconv.data.shards.shard_set import ShardSet


class Lanes:
    """An endless sequence of batches: row i of each holds the tokens that follow those of row i in the one before.

    A row, or lane, reads one span of `span` windows that follow each other, then another, whose source is the next in
    turn. After N spans each source has given within 1 of weight · N of them, for every N. A source's spans are cut from
    a stream of its own that never ends: all its segments of `span` windows in one order, then all of them again in
    another. So within an epoch no token is left out and none is seen twice, and nothing is padded.

    `reset` is True wherever the carried state isn't what came before in the text: where a document, a segment or a span
    begins. `position_ids` count from there, on into the following batches.

    Windows are numbered as a `Mixture`'s: window n is lane n % lanes of batch n // lanes. What it holds is a function
    of n and the seed.

    Args:
        sets: shard sets by source.
        weights: share of each source, in any unit; sources of weight 0 are left out.
        sequence_length: T, tokens in a window.
        seed: decides the order.
        lanes: rows of a global batch.
        span: windows that a lane reads before it goes elsewhere; the longest text whose state is carried is `span` · T.

    Raises:
        UserError: a source has no tokens, or its weight is negative, not a number, or too small beside the others.
    """

    def __init__(
        self,
        sets: Mapping[str, ShardSet],
        weights: Mapping[str, float],
        sequence_length: int,
        seed: int,
        lanes: int,
        span: int = 64,
    ) -> None:
        if min(sequence_length, lanes, span) < 1 or sets.keys() != weights.keys():
            raise ValueError(
                "sequence_length, lanes and span >= 1 and a weight for each set expected, got "
                f"{sequence_length}, {lanes}, {span}, sets={list(sets)}, weights={dict(weights)}"
            )
        self.sequence_length, self.seed, self.lanes, self.span = sequence_length, seed, lanes, span
        self._turns = open_turns(sets, weights)
        self._sets = [sets[name] for name in self._turns.names]

    def batch(self, first_window: int, size: int) -> Batch:
        """The windows `first_window` … `first_window + size - 1`; those of one batch if that is what they are."""
        if first_window < 0 or size < 0:
            raise ValueError(f"first_window and size must not be negative, got {first_window} and {size}")
        rows = Rows(size, self.sequence_length)
        for row in range(size):
            self._fill(rows, row, first_window + row)
        return rows.batch()

    def _fill(self, rows: Rows, row: int, window: int) -> None:
        step, lane = divmod(window, self.lanes)
        number, part = divmod(step, self.span)
        source, count = self._turns.turn(number * self.lanes + lane)
        shards, column = self._sets[source], 0
        read = part * self.sequence_length  # tokens of the span before this window
        first = count * self.span * self.sequence_length + read
        for start, stop, inside in self._pieces(source, first):
            since = min(inside, read + column)  # tokens since the last jump
            if not since:
                rows.begin(row, column)
            elif not column:
                begins = shards.document_starts(start - since, start)
                rows.go_on(row, start - int(begins[-1]) if len(begins) else since)
            rows.fill(row, column, shards, start, stop)
            column += stop - start

    def _pieces(self, source: int, first: int) -> Iterator[tuple[int, int, int]]:
        """Where a window is that begins at place `first` of a source's endless stream.

        Yields (start, stop, inside) of each piece: the places of its tokens and how many of the same segment come
        before it. The last segment of an epoch, which is shorter, comes last.
        """
        total, segment = self._sets[source].tokens_total, self.span * self.sequence_length
        whole, left = total // segment, self.sequence_length
        while left:
            epoch, place = divmod(first, total)
            index, inside = divmod(place, segment)
            start, size = index * segment, total - index * segment
            if index < whole:
                start, size = permuted(index, whole, self.seed, self._turns.names[source], epoch) * segment, segment
            length = min(left, size - inside)
            yield start + inside, start + inside + length, inside
            first, left = first + length, left - length
