"""Results in words: one table for each batch size and pass, Markdown as it stands."""

from rich import box
from rich.table import Table

from benchmarks.story.measure import Result, longest_that_fits
from benchmarks.story.steps import STEPS


def result_table(results: list[Result], lengths: list[int], budget: int, limit: float) -> Table:
    """Steps by lengths; `results` are those of one batch size and pass, in the order of `measure`."""
    table = Table("", box=box.MARKDOWN)
    for length in lengths:
        table.add_column(f"T = {length:,}", justify="right")
    table.add_column(f"T that fills {in_bytes(budget)}", justify="right")
    for step in STEPS:
        own = [result for result in results if result.step == step]
        fits = longest_that_fits(own, budget)
        table.add_row(STEPS[step].name, *(_cell(result, limit) for result in own), "" if fits is None else _round(fits))
    return table


def _cell(result: Result, limit: float) -> str:
    if result.seconds is None or result.peak_bytes is None:
        return "doesn't fit" if result.outcome == "memory" else f"> {limit:g} s"
    return f"{_seconds(result.seconds)}, {in_bytes(result.peak_bytes)}"


def _seconds(value: float) -> str:
    if value >= 0.9995:
        return f"{value:.3g} s"
    return f"{value * 1000:.2g} ms" if value < 0.00995 else f"{value * 1000:.0f} ms"


def in_bytes(value: int) -> str:
    """MiB or GiB in words."""
    if value < 2**20:
        return "< 1 MiB"
    return f"{value / 2**20:.0f} MiB" if value < 2**30 else f"{value / 2**30:.3g} GiB"


def _round(length: int) -> str:
    """Two digits: an estimate has no more."""
    return f"{int(float(f'{length:.1e}')):,}"
