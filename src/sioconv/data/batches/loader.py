"""From token shards to training batches, in an order that is a pure function of (seed, number of the window)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sioconv.data.batches.order import Turns, permuted
from sioconv.data.batches.whole_documents import Cuts, whole_document_windows
from sioconv.data.shards.shard_set import ShardSet
from sioconv.errors import UserError
from sioconv.language import translated

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
            T are cut, conversations after what the assistant says where that is possible. Otherwise a window is any T
            tokens that follow each other.

    Attributes:
        cuts: of each source with whole documents, how many had to be cut.

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
        self._turns = open_turns(sets, weights)
        self._names = self._turns.names
        self._sets = [sets[name] for name in self._names]
        self._starts: list[Sequence[int] | NDArray[np.int64]] = []  # where each source's windows begin
        self.cuts: dict[str, Cuts] = {}
        for name, shards in zip(self._names, self._sets, strict=True):
            if whole_documents:
                starts, self.cuts[name] = whole_document_windows(shards, sequence_length)
                self._starts.append(starts)
            else:
                self._starts.append(range(0, shards.tokens_total, sequence_length))

    def counts(self, windows: int) -> dict[str, int]:
        """How many of the first `windows` windows come from each source."""
        return self._turns.counts(windows)

    def notes(self) -> Iterator[str]:
        """What a user should know of how documents are cut, one line for each source that it happens to."""
        for name, shards in zip(self._names, self._sets, strict=True):
            window = translated(f"of {self.sequence_length:,} tokens")
            if name not in self.cuts:
                if shards.masked:
                    yield (
                        f"{name}: windows {window} cut its conversations anywhere: "
                        "whole_documents: true keeps them whole"
                    )
                continue
            cuts = self.cuts[name]
            if cuts.documents:
                share = f"{cuts.documents:,} of {shards.documents_total:,} documents"
                inside = f", {cuts.turns:,} times inside what the assistant says" if cuts.turns else ""
                yield f"{name}: {share} are longer than a window {window} and are cut{inside}"

    def batch(self, first_window: int, size: int) -> Batch:
        """The windows `first_window` … `first_window + size - 1`."""
        if first_window < 0 or size < 0:
            raise ValueError(f"first_window and size must not be negative, got {first_window} and {size}")
        rows = Rows(size, self.sequence_length)
        for row in range(size):
            source, start, stop = self._place(first_window + row)
            rows.fill(row, 0, self._sets[source], start, stop)
        return rows.batch()

    def _place(self, window: int) -> tuple[int, int, int]:
        """The number of the source, and the range of its tokens, that a window holds."""
        source, count = self._turns.turn(window)
        starts = self._starts[source]
        epoch, index = divmod(count, len(starts))
        chosen = permuted(index, len(starts), self.seed, self._names[source], epoch)
        stop = starts[chosen + 1] if chosen + 1 < len(starts) else self._sets[source].tokens_total
        return source, int(starts[chosen]), int(stop)


def open_turns(sets: Mapping[str, ShardSet], weights: Mapping[str, float]) -> Turns:
    """The turns of the sources that have a weight.

    Raises:
        UserError: a source has no tokens, or its weight is negative, not a number, or too small beside the others.
    """
    chosen = {name: weights[name] for name in sets if weights[name] != 0}
    for name in chosen:
        if sets[name].tokens_total == 0:
            folder = sets[name].folder
            raise UserError(f"source {name} has no tokens: {folder}: give it text or take it out of the recipe")
    try:
        return Turns(chosen)
    except ValueError as error:
        raise UserError(f"the weights of the sources {', '.join(sets)} can't be used: {error}") from error


class Rows:
    """The arrays of a batch, [B, T], all of them padding, to be filled with pieces of shard sets."""

    def __init__(self, size: int, length: int) -> None:
        self._input_ids = np.full((size, length), PADDING, np.int64)
        self._targets = np.full((size, length), IGNORED, np.int64)
        self._reset = np.zeros((size, length), np.bool_)
        self._origin = np.zeros((size, 1), np.int64)  # the position of a row's first token where it is no reset

    def fill(self, row: int, column: int, shards: ShardSet, start: int, stop: int) -> None:
        """Writes the tokens from `start` up to `stop` into `row`, from `column` on."""
        length, following = stop - start, min(stop + 1, shards.tokens_total)
        tokens = shards.slice(start, following)  # [length], or one more where something follows
        self._input_ids[row, column : column + length] = tokens[:length]
        targets = self._targets[row, column : column + following - start - 1]
        targets[:] = tokens[1:]
        if shards.masked:
            targets[shards.mask_slice(start + 1, following) == 0] = IGNORED
        begins = shards.document_starts(start, following) - start
        targets[begins[begins > 0] - 1] = IGNORED
        self._reset[row, column + begins[begins < length]] = True

    def begin(self, row: int, column: int) -> None:
        """A reset where no document begins: what comes before `column` isn't what the document said before."""
        self._reset[row, column] = True

    def go_on(self, row: int, position: int) -> None:
        """The row's first token, if it isn't a reset, is at `position` and not at 0."""
        self._origin[row] = position

    def batch(self) -> Batch:
        """The batch as it has been filled."""
        steps = np.arange(self._reset.shape[1])
        last = np.maximum.accumulate(np.where(self._reset, steps, -self._origin), axis=1)  # [B, T]
        arrays = (self._input_ids, self._targets, self._reset, steps - last)
        return Batch(*(torch.from_numpy(values) for values in arrays))
