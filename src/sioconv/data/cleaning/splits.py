"""The documents of a source as its cleaning leaves them, and the two sides that they are on."""

from collections.abc import Iterator
from typing import Any, get_args

from sioconv.data.cleaning.cleaner import Cleaner
from sioconv.data.config import SourceConfig
from sioconv.data.documents import Row, Split, split_of
from sioconv.data.report import account_of
from sioconv.data.sources.source import read_rows
from sioconv.data.tally import Tally


def read_clean(source: SourceConfig, *, strict: bool = False, tallies: list[Tally] | None = None) -> Iterator[Row]:
    """The rows of a source in order, as its cleaning leaves them one by one. Duplicates aren't looked for.

    Args:
        source: what to read.
        strict: raise at the first row that can't be used, instead of passing it over.
        tallies: gets what became of the rows: the tally of reading, then one for each step that drops something.

    Raises:
        UserError: a file that can't be read; with `strict`, a row.
    """
    cleaner = Cleaner(source.cleaning, source.language)
    reading = Tally("read", strict=strict)
    if tallies is not None:
        tallies += [reading, *cleaner.tallies]
    for row in read_rows(source, tally=reading):
        cleaned = cleaner.clean(row)
        if cleaned is not None:
            yield cleaned


def read_split(source: SourceConfig, split: Split, heldout: float, *, strict: bool = False) -> Iterator[Row]:
    """The rows of `read_clean` that belong to `split`; `heldout` is the share of sources that don't say their own."""
    share = source.heldout_or(heldout)
    return (row for row in read_clean(source, strict=strict) if split_of(row, share) == split)


def account_of_source(name: str, source: SourceConfig, heldout: float) -> dict[str, Any]:
    """What becomes of a source's rows, as `account.account_of` has it, duplicates aside; reads all of it."""
    tallies: list[Tally] = []
    documents = dict.fromkeys(get_args(Split), 0)
    for row in read_clean(source, tallies=tallies):
        documents[split_of(row, source.heldout_or(heldout))] += 1
    return account_of(name, tallies, None, documents)
