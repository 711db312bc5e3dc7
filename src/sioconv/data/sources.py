"""The documents of a source as its cleaning leaves them, and the two sides that they are on."""

from collections.abc import Iterator

from sioconv.data.cleaning import Cleaner
from sioconv.data.config import SourceConfig
from sioconv.data.rows import ROLES, Row, Split, split_of
from sioconv.data.source_rows import IDENTITY, read_rows, resolve
from sioconv.data.tally import Tally

__all__ = ["IDENTITY", "ROLES", "Row", "Split", "read_clean", "read_rows", "read_split", "resolve", "split_of"]


def read_clean(source: SourceConfig) -> Iterator[Row]:
    """The rows of a source in order, as its cleaning leaves them one by one.

    Rows that can't be used are passed over: `sioconv data` counts and reports them. Duplicates aren't looked for.
    """
    cleaner = Cleaner(source.cleaning, source.language)
    for row in read_rows(source, tally=Tally("read")):
        cleaned = cleaner.clean(row)
        if cleaned is not None:
            yield cleaned


def read_split(source: SourceConfig, split: Split, heldout: float) -> Iterator[Row]:
    """The rows of `read_clean` that belong to `split`."""
    return (row for row in read_clean(source) if split_of(row, heldout) == split)
