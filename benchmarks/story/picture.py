"""The picture: time and peak memory of forward + backward against the length."""

import io
import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.story.measure import Result
from benchmarks.story.steps import STEPS
from benchmarks.story.tables import in_bytes
from sioconv.evaluate.pictures import COLOURS, GREY, STYLE

BLUE, ORANGE, GREEN, RED, PINK, SKY = COLOURS
LOOKS = {  # colour and marker; the last step's line is thick
    "lstm": (RED, "o"),
    "input_gated": (ORANGE, "s"),
    "equation": (PINK, "^"),
    "matrix_channel": (GREEN, "D"),
    "matrix_head": (SKY, "v"),
    "scan": (BLUE, "*"),
    "attention": (GREY, "P"),
}
GAP = 0.075  # between two labels, in parts of a panel's height
Line = tuple[str, list[int], list[float], bool]  # step, lengths, values, whether the next length doesn't fit


def draw(results: Sequence[Result], budget: int, limit: float, kind: str) -> bytes:
    """An SVG or PNG: a column for each batch size, time above, memory below. Letters are ASCII only."""
    batches = sorted({result.batch for result in results})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.2 + 4 * len(batches), 7), layout="constrained")
        panels = figure.subplots(2, len(batches), squeeze=False, sharex=True, sharey="row")
        for column, batch in enumerate(batches):
            chosen = [result for result in results if result.batch == batch and result.training]
            panels[0][column].set_title(f"batch {batch}, forward + backward")
            panels[1][column].set_xlabel("length T")
            _panel(panels[0][column], [_line(step, chosen, "seconds", 1) for step in STEPS], limit, f"{limit:g} s")
            lines = [_line(step, chosen, "peak_bytes", 2**20) for step in STEPS]
            _panel(panels[1][column], lines, budget / 2**20, f"budget {in_bytes(budget)}")
        panels[0][0].set_ylabel("time (s)")
        panels[1][0].set_ylabel("peak memory (MiB)")
        for axes in panels[:, -1]:
            _label(axes)
        figure.supxlabel(
            "cross: the next length doesn't fit in the budget; end without one: it takes too long", fontsize=9
        )
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
        return stream.getvalue()


def _line(step: str, results: Sequence[Result], value: str, unit: float) -> Line:
    own = [result for result in results if result.step == step]
    # Under a MiB the peak is that of the warm-up.
    points = [(r.length, getattr(r, value)) for r in own if r.outcome == "measured"]
    points = [(length, found / unit) for length, found in points if unit == 1 or found >= unit]
    lengths, values = [length for length, _ in points], [found for _, found in points]
    ends = [result.outcome for result in own if result.outcome != "measured"]
    return step, lengths, values, ends[:1] == ["memory"]


def _panel(axes: Axes, lines: Sequence[Line], bound: float, name: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True)
    for step, lengths, values, is_cut in lines:
        colour, marker = LOOKS[step]
        width = 3 if step == "scan" else 1.5
        axes.plot(lengths, values, color=colour, marker=marker, markersize=5, linewidth=width, label=STEPS[step].name)
        if is_cut and lengths:
            axes.plot(lengths[-1:], values[-1:], color=colour, marker="x", markersize=13, markeredgewidth=2)
    axes.axhline(bound, color=GREY, linestyle=":")
    axes.annotate(name, (0.01, bound), xycoords=("axes fraction", "data"), va="bottom", fontsize=9)


def _label(axes: Axes) -> None:
    """Every line's name to the right of the panel, in the order of their ends, joined to them by a thin line."""
    low, high = (math.log(bound) for bound in axes.get_ylim())
    named = [line for line in axes.get_lines() if not line.get_label().startswith("_") and len(line.get_xdata())]
    ends = sorted((float(line.get_ydata()[-1]), float(line.get_xdata()[-1]), line) for line in named)
    place = -GAP
    places = []
    for value, _, _ in ends:
        place = max((math.log(value) - low) / (high - low), place + GAP)
        places.append(place)
    excess = max(0.0, places[-1] - 1) if places else 0.0
    for i in reversed(range(len(places))):  # what went over the top pushes those below down again
        places[i] = min(places[i], 1 - GAP * (len(places) - 1 - i)) if excess else places[i]
    for (value, length, line), at in zip(ends, places, strict=True):
        axes.annotate(
            line.get_label(),
            (length, value),
            xytext=(1.06, at),
            textcoords="axes fraction",
            color=line.get_color(),
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": line.get_color(),
                "linewidth": 0.7,
                "alpha": 0.6,
                "relpos": (0, 0.5),
                "shrinkB": 0,
            },
            annotation_clip=False,
        )
