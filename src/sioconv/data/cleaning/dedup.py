"""Documents that come twice, exactly or nearly: signatures, then what they say together, then a filter.

What is the same as a document before it, or as one that is, is dropped: a function of the documents, their order and
the number of tasks.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from sioconv.data.cleaning.config import Cleaning
from sioconv.data.cleaning.minhash import Minima, earliest, equal_pairs, near_pairs, signature
from sioconv.files import atomic_write

PLACES = ".places"
DIGEST = 16  # bytes of a document's checksum
KINDS = ("duplicates", "near_duplicates")
DROPPED = np.dtype([("place", "<i8"), ("kind", "u1"), ("task", "<i8"), ("original", "<i8")])


def digest(text: str) -> bytes:
    """A checksum of the text, by which exact duplicates are found."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST).digest()


class SignatureWriter(PipelineStep):  # type: ignore[misc]
    """Writes what a task's documents are compared by.

    Args:
        folder: gets `RANK.digests`, `RANK.minima` and `RANK.places`, one entry for each document.
        cleaning: says which of them are needed.
    """

    name, type = "Signatures", "Dedup"

    def __init__(self, folder: Path, cleaning: Cleaning) -> None:
        super().__init__()
        self.folder, self.cleaning = folder, cleaning

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:  # noqa: ARG002
        """Writes the files of task `rank`. Raises UserError when the disk is full."""
        near = self.cleaning.near_duplicates
        with (
            atomic_write(self.folder / f"{rank:05d}.digests") as digests,
            atomic_write(self.folder / f"{rank:05d}.minima") as minima,
            atomic_write(self.folder / f"{rank:05d}{PLACES}") as places,
            digests.open("wb") as digest_stream,
            minima.open("wb") as minima_stream,
            places.open("w", encoding="utf-8") as place_stream,
        ):
            for document in data:
                digest_stream.write(digest(document.text))
                place_stream.write(json.dumps(document.id) + "\n")
                if near is not None:
                    minima_stream.write(signature(document.text, near.shingle).tobytes())


class DuplicateFinder(PipelineStep):  # type: ignore[misc]
    """Compares the signatures of all tasks and writes which documents each of them drops; one task does it.

    Needs some 100 bytes of memory a document.

    Args:
        signatures: what `SignatureWriter` has written.
        folder: gets `TASK.npy`, a structured array: place among the task's documents, kind, task and place of the
            document that it repeats.
        tasks: how many have written signatures.
        cleaning: what counts as the same.
    """

    name, type = "Duplicates", "Dedup"

    def __init__(self, signatures: Path, folder: Path, tasks: int, cleaning: Cleaning) -> None:
        super().__init__()
        self.signatures, self.folder, self.tasks, self.cleaning = signatures, folder, tasks, cleaning

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[None]:  # noqa: ARG002
        """Writes the files of all tasks. Raises UserError when the disk is full."""
        digests = [np.fromfile(self.signatures / f"{task:05d}.digests", f"V{DIGEST}") for task in range(self.tasks)]
        first = np.concatenate([[0], np.cumsum([len(part) for part in digests])])  # [tasks + 1]
        pairs = equal_pairs(np.concatenate(digests)) if self.cleaning.duplicates else np.empty((0, 2), np.int64)
        original = earliest(int(first[-1]), pairs)  # [documents]
        kinds = np.zeros(len(original), np.uint8)
        if near := self.cleaning.near_duplicates:
            minima = Minima([self.signatures / f"{task:05d}.minima" for task in range(self.tasks)], first)
            exact = original != np.arange(len(original))
            pairs = np.concatenate([pairs, near_pairs(minima, near)])
            original = earliest(len(original), pairs)
            kinds[~exact] = KINDS.index("near_duplicates")
        for task in range(self.tasks):
            low, high = int(first[task]), int(first[task + 1])
            places = np.flatnonzero(original[low:high] != np.arange(low, high))
            dropped = np.empty(len(places), DROPPED)
            owner = np.searchsorted(first, original[low + places], "right") - 1
            dropped["place"], dropped["kind"] = places, kinds[low + places]
            dropped["task"], dropped["original"] = owner, original[low + places] - first[owner]
            with atomic_write(self.folder / f"{task:05d}.npy") as temporary, temporary.open("wb") as stream:
                np.save(stream, dropped, allow_pickle=False)
        return iter(())


class DuplicateFilter:
    """Which documents of a task `DuplicateFinder` drops.

    Args:
        signatures: what `SignatureWriter` has written.
        folder: where `DuplicateFinder` has written.
        rank: the task.
    """

    def __init__(self, signatures: Path, folder: Path, rank: int) -> None:
        dropped = np.load(folder / f"{rank:05d}.npy", allow_pickle=False).tolist()
        self._dropped = {place: (KINDS[kind], task, original) for place, kind, task, original in dropped}
        self._signatures = signatures

    def kind(self, number: int) -> str | None:
        """Which of `KINDS` the document `number` of the task is; None where it is kept."""
        return self._dropped[number][0] if number in self._dropped else None

    def repeats(self, number: int) -> str:
        """Where the document stands that a dropped document repeats; looks it up in a file, so only for examples."""
        _, task, original = self._dropped[number]
        with (self._signatures / f"{task:05d}{PLACES}").open(encoding="utf-8") as stream:
            return str(json.loads(next(islice(stream, original, None))))
