"""`sioconv export onnx` and `sioconv export page`."""

from os.path import lexists
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sioconv.cli.options import json_option
from sioconv.cli.publishing.publish import fact_options, given_facts, list_files
from sioconv.cli.verb import OptionVerb
from sioconv.errors import UserError
from sioconv.files import shown
from sioconv.language import translated
from sioconv.progress import say
from sioconv.terminal import show, show_json, tell

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _folders(parser: "ArgumentParser") -> None:
    parser.add_argument(
        "model", type=str | None, nargs="?", default=None,
        help="a model folder; without it the small model of the package",
    )  # fmt: skip
    parser.add_argument("out", type=str, help="the new folder")


def _model(arguments: "Namespace") -> Path:
    """The model's folder. Raises UserError where the one folder given is there already: OUT may be missing."""
    from sioconv.model.in_package import packaged_model, place_of

    if arguments.model is not None:
        return Path(place_of(arguments.model))
    if lexists(arguments.out):
        raise UserError(f"{shown(arguments.out)} is already there: give MODEL OUT, or OUT alone for a new folder")
    model = packaged_model()
    say(f"export: {model.name}, the small model of the package")
    return model


def _text_option(parser: "ArgumentParser") -> None:
    parser.add_argument(
        "--text",
        type=str | None,
        default=None,
        help="what the cost of 8 bits is measured on; by default the held-out text of the run",
    )


def onnx_options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    from sioconv.publish.config import OPTIONS

    _folders(parser)
    parser.add_argument(
        "--to",
        type=Literal["fp32", "int8", "both"] | None,
        default=None,
        help="what the matrices are: onnx/model.onnx in fp32, onnx/model_quantized.onnx in 8 bits; by default fp32, or "
        "8 bits of a model that has them",
    )
    _text_option(parser)
    fact_options(parser, OPTIONS)
    json_option(parser)


def export_onnx(arguments: "Namespace") -> None:
    """Exports a model. Raises UserError where it can't be."""
    from sioconv.publish.onnx import folder

    to = {None: (), "both": ("fp32", "int8")}.get(arguments.to, (arguments.to,))
    given = given_facts(arguments)
    done = folder.export_onnx(_model(arguments), Path(arguments.out), to, arguments.text, given)
    if arguments.json:
        show_json(done)
        return
    for name, facts in done["files"].items():
        tell(f"{name}: {facts['bytes']:,} bytes; no logit differs from PyTorch's by more than {difference(facts)}")
    if done.get("bits_per_byte") is not None:
        tell(bits(done))


def difference(facts: dict[str, float]) -> str:
    """The largest difference of a logit, as it is printed."""
    return f"{facts['logit_difference']:.1e}"


def bits(done: dict[str, float]) -> str:
    """What 8 bits cost, as it is printed."""
    before, after = done["bits_per_byte_before"], done["bits_per_byte"]
    return f"8 bits: {before:.4f} → {after:.4f} bits per byte ({after / before - 1:+.2%})"


EXPORT_ONNX = OptionVerb(
    "export onnx",
    "[MODEL] OUT",
    "a model folder → ONNX files for other runtimes",
    "Writes a model as ONNX: one graph for prompts and single tokens, with its memory as inputs and outputs.",
    "sioconv export onnx runs/demo/model runs/demo/onnx --to both",
    onnx_options,
    export_onnx,
)


def page_options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    from sioconv.publish.config import OPTIONS

    _folders(parser)
    parser.add_argument("--to", type=Literal["int8", "fp32"], default="int8", help="what the matrices are")
    parser.add_argument("--name", type=str | None, default=None, help="what the model is called; by default its run")
    _text_option(parser)
    parser.add_argument(
        "--runtime",
        type=str | None,
        default=None,
        help="onnxruntime-web's WASM file or the folder that it is in; by default downloaded once (14 MB)",
    )
    fact_options(parser, OPTIONS)
    json_option(parser)


def export_page(arguments: "Namespace") -> None:
    """Writes the page. Raises UserError where it can't be written."""
    from sioconv.publish.page import folder

    done = folder.export_page(
        _model(arguments),
        Path(arguments.out),
        arguments.to,
        arguments.name,
        arguments.text,
        None if arguments.runtime is None else Path(arguments.runtime),
        given_facts(arguments),
    )
    if arguments.json:
        show_json(done)
        return
    list_files(done["files"])
    tell(f"no logit differs from PyTorch's by more than {difference(done)}")
    if done.get("bits_per_byte") is not None:
        tell(bits(done))
    show(translated(f"to try it: python -m http.server --directory {shown(arguments.out)}"))


EXPORT_PAGE = OptionVerb(
    "export page",
    "[MODEL] OUT",
    "a model folder → a page to talk on that needs no server",
    "Writes a folder for any static host, a Space too: the page, and a model that runs in the browser.",
    "sioconv export page runs/demo/model runs/demo/page\nsioconv export page my-page",
    page_options,
    export_page,
)
