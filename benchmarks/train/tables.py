"""Results in words: Markdown tables, as they stand in docs/training.md."""

from collections.abc import Iterable

from rich import box
from rich.table import Table

from benchmarks.train.arms import DESCRIPTIONS
from benchmarks.train.measure import Result


def group_table(results: list[Result], title: str) -> Table:
    """One group: tokens a second, share of the limit and, against each arm's best dtype, how much faster ours is."""
    dtypes = list(dict.fromkeys(result.dtype for result in results))
    table = Table("", "parameters", box=box.MARKDOWN, title=title)
    for dtype in dtypes:
        table.add_column(f"tokens/s {dtype}", justify="right")
        table.add_column("of the limit", justify="right")
    table.add_column("ours / it, best dtypes", justify="right")
    for key in dict.fromkeys((result.arm, result.length) for result in results):
        own = {result.dtype: result for result in results if (result.arm, result.length) == key}
        row = [_name(key, results), f"{next(iter(own.values())).parameters:,}"]
        for dtype in dtypes:
            result = own.get(dtype)
            row += [f"{result.tokens_per_second:,.0f}", f"{result.utilisation:.0%}"] if result else ["–", "–"]
        ours = fastest(result for result in results if result.arm == "sioconv" and result.length == key[1])
        best = fastest(own.values())
        table.add_row(*row, f"{ours.tokens_per_second / best.tokens_per_second:.2f}" if ours and best else "")
    return table


def _name(key: tuple[str, int], results: list[Result]) -> str:
    several = len({result.length for result in results}) > 1
    return DESCRIPTIONS[key[0]] + (f", T = {key[1]:,}" if several else "")


def fastest(results: Iterable[Result]) -> Result | None:
    """The one with the most tokens a second."""
    return max(results, key=lambda result: result.tokens_per_second, default=None)


def time_table(title: str, times: dict[str, dict[str, float]]) -> Table:
    """Microseconds a token and their shares: a row a kind, a column a case."""
    table = Table(title, box=box.MARKDOWN)
    for name in times:
        table.add_column(name, justify="right")
    for kind in dict.fromkeys(kind for column in times.values() for kind in column):
        row = [(column.get(kind, 0.0), sum(column.values())) for column in times.values()]
        table.add_row(kind, *(f"{value:.1f}, {value / total:.1%}" for value, total in row))
    table.add_row("all", *(f"{sum(column.values()):.1f}" for column in times.values()))
    return table
