"""The report's pictures, as SVG without a background, readable on white and on black.

Letters in them are ASCII only: no font with more is guaranteed on a user's machine.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito 2008, "Color Universal Design": told apart by colour-blind readers; without black and yellow, which
# vanish on one of the two backgrounds.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
MARKERS = "os^Dv*"
GREY = "#7d7d7d"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.color": GREY,
    "grid.linewidth": 0.6,
    "savefig.transparent": True,
    "svg.hashsalt": "sioconv",
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def loss_picture(metrics: Sequence[dict[str, Any]]) -> bytes:
    """Training loss above, held-out bits per byte of each source below, one column for each stage; over tokens."""
    stages = list(dict.fromkeys(row["stage"] for row in metrics))
    sources = list(dict.fromkeys(row["source"] for row in metrics if row["bpb"] is not None))
    with figure_of(9.5, 6) as figure:
        grid = figure.subplots(2, len(stages), squeeze=False, sharex="col", sharey="row")
        for column, stage in enumerate(stages):
            rows = [row for row in metrics if row["stage"] == stage]
            top, bottom = grid[0][column], grid[1][column]
            top.set_title(ascii_label(stage, f"stage {column + 1}"))
            bottom.set_xlabel("tokens (millions)")
            _line(top, [row for row in rows if row["split"] == "train"], "loss", COLOURS[0], "", None)
            for i, source in enumerate(sources):
                chosen = [row for row in rows if row["source"] == source and row["bpb"] is not None]
                name = ascii_label(source, f"source {i + 1}")
                _line(bottom, chosen, "bpb", COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], name)
            top.grid(True)
            bottom.grid(True)
        grid[0][0].set_ylabel("training loss (nats a token)")
        grid[1][0].set_ylabel("held-out bits a byte")
        if sources:
            handles, labels = grid[1][0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
        return _svg(figure)


def timescale_picture(layers: Sequence[Sequence[float]]) -> bytes:
    """A row for each layer, a dot for each head at the number of tokens after which it has forgotten all but 1/e."""
    with figure_of(9.5, 1.2 + 0.42 * len(layers)) as figure:
        axes = figure.subplots()
        for i, layer in enumerate(layers):
            place = [i + 1] * len(layer)
            axes.plot([min(layer), max(layer)], [i + 1, i + 1], color=GREY, linewidth=1, alpha=0.6, zorder=1)
            axes.scatter(
                layer, place, s=42, color=COLOURS[0], edgecolors=COLOURS[5], linewidths=0.8, alpha=0.8, zorder=2
            )
        axes.set_xscale("log")
        axes.set_yticks(range(1, len(layers) + 1))
        axes.set_ylim(len(layers) + 0.6, 0.4)  # the first layer on top
        axes.set_xlabel("timescale (tokens)")
        axes.set_ylabel("layer")
        axes.grid(True, axis="x")
        return _svg(figure)


def ascii_label(name: str, otherwise: str) -> str:
    """`name` where every letter is printable ASCII and none starts a formula, else `otherwise`."""
    return name if name.isascii() and name.isprintable() and "$" not in name and not name.startswith("_") else otherwise


def _line(axes: Axes, rows: Sequence[dict[str, Any]], key: str, colour: str, marker: str, label: str | None) -> None:
    axes.plot(
        [row["tokens"] / 1e6 for row in rows],
        [row[key] for row in rows],
        color=colour,
        marker=marker,
        markersize=4,
        label=label,
    )


@contextmanager
def figure_of(width: float, height: float) -> Iterator[Figure]:
    """A figure in the report's style, in inches; drawn without a display and known to no global state."""
    with mpl.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
