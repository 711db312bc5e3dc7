"""Texts by their size in UTF-8 bytes: the first of them, and batches of them."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def text_size(text: str) -> int:
    """UTF-8 bytes of a text."""
    return len(text.encode())


def at_least(texts: Iterable[str], size: int) -> Iterator[str]:
    """The first texts, until they have `size` bytes: the one that reaches it is the last."""
    total = 0
    for text in texts:
        yield text
        total += text_size(text)
        if total >= size:
            return


def at_most(texts: Iterable[str], size: int | None) -> list[str]:
    """The first texts that together have at most `size` bytes; at least one, whatever its size. None takes all."""
    chosen: list[str] = []
    total = 0
    for text in texts:
        total += text_size(text)
        if size is not None and chosen and total > size:
            break
        chosen.append(text)
    return chosen


def batches(items: Iterable[Item], size: int, size_of: Callable[[Item], int]) -> Iterator[list[Item]]:
    """The items in lists that end where they have `size` bytes or more, as `size_of` measures one."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size_of(item)
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
