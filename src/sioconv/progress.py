"""Progress of long work on the terminal: a bar with rate and time left, or plain lines where there is no terminal."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from sioconv.language import columns, translated
from sioconv.terminal import drop_output, in_lines, visible

T = TypeVar("T")
NARROW, WIDE = 80, 110  # columns from which there is a short bar, and a long one
BARS = (0, 10, 24)  # its columns


class _Console(Console):
    """rich's, but whoever reads it may go: work goes on where rich would end the program."""

    def on_broken_pipe(self) -> None:
        drop_output(2)


console = _Console(stderr=True, highlight=False, emoji=False)


class RateColumn(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        """The rate as text, a dash while it is unknown."""
        speed = task.finished_speed or task.speed
        return Text("–/s" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s")


def share_and_time() -> tuple[ProgressColumn, ...]:
    """What stands first on every line of progress, with as long a bar as the terminal has room for."""
    bar = (BarColumn(_bar_width()),) if _bar_width() else ()
    return TextColumn("{task.description}", markup=False), TaskProgressColumn(), TimeRemainingColumn(), *bar


def _bar_width() -> int:
    return BARS[(console.width >= NARROW) + (console.width >= WIDE)]


def room_beside(description: str) -> int:
    """Columns that are free behind `share_and_time`: it takes the description, 4, 7 and the bar, with spaces."""
    return console.width - columns(description) - 1 - 4 - 1 - 7 - 1 - (_bar_width() + 1 if _bar_width() else 0)


def fitting(parts: Sequence[str], room: int) -> str:
    """As many of the parts, from the first, as so many columns hold; the first one alone is cut."""
    kept = ""
    for part in parts:
        longer = f"{kept} · {part}" if kept else part
        if columns(longer) > room:
            break
        kept = longer
    return kept or (parts[0].partition(" (")[0][: max(0, room)] if parts else "")


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Shows on a terminal that something is being done whose length isn't known."""
    if not sys.stderr.isatty():
        yield
        return
    with console.status(visible(translated(what))):
        yield


def say(message: str) -> None:
    """One line to stderr, apart from what a command prints as its result; nothing in it commands a terminal.

    Work goes on where nobody can read it any more: the terminal has gone, the log's disk is full.
    """
    try:
        console.print(in_lines(visible(translated(message)), sys.stderr), markup=False, soft_wrap=True)
    except OSError:
        drop_output(2)


def track(
    items: Iterable[T], description: str, total: int | None = None, size: Callable[[T], int] | None = None
) -> Iterator[T]:
    """Yields `items` and shows how far along they are.

    On a terminal it is a bar with rate and time left; elsewhere one line at the end of work that took over two seconds.

    Args:
        items: what is worked on.
        description: the work.
        total: the sum of their sizes, where it is known.
        size: what an item counts; 1 without it.
    """
    description = translated(description)
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not sys.stderr.isatty():
        start, count = time.monotonic(), 0
        for item in items:
            yield item
            count += 1 if size is None else size(item)
        if (seconds := time.monotonic() - start) > 2:
            say(f"{description}: {count:,} in {seconds:.0f} s")
        return
    amounts = () if console.width < NARROW else (MofNCompleteColumn(), RateColumn())
    with Progress(*share_and_time(), *amounts, console=console, transient=True) as bar:
        if size is None:
            yield from bar.track(items, total=total, description=visible(description))
            return
        task = bar.add_task(visible(description), total=total)
        for item in items:
            yield item
            bar.advance(task, size(item))
