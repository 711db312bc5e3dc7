"""Finding documents that hold parts of a text that a model shall be measured on."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sioconv.data.cleaning.config import Decontaminate
from sioconv.data.cleaning.ngrams import compared, ngram_hashes, ngram_pieces
from sioconv.data.config import SourceConfig
from sioconv.data.sources.source import read_rows
from sioconv.errors import UserError


def overlap_finder(step: Decontaminate) -> Callable[[str], str | None]:
    """A function that says why a document overlaps the evaluation text, or None where it doesn't.

    Texts of fewer letters and digits than `step.ngram` can't be looked for.

    Raises UserError where the evaluation text can't be read, or all of its documents are that short.
    """
    hashes, items, totals = _index(step.path, step.text_column, step.ngram)

    def find(text: str) -> str | None:
        hits = [_common(np.unique(piece), hashes) for piece in ngram_pieces(compared(text), step.ngram)]
        found = np.unique(np.concatenate([np.empty(0, np.uint64), *hits]))
        if not len(found):
            return None
        if len(found) + step.ngram - 1 >= step.characters:
            return "overlaps the evaluation text"
        first, last = np.searchsorted(hashes, found, "left"), np.searchsorted(hashes, found, "right")
        touched = np.concatenate([items[low:high] for low, high in zip(first, last, strict=True)])
        numbers, counts = np.unique(touched, return_counts=True)
        return "holds an evaluation text" if np.any(counts >= step.share * totals[numbers]) else None

    return find


def _common(wanted: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Those of `wanted` that are among the ascending `hashes`."""
    places = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
    found: NDArray[np.uint64] = wanted[hashes[places] == wanted]
    return found


@lru_cache(maxsize=4)
def _index(path: str, text_column: str, ngram: int) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Ascending n-gram hashes of all evaluation documents, the document of each, and [documents] how many it has."""
    rows = read_rows(SourceConfig(path, text_column=text_column))
    parts = [np.unique(ngram_hashes(compared(row.text or ""), ngram)) for row in rows]
    totals = np.array([len(part) for part in parts], np.int64)
    if not totals.any():
        raise UserError(f"nothing to look for: {path}: its texts have under {ngram} letters: lower decontaminate.ngram")
    hashes, items = np.concatenate(parts), np.repeat(np.arange(len(parts)), totals)
    order = np.argsort(hashes, kind="stable")
    return hashes[order], items[order], totals
