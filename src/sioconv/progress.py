"""Progress of long work on the terminal: a bar with rate and time left, or plain lines where there is no terminal."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from sioconv.terminal import drop_output, visible

T = TypeVar("T")


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


def say(message: str) -> None:
    """One line to stderr, apart from what a command prints as its result; nothing in it commands a terminal.

    Work goes on where nobody can read it any more: the terminal has gone, the log's disk is full.
    """
    try:
        console.print(visible(message), markup=False, soft_wrap=True)
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
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        if size is None:
            yield from bar.track(items, total=total, description=visible(description))
            return
        task = bar.add_task(visible(description), total=total)
        for item in items:
            yield item
            bar.advance(task, size(item))
