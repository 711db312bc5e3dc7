"""`sioconv compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sioconv.cli.options import device_option, json_option
from sioconv.cli.verb import OptionVerb
from sioconv.errors import UserError
from sioconv.language import columns, padded
from sioconv.terminal import show, show_json, tell

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

PURPOSE = """\
Measures the pretrained models of runs on the held-out text of the first one, and writes a page in English and
Japanese: bits per byte with intervals, minimal pairs, learning curves against tokens and time, timescales, samples side
by side."""


def options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    parser.add_argument("runs", type=str, nargs="+", help="the runs' folders; the first is what others are compared to")
    parser.add_argument("--out", type=str, default="comparison", help="the page's folder")
    parser.add_argument("--bytes", type=int, default=200_000, help="most bytes read from one source; 0 for all")
    parser.add_argument("--pairs", type=int, default=100, help="minimal pairs of each phenomenon")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    device_option(parser)
    json_option(parser)


def compare(arguments: "Namespace") -> None:
    """Compares runs. Raises UserError for what can't be used."""
    from sioconv.run import compare as work

    for name, least in (("bytes", 0), ("pairs", 1), ("seed", 0)):
        if arguments[name] < least:
            raise UserError(f"{name} out of range: {arguments[name]}: give a number from {least} up")
    out = Path(arguments.out)
    found = work.compare(
        arguments.runs, out, arguments.bytes or None, arguments.pairs, arguments.seed, arguments.device
    )
    if arguments.json:
        show_json(found)
    else:
        _show(found, out)


def _show(found: dict[str, Any], out: Path) -> None:
    """Bits per byte of each run, with the change to the first."""
    width = max(columns(run["name"]) for run in found["runs"])
    for text in found["runs"][0]["bits"]:
        show(text)
        for run in found["runs"]:
            bits = run["bits"][text]
            ends = bits["change_interval"]
            change = "" if run is found["runs"][0] else f"  {bits['change']:+.4f}"
            if change and ends is not None:
                change += f" ({ends[0]:+.4f} … {ends[1]:+.4f})"
            show(f"  {padded(run['name'], width)}  {bits['bpb']:.4f}{change}")
    show("")
    tell(f"page:  {out / 'index.html'}")


COMPARE = OptionVerb(
    "compare",
    "RUN RUN …",
    "runs beside each other, on the same text",
    PURPOSE,
    "sioconv compare runs/demo runs/other --out comparison",
    options,
    compare,
)
