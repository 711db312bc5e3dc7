"""What was measured, as a picture."""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from sioconv.errors import UserError
from sioconv.evaluate.pictures import COLOURS, GREY
from sioconv.files import atomic_write
from sioconv.inspect.measure import Inspection
from sioconv.inspect.view import token_text
from sioconv.plots import font_for, plot_words

LABELLED = 80  # tokens; more are numbered


def check_name(path: Path) -> str:
    """What kind of picture a file of this name is. Raises UserError where it is none."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise UserError(f"can't draw {path}: give a name that ends in .png, .svg or .pdf")
    return kind


def draw(seen: Inspection, path: Path) -> bool:
    """Draws half-lives by head, surprise by token, and the layers' weights by token; PNG, SVG or PDF by the name.

    Returns:
        Whether every token is written beside its bar; False where there are more than 80, which are numbered, or no
        font of this machine has all of their letters.

    Raises:
        UserError: the name ends otherwise, or the file can't be written.
    """
    kind = check_name(path)
    names = [token_text(data, seen.first + i) for i, data in enumerate(seen.pieces)]
    font = font_for("".join(names)) if len(names) <= LABELLED else None
    wide = float(np.clip(0.22 * len(names), 9, 24))
    with plot_words() as word, mpl.rc_context({"font.size": 9, "svg.hashsalt": "sioconv"}):
        figure = Figure(figsize=(wide, 6 + 0.5 * len(seen.layers)), layout="constrained")
        halves, bits, weights = figure.subplots(3, 1, height_ratios=[1, 1, 1.2])
        _halves(halves, seen, word)
        places = np.arange(len(names))
        bits.bar(places, np.nan_to_num(seen.surprise), color=COLOURS[0])
        bits.set_ylabel(word("surprise (bits)"))
        image = weights.imshow(100 * seen.weights[:, 1:], aspect="auto", cmap="viridis", interpolation="nearest")
        figure.colorbar(image, ax=weights, label=word("% of the state at the end"))
        weights.set_yticks(range(len(seen.layers)), [str(i + 1) for i in range(len(seen.layers))])
        weights.set_ylabel(word("layer"))
        older = 100 * seen.weights[:, 0].mean()
        weights.set_xlabel(word(f"token (of the state, {older:.1f} % is older than these)"))
        for axes in (bits, weights):
            axes.set_xlim(-0.5, len(names) - 0.5)
            if font is not None:
                # A $ would begin a formula.
                shown = [name.replace("$", r"\$") for name in names]
                axes.set_xticks(places, shown, rotation=90, fontproperties=font_manager.FontProperties(fname=font))
            else:
                axes.xaxis.set_major_formatter(lambda place, _: f"{seen.first + int(place)}")
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    try:
        with atomic_write(path) as file:
            file.write_bytes(stream.getvalue())
    except OSError as error:
        raise UserError(f"can't write the picture: {path}: {error.strerror}: check the name") from error
    return font is not None


def _halves(axes: Axes, seen: Inspection, word: Callable[[str], str]) -> None:
    values = np.stack([layer.half for layer in seen.layers])  # [L, H]
    low, high = float(values.min()), float(values.max())
    image = axes.imshow(values, aspect="auto", cmap="cividis", norm=LogNorm(low, max(high, 1.01 * low)))
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, label=word("steps until half is forgotten"))
    axes.set_yticks(range(len(values)), [str(i + 1) for i in range(len(values))])
    axes.set_xticks(range(values.shape[1]), [str(i + 1) for i in range(values.shape[1])])
    axes.set_ylabel(word("layer"))
    axes.set_xlabel(word("head"))
    axes.tick_params(color=GREY)
