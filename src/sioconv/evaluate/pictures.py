"""The report's pictures, as SVG without a background, readable on white and on black.

Letters in them are ASCII only, except in Japanese, where they are text that the reader's own fonts show.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from sioconv.language import language, translated

# Okabe & Ito 2008, "Color Universal Design": told apart by colour-blind readers; without black and yellow, which
# vanish on one of the two backgrounds.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
MARKERS = "os^Dv*"
NARROW = 4.2  # inches, of a picture for a telephone
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


def loss_picture(metrics: Sequence[dict[str, Any]], narrow: bool = False) -> bytes:
    """Training loss above, held-out bits per byte of each source below, one column for each stage; over tokens.

    Args:
        metrics: rows of metrics.jsonl.
        narrow: for a telephone: all below each other.
    """
    stages = list(dict.fromkeys(row["stage"] for row in metrics))
    sources = list(dict.fromkeys(row["source"] for row in metrics if row["bpb"] is not None))
    width, height = (NARROW, 5.2 * len(stages)) if narrow else (9.5, 6)
    with figure_of(width, height, in_words=True) as figure:
        grid = _grid(figure, len(stages), narrow)
        for column, stage in enumerate(stages):
            rows = [row for row in metrics if row["stage"] == stage]
            top, bottom = grid[column]
            top.set_title(_label(stage, f"stage {column + 1}"))
            bottom.set_xlabel(translated("tokens (millions)"))
            _line(top, [row for row in rows if row["split"] == "train"], "loss", COLOURS[0], "", None)
            for i, source in enumerate(sources):
                chosen = [row for row in rows if row["source"] == source and row["bpb"] is not None]
                name = _label(source, f"source {i + 1}")
                _line(bottom, chosen, "bpb", COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], name)
            top.grid(True)
            bottom.grid(True)
            if narrow or column == 0:
                top.set_ylabel(translated("training loss (nats a token)"))
                bottom.set_ylabel(translated("held-out bits a byte"))
        if sources:
            handles, labels = grid[0][1].get_legend_handles_labels()
            ncols = min(2 if narrow else 6, len(labels))
            figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False)
        return as_svg(figure)


def _grid(figure: Figure, stages: int, narrow: bool) -> list[tuple[Axes, Axes]]:
    """Two axes for each stage, the loss and the bits per byte; both scales are the same in all stages."""
    if narrow:
        axes = figure.subplots(2 * stages, 1, squeeze=False)[:, 0]
        return [(axes[2 * stage], axes[2 * stage + 1]) for stage in range(stages)]
    grid = figure.subplots(2, stages, squeeze=False, sharex="col", sharey="row")
    return [(grid[0][stage], grid[1][stage]) for stage in range(stages)]


def timescale_picture(layers: Sequence[Sequence[float]], window: int | None = None, narrow: bool = False) -> bytes:
    """A row for each layer, a dot for each head at the number of tokens after which it has forgotten all but 1/e.

    Args:
        layers: [layer][head], in tokens.
        window: of training, as a line.
        narrow: for a telephone.
    """
    with figure_of(NARROW if narrow else 9.5, 1.2 + 0.42 * len(layers), in_words=True) as figure:
        axes = figure.subplots()
        for i, layer in enumerate(layers):
            place = [i + 1] * len(layer)
            axes.plot([min(layer), max(layer)], [i + 1, i + 1], color=GREY, linewidth=1, alpha=0.6, zorder=1)
            axes.scatter(
                layer, place, s=42, color=COLOURS[0], edgecolors=COLOURS[5], linewidths=0.8, alpha=0.8, zorder=2
            )
        if window is not None:
            axes.axvline(window, color=COLOURS[3], linewidth=1.2, linestyle="--", zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(range(1, len(layers) + 1))
        axes.set_ylim(len(layers) + 0.6, 0.4)  # the first layer on top
        axes.set_xlabel(translated("timescale (tokens)"))
        axes.set_ylabel(translated("layer"))
        axes.grid(True, axis="x")
        return as_svg(figure)


def _label(name: str, otherwise: str) -> str:
    """What a stage or source is called in a picture: in Japanese pictures letters are text, in others outlines."""
    if language() == "ja":
        return translated(name).replace("$", r"\$").lstrip("_") if name.isprintable() else translated(otherwise)
    return ascii_label(name, otherwise)


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
def figure_of(width: float, height: float, in_words: bool = False) -> Iterator[Figure]:
    """A figure in the report's style, in inches; drawn without a display and known to no global state.

    `in_words` says that its words are in the user's language.
    """
    # No font with Japanese letters is guaranteed where the picture is drawn; where it is looked at there is one.
    as_text = {"svg.fonttype": "none", "font.family": ["sans-serif"]} if in_words and language() == "ja" else {}
    with mpl.rc_context(STYLE | as_text), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield Figure(figsize=(width, height), layout="constrained")


def as_svg(figure: Figure) -> bytes:
    """The figure's file, the same bytes each time."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
