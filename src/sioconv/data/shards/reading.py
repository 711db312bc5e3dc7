"""The first step of every pipeline: a task's documents in order, cleaned, with an account of what was left out."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import compress
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from sioconv.data.cleaning.cleaner import Cleaner, excerpt
from sioconv.data.cleaning.dedup import KINDS, DuplicateFilter
from sioconv.data.config import SourceConfig
from sioconv.data.documents import Row, split_of
from sioconv.data.sources.source import read_rows
from sioconv.data.tally import EXAMPLES, Counted, Tally, as_json, from_json, merged
from sioconv.files import atomic_write
from sioconv.progress import track


class DocumentReader(PipelineStep):  # type: ignore[misc]
    """Reads and cleans a task's rows; a document's metadata holds its `split` and, for conversations, its `messages`.

    Args:
        source: what to read, and the steps of its cleaning.
        heldout: share of documents held out.
        strict: raise at the first row that can't be used instead of counting it.
        label: what the progress of the work is called.
        accounts: folder that gets `TASK.json`, what became of the rows, and with an id column `TASK.ids`.
        compared: the folders where `SignatureWriter` and `DuplicateFinder` have written; None drops no duplicates.
    """

    name, type = "Documents", "Reader"

    def __init__(
        self,
        source: SourceConfig,
        heldout: float,
        strict: bool,
        label: str,
        accounts: Path,
        compared: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__()
        self.source, self.heldout, self.strict, self.label = source, heldout, strict, label
        self.accounts, self.compared = accounts, compared

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yields the documents of task `rank`. Raises UserError for what can't be read, or may not be left out."""
        tally = Tally("read", strict=self.strict)
        cleaner = Cleaner(self.source.cleaning, self.source.language)
        repeated = DuplicateFilter(*self.compared, rank) if self.compared else None
        found = [Tally(kind) for kind in KINDS if repeated and getattr(self.source.cleaning, kind)]
        rows: Iterable[Row] = read_rows(self.source, rank=rank, world_size=world_size, tally=tally)
        if parent_process() is None:  # in a worker the bars of several tasks would write over each other
            rows = track(rows, self.label if world_size == 1 else f"{self.label} {rank + 1}/{world_size}")
        with _id_file(self.accounts, rank, self.source.id_column) as note_id:
            number = 0  # among the documents that are compared
            for row in rows:
                note_id(row)
                cleaned = cleaner.clean(row)
                if cleaned is None:
                    continue
                if repeated is None or not _is_dropped(cleaned, number, repeated, found):
                    yield self._document(cleaned)
                number += 1
        with atomic_write(self.accounts / f"{rank:05d}.json") as temporary:
            accounts = [as_json(part) for part in (tally, *cleaner.tallies, *found)]
            temporary.write_text(json.dumps(accounts, ensure_ascii=False), encoding="utf-8")

    def _document(self, row: Row) -> Document:
        metadata: dict[str, Any] = {"split": split_of(row, self.heldout)}
        if row.messages is not None:
            metadata["messages"] = row.messages
        return Document(text="\n".join(row.texts), id=row.id, metadata=metadata)


def read_accounts(folder: Path, tasks: int) -> list[Tally]:
    """What became of all rows: the tally of reading, then one for each step, over all tasks."""
    texts = [(folder / f"{task:05d}.json").read_text(encoding="utf-8") for task in range(tasks)]
    parts = [[from_json(values) for values in json.loads(text)] for text in texts]
    return [merged(step) for step in zip(*parts, strict=True)]


def repeated_ids(folder: Path, tasks: int) -> Counted:
    """Ids that documents of any tasks share: how many documents have one that has come before, and examples.

    Needs some 24 bytes of memory a document.
    """
    files = [folder / f"{task:05d}.ids" for task in range(tasks)]
    hashes = [np.fromiter((int(line[:16], 16) for line in _lines(file)), np.uint64) for file in files]
    together = np.concatenate(hashes)
    again = np.ones(len(together), np.bool_)
    again[np.unique(together, return_index=True)[1]] = False  # the first place of each id
    found = Counted()
    lines = (line for file in files for line in _lines(file))
    for line in compress(lines, again):
        found.add(*json.loads(line[16:]))
        if len(found.examples) == EXAMPLES:
            break
    found.count = int(np.count_nonzero(again))
    return found


@contextmanager
def _id_file(folder: Path, rank: int, column: str | None) -> Iterator[Callable[[Row], None]]:
    """Yields a function that notes a row's id and where it stands; the file appears when all is written."""
    if column is None:
        yield lambda _: None
        return
    with atomic_write(folder / f"{rank:05d}.ids") as temporary, temporary.open("w", encoding="utf-8") as stream:

        def note(row: Row) -> None:
            identity = row.extra.get(column)
            if identity is not None:
                key = hashlib.blake2b(repr(identity).encode(), digest_size=8).hexdigest()
                stream.write(key + json.dumps([row.id, str(identity)]) + "\n")

        yield note


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as stream:
        yield from stream


def _is_dropped(row: Row, number: int, repeated: DuplicateFilter, tallies: list[Tally]) -> bool:
    """Whether a document repeats another; counts it as seen by the steps up to the one that drops it."""
    kind = repeated.kind(number)
    for tally in tallies:
        tally.seen += 1
        if kind == tally.name:
            enough = tally.left_out_total >= EXAMPLES
            what = "" if enough else f"repeats {repeated.repeats(number)}: {excerpt(row.text or '')}"
            tally.drop("repeats another document", row.id, what)
            return True
    return False
