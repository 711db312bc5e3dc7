"""`sioconv export onnx`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sioconv.cli.options import json_option
from sioconv.cli.verb import OptionVerb
from sioconv.terminal import show, show_json

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def onnx_options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    parser.add_argument("model", type=str, help="a model folder")
    parser.add_argument("out", type=str, help="the new folder")
    parser.add_argument(
        "--to",
        type=Literal["fp32", "int8", "both"],
        default="fp32",
        help="what the matrices are: onnx/model.onnx in fp32, onnx/model_quantized.onnx in 8 bits",
    )
    parser.add_argument(
        "--text",
        type=str | None,
        default=None,
        help="what the cost of 8 bits is measured on; by default the held-out text of the run",
    )
    json_option(parser)


def export_onnx(arguments: "Namespace") -> None:
    """Exports a model. Raises UserError where it can't be."""
    from sioconv.publish.onnx import folder

    to = ("fp32", "int8") if arguments.to == "both" else (arguments.to,)
    done = folder.export_onnx(Path(arguments.model), Path(arguments.out), to, arguments.text)
    if arguments.json:
        show_json(done)
        return
    for name, facts in done["files"].items():
        show(f"{name}: {facts['bytes']:,} bytes; no logit differs from PyTorch's by more than {difference(facts)}")
    if done.get("bits_per_byte") is not None:
        show(bits(done))


def difference(facts: dict[str, float]) -> str:
    """The largest difference of a logit, as it is printed."""
    return f"{facts['logit_difference']:.1e}"


def bits(done: dict[str, float]) -> str:
    """What 8 bits cost, as it is printed."""
    before, after = done["bits_per_byte_before"], done["bits_per_byte"]
    return f"8 bits: {before:.4f} → {after:.4f} bits per byte ({after / before - 1:+.2%})"


EXPORT_ONNX = OptionVerb(
    "export onnx",
    "MODEL OUT",
    "a model folder → ONNX files for other runtimes",
    "Writes a model as ONNX: one graph for prompts and single tokens, with its memory as inputs and outputs.",
    "sioconv export onnx runs/demo/model runs/demo/onnx --to both",
    onnx_options,
    export_onnx,
)
