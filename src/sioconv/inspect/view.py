"""What was measured, for people on a terminal and for programs."""

import math
import sys
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sioconv.inspect.measure import MOST, Inspection, Numbers
from sioconv.language import columns, padded, translated
from sioconv.terminal import one_line

SHORT = 40  # a window of so many tokens is shown as a whole
LISTED = 12  # of a longer one, so many of the most surprising and of the heaviest tokens
SHADES = ("", "on grey23", "on dark_goldenrod", "on dark_orange3", "on red3")  # for 0, 2, 4, 8 and 12 bits and more
STEPS = (2, 4, 8, 12)
WITH_BARS = 70  # columns of a terminal


def token_text(data: bytes, position: int) -> str:
    """A token that can be printed on one line; bytes that are no whole character as \\xe5, blanks alone as ␣."""
    if not data:
        return "(begin)" if position == 0 else "(special)"
    text = one_line(data.decode(errors="backslashreplace"))
    return text if text.strip() else "␣" * len(text)


def as_json(seen: Inspection) -> dict[str, Any]:
    """All figures as one JSON object; a text's first token has no surprise."""
    strongest = _strongest(seen)
    weights = seen.weights
    return {
        "tokens": seen.tokens,
        "bytes": seen.text_bytes,
        "bits": seen.bits,
        "bits_per_token": seen.bits / seen.tokens,
        "bits_per_byte": seen.bits / seen.text_bytes,
        "layers": [
            {
                "half": layer.half.tolist(),
                "gate": layer.gate.tolist(),
                "gate_least": layer.least.tolist(),
                "gate_most": layer.most.tolist(),
                "reach": layer.reach.tolist(),
                "before": layer.shares[:, 0].tolist(),
            }
            for layer in seen.layers
        ],
        "window": [
            {
                "position": seen.first + i,
                "token": data.decode(errors="backslashreplace"),
                "bytes": data.hex(),
                "bits": None if math.isnan(seen.surprise[i]) else seen.surprise[i],
                "weight": float(weights[:, i + 1].mean()),
                "weight_by_layer": weights[:, i + 1].tolist(),
                "strongest": dict(zip(("layer", "head", "share"), strongest[i + 1], strict=True)),
            }
            for i, data in enumerate(seen.pieces)
        ],
    }


def describe(seen: Inspection) -> str:
    """The figures as tables that fit the terminal, in colours on one that has them."""
    console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    with console.capture() as captured:
        _print(seen, console)
    return captured.get()


def _print(seen: Inspection, console: Console) -> None:
    window = len(seen.pieces)
    console.print(
        translated(
            f"{seen.tokens:,} tokens, {seen.text_bytes:,} bytes: {seen.bits / seen.tokens:.2f} bits a token, "
            f"{seen.bits / seen.text_bytes:.2f} bits a byte"
        )
    )
    heads = translated("Steps until a head has forgotten half, by the mean of its gate; heads in their order")
    console.print(f"\n{heads}")
    console.print(_grid([[short(value) for value in layer.half] for layer in seen.layers], console.width))
    console.print("\n" + translated("The last so many steps are 90 % of a head's state at the end"))
    reaches = [[f">{window}" if steps > window else str(steps) for steps in layer.reach] for layer in seen.layers]
    console.print(_grid(reaches, console.width))
    console.print(f"\n{_title(seen)}")
    console.print(_tokens(seen, console.width))
    if window > SHORT and console.is_terminal:
        shades = translated("The text; the brighter the ground, the more of a surprise (2, 4, 8, 12 bits and more)")
        console.print(f"\n{shades}")
        console.print(_shaded(seen))


def short(steps: float) -> str:
    """A number of steps in at most five characters."""
    if steps >= MOST:
        return "ever"
    for limit, size, sign in ((1e3, 1, ""), (1e6, 1e3, "k"), (math.inf, 1e6, "M")):
        if steps < 0.9995 * limit:
            value = steps / size
            return f"{value:.1f}{sign}" if value < 9.95 else f"{value:.0f}{sign}"
    raise AssertionError("a number is below infinity")


def _grid(rows: list[list[str]], width: int) -> RenderableType:
    """A line for each layer, or several where its heads don't fit one."""
    cell = max(len(value) for values in rows for value in values) + 1
    name = columns(translated(f"layer {len(rows)}"))
    in_line = max(1, (width - name - 1) // cell)
    lines = []
    for number, values in enumerate(rows, start=1):
        for start in range(0, len(values), in_line):
            label = translated(f"layer {number}") if start == 0 else ""
            lines.append(f"{padded(label, name)} " + "".join(f"{v:>{cell}}" for v in values[start : start + in_line]))
    return Text("\n".join(lines), no_wrap=True)


def _title(seen: Inspection) -> str:
    window = len(seen.pieces)
    if window <= SHORT:
        return translated("Surprise, and share of the state at the end: the mean of all heads, and the head with most")
    return translated(
        f"Of the last {window:,} tokens the {LISTED} most surprising, and the {LISTED} with the largest share of the "
        "state at the end: the mean of all heads, and the head with most"
    )


def _tokens(seen: Inspection, width: int) -> RenderableType:
    share = seen.weights.mean(axis=0)  # [1 + W]
    strongest, surprise = _strongest(seen), np.nan_to_num(seen.surprise, nan=-1.0)
    listed = range(len(seen.pieces))
    if len(listed) > SHORT:
        chosen = {*np.argsort(-surprise)[:LISTED].tolist(), *np.argsort(-share[1:])[:LISTED].tolist()}
        listed = sorted(chosen)  # type: ignore[assignment]
    bars = width >= WITH_BARS
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column(translated("token"), justify="right", no_wrap=True)
    table.add_column("", max_width=24 if bars else 20, overflow="ellipsis", no_wrap=True)
    table.add_column(translated("bits"), justify="right", no_wrap=True)
    if bars:
        table.add_column("", width=8, no_wrap=True)
    table.add_column(translated("share"), justify="right", no_wrap=True)
    table.add_column(translated("most in"), no_wrap=True)

    def add(position: str, word: Text | str, bits: float, step: int) -> None:
        known = not math.isnan(bits)
        bar = ["█" * min(8, round(bits / 2)) if known else ""] if bars else []
        layer, head, most = strongest[step]
        place = f"L{layer} H{head} {100 * most:>3.0f} %"
        table.add_row(position, word, f"{bits:.1f}" if known else "", *bar, f"{100 * share[step]:.1f} %", place)

    add("", translated("the initial state" if seen.first == 0 else "what came before"), math.nan, 0)
    for i in listed:
        bits, position = float(seen.surprise[i]), seen.first + i
        add(str(position), Text(token_text(seen.pieces[i], position), style=_shade(bits)), bits, i + 1)
    return table


def _strongest(seen: Inspection) -> list[tuple[int, int, float]]:
    """The layer and head, counted from 1, in whose state each step's share is largest, and that share; [1 + W]."""
    shares: Numbers = np.stack([layer.shares for layer in seen.layers])  # [L, H, 1 + W]
    flat = shares.reshape(-1, shares.shape[-1])
    best, heads = flat.argmax(axis=0), shares.shape[1]
    return [(int(at) // heads + 1, int(at) % heads + 1, float(flat[at, i])) for i, at in enumerate(best)]


def _shade(bits: float) -> str:
    return SHADES[0 if math.isnan(bits) else sum(bits >= step for step in STEPS)]


def _shaded(seen: Inspection) -> RenderableType:
    """The window's text, each token on the ground of its surprise; a character in several tokens on the first one's."""
    text, held, style = Text(), b"", ""
    for data, bits in zip(seen.pieces, seen.surprise, strict=True):
        style = style if held else _shade(float(bits))
        held += data
        try:
            whole = held.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                continue
            whole = held.decode(errors="replace")
        text.append(one_line(whole), style=style)
        held = b""
    text.append(one_line(held.decode(errors="replace")), style=style)
    return Group(text)
