"""Learning curves and timescales of several runs, as SVG and PNG."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sioconv.evaluate.comparison.figures import RunFigures
from sioconv.evaluate.pictures import COLOURS, GREY, MARKERS, NARROW, as_svg, ascii_label, figure_of

DASHES = ("-", "--", ":", "-.")  # of runs that share a colour
DOTS = 150  # of a PNG, an inch


def curves(runs: Sequence[RunFigures], narrow: bool = False) -> dict[str, bytes]:
    """Training loss, and held-out bits per byte where they were measured, against tokens and against minutes.

    Args:
        runs: the first six have colours of their own, in the order of the tables; later ones are dashed or dotted.
        narrow: for a telephone: one picture below the other, each as wide.

    Returns:
        `{"svg": …, "png": …}`.
    """
    heldout = any(row["bpb"] is not None for run in runs for row in run.metrics)
    ways = [(split, over) for split in (("train", "heldout") if heldout else ("train",)) for over in ("tokens", "time")]
    columns = 1 if narrow else 2
    rows = -(-len(ways) // columns)
    with figure_of(NARROW if narrow else 9.5, 2.9 * rows + 0.5) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, (split, over) in zip(grid, ways, strict=True):
            for i, run in enumerate(runs):
                _curve(axes, run, i, split, over)
            axes.set_xlabel("tokens (millions)" if over == "tokens" else "minutes of training")
            axes.set_ylabel("training loss (nats a token)" if split == "train" else "held-out bits a byte")
            axes.grid(True)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=1 if narrow else 3, frameon=False)
        return _as_bytes(figure)


def _curve(axes: Axes, run: RunFigures, number: int, split: str, over: str) -> None:
    """A run's rows; of held-out text the mean over the sources that were measured at a step."""
    if split == "train":
        points = [(row, row["loss"]) for row in run.metrics if row["split"] == "train"]
    else:
        steps: dict[int, dict[str, float]] = {}
        last = {}
        for row in run.metrics:
            if row["bpb"] is not None:
                steps.setdefault(row["step"], {})[row["source"]] = row["bpb"]
                last[row["step"]] = row
        # A run that was killed in between has only some of the sources at its last step: no mean of the same text.
        most = max(map(len, steps.values()), default=0)
        points = [(last[step], sum(values.values()) / most) for step, values in steps.items() if len(values) == most]
    axes.plot(
        [row["tokens"] / 1e6 if over == "tokens" else row["seconds"] / 60 for row, _ in points],
        [value for _, value in points],
        color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[number % len(MARKERS)] if split == "heldout" else "",
        markersize=4,
        linewidth=1.2,
        linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
        label=ascii_label(run.name, f"run {number + 1}"),
    )


def remembered(runs: Sequence[RunFigures], narrow: bool = False) -> dict[str, bytes]:
    """A row for each layer of each run, a dot for each head at the tokens after which it has forgotten all but 1/e."""
    shown = [(number, run) for number, run in enumerate(runs) if run.timescales]
    lines = sum(len(run.timescales) for _, run in shown)
    with figure_of(NARROW if narrow else 9.5, 1.2 + 0.3 * lines) as figure:
        axes, place, labels = figure.subplots(), 0, []
        for number, run in shown:
            for layer, heads in enumerate(run.timescales):
                place += 1
                labels.append(
                    f"{ascii_label(run.name, f'run {number + 1}')}: {layer + 1}" if not layer else str(layer + 1)
                )
                axes.plot([min(heads), max(heads)], [place, place], color=GREY, linewidth=1, alpha=0.6, zorder=1)
                axes.scatter(heads, [place] * len(heads), s=36, color=COLOURS[number % len(COLOURS)], zorder=2)
        axes.set_xscale("log")
        axes.set_yticks(range(1, place + 1), labels)
        axes.set_ylim(place + 0.6, 0.4)  # the first layer on top
        axes.set_xlabel("timescale (tokens)")
        axes.grid(True, axis="x")
        return _as_bytes(figure)


def _as_bytes(figure: Figure) -> dict[str, bytes]:
    stream = io.BytesIO()
    # White behind a PNG: who looks at it alone may have a dark background.
    figure.savefig(
        stream, format="png", metadata={"Software": None}, dpi=DOTS, transparent=False, facecolor="white"
    )  # fmt: skip
    return {"svg": as_svg(figure), "png": stream.getvalue()}
