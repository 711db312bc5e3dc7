"""The text that a tokenizer is trained and measured on: a sample of all sources, each by its weight."""

import hashlib
import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sioconv.data.cleaning.splits import read_clean
from sioconv.data.config import DataConfig, SourceConfig
from sioconv.data.documents import Split, split_of
from sioconv.data.report import account_of, refuse_bad_rows
from sioconv.data.tally import Tally
from sioconv.progress import track

PIECE = 10_000  # characters; longer documents are sampled in pieces, so that no single one decides
REACH = 200  # of a source's text, at most so many times its budget is read
MEASURED = 0.25  # bytes of held-out text that a tokenizer is measured on, for each byte that it is trained on


@dataclass(frozen=True)
class Sample:
    """Text of one source.

    Args:
        language: language tag of the source.
        templated: whether it is generated from facts, and left out of its language's figures.
        train: pieces of its training documents.
        heldout: pieces of its held-out documents, none where nothing is held out.
        statistics: what became of the rows that were read, as `account.account_of` has it.
    """

    language: str
    templated: bool
    train: list[str]
    heldout: list[str]
    statistics: Mapping[str, Any] = field(default_factory=dict)


def tokenizer_samples(data: DataConfig, sample_bytes: int) -> dict[str, Sample]:
    """Samples of all sources that have a weight, each as large as its share of `sample_bytes`.

    A sample is spread over its whole source (the first `REACH` times its size, where the source is larger still) and
    depends on the text alone, not on its order or the files that it is in.

    Raises UserError for a source that can't be read, or has more unusable rows than `data` allows.
    """
    whole = sum(source.weight for source in data.sources.values())
    return {
        name: _sample(name, source, data, sample_bytes * source.weight / whole)
        for name, source in data.sources.items()
        if source.weight
    }


def _sample(name: str, source: SourceConfig, data: DataConfig, budget: float) -> Sample:
    chosen: Mapping[Split, _Smallest] = {"train": _Smallest(budget), "heldout": _Smallest(budget * MEASURED)}
    documents: dict[str, int] = dict.fromkeys(chosen, 0)
    tallies: list[Tally] = []
    read = 0
    for row in track(read_clean(source, strict=data.strict, tallies=tallies), f"tokenizer sample {name}"):
        split = split_of(row, source.heldout_or(data.heldout))
        documents[split] += 1
        for text in row.texts:
            for piece in pieces(text):
                read += chosen[split].offer(piece)
        if read >= REACH * budget:
            break
    statistics = account_of(name, tallies, None, documents)
    if read < REACH * budget:  # of a part of the source nobody knows how many there are in all of it
        refuse_bad_rows(statistics, data.strict, data.max_bad_rows)
    return Sample(source.language, source.templated, chosen["train"].pieces(), chosen["heldout"].pieces(), statistics)


def pieces(text: str, size: int = PIECE) -> Iterator[str]:
    """A text in pieces of at most `size` characters, cut at ends of lines where there are any."""
    start = 0
    while len(text) - start > size:
        end = text.rfind("\n", start, start + size) + 1
        if end <= start:
            end = start + size
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


@dataclass
class _Smallest:
    """Of all pieces offered, those with the smallest hashes: as many as it takes to have `budget` bytes."""

    budget: float
    _heap: list[tuple[int, int, str]] = field(default_factory=list)  # (minus the hash, bytes, piece)
    _total: int = 0

    def offer(self, piece: str) -> int:
        """Keeps a piece or lets it go; returns its bytes."""
        data = piece.encode()
        key = -int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        if self._total < self.budget or (self._heap and key > self._heap[0][0]):
            heapq.heappush(self._heap, (key, len(data), piece))
            self._total += len(data)
            while self._heap and self._total - self._heap[0][1] >= self.budget:
                self._total -= heapq.heappop(self._heap)[1]
        return len(data)

    def pieces(self) -> list[str]:
        """The pieces, in the order of their hashes."""
        return [piece for _, _, piece in sorted(self._heap, reverse=True)]
