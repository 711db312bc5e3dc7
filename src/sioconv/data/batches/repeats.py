"""How often a budget reads each source: text that is read over four times teaches less than new text would."""

from collections.abc import Mapping

MOST_TIMES = 4.0  # up to here repeated text is nearly as good as new (Muennighoff et al. 2023, arXiv:2305.16264)
SHOWN = 3  # sources in the warning


def times_read(sizes: Mapping[str, int], weights: Mapping[str, float], tokens: int) -> dict[str, float]:
    """How often `tokens` tokens of a mixture read each source.

    Args:
        sizes: the tokens of each source.
        weights: their shares; need not add up to 1.
        tokens: the budget.
    """
    whole = sum(weights.values())
    return {name: tokens * weights[name] / whole / size for name, size in sizes.items() if size and whole}


def warning(times: Mapping[str, float]) -> str | None:
    """A line on the sources that are read too often, the worst first; None where there is none."""
    often = sorted((each for each in times.items() if each[1] > MOST_TIMES), key=lambda each: -each[1])
    if not often:
        return None
    named = ", ".join(f"{name} {count:,.1f}×" for name, count in often[:SHOWN])
    more = f" and {len(often) - SHOWN} more" if len(often) > SHOWN else ""
    return (
        f"warning: this budget reads some text over {MOST_TIMES:.0f} times: {named}{more}: "
        "add text, lower these weights or train on fewer tokens"
    )
