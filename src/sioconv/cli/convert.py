"""`sioconv convert` and `sioconv quantize`: a model folder of something else."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sioconv.cli.options import device_option, json_option
from sioconv.cli.verb import OptionVerb
from sioconv.terminal import show, show_json, tell

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def convert_options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    parser.add_argument("checkpoint", type=str, help="the file that the trainer of 2024 wrote")
    parser.add_argument("out", type=str, help="the new model folder")
    parser.add_argument(
        "--config", type=str | None, default=None, help="JSON file of sizes that the checkpoint must have"
    )
    parser.add_argument(
        "--tokenizer",
        type=str | None,
        default=None,
        help="folder or Hub id of the tokenizer that the model was trained with; without it the folder has none",
    )
    json_option(parser)


def convert(arguments: "Namespace") -> None:
    """Converts a checkpoint. Raises UserError where it isn't one of the model of 2024."""
    from sioconv.generate.config import SamplingConfig
    from sioconv.model.convert import convert_checkpoint

    sizes = None if arguments.config is None else Path(arguments.config)
    done = convert_checkpoint(
        Path(arguments.checkpoint),
        Path(arguments.out),
        sizes,
        arguments.tokenizer,
        SamplingConfig().for_transformers(),
    )
    if arguments.json:
        show_json(done)
        return
    show(", ".join(f"{name} {value:,}" for name, value in done.items() if isinstance(value, int)))
    if done["tokenizer_tokens"] is None:
        tell(f"no tokenizer: put its tokenizer.json and tokenizer_config.json into {done['model']} before using it")


def quantize_options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    parser.add_argument("model", type=str, help="a model folder or a Hub id")
    parser.add_argument("out", type=str, help="the new model folder")
    parser.add_argument("--to", type=Literal["int8", "int4"], default="int8", help="what the matrices become")
    parser.add_argument(
        "--text",
        type=str | None,
        default=None,
        help="what bits per byte are measured on; by default the held-out text of the run",
    )
    parser.add_argument(
        "--calibration",
        type=str | None,
        default=None,
        help="text that tells which weights matter, for int4; by default training text of the run, or of the package",
    )
    device_option(parser)
    json_option(parser)


def quantize(arguments: "Namespace") -> None:
    """Quantises a model. Raises UserError where it can't be."""
    from sioconv.run.quantise import quantise

    done = quantise(
        arguments.model,
        Path(arguments.out),
        arguments.to,
        arguments.text,
        arguments.device,
        arguments.calibration,
    )
    if arguments.json:
        show_json(done)
        return
    before, after = done["bits_per_byte_before"], done["bits_per_byte"]
    tell(
        f"{done['model']}: {done['to']}: {done['weight_bytes_before']:,} → {done['weight_bytes']:,} bytes of weights, "
        f"{before:.4f} → {after:.4f} bits per byte ({done['change']:+.2%}) over {done['bytes_measured']:,} bytes"
    )


CONVERT = OptionVerb(
    "convert",
    "CKPT OUT",
    "a checkpoint of the 2024 model → a model folder",
    "Turns a checkpoint of the 2024 model into a model folder.",
    "sioconv convert last.ckpt runs/talk/model --tokenizer my-tokenizer",
    convert_options,
    convert,
)
QUANTIZE = OptionVerb(
    "quantize",
    "MODEL OUT",
    "weights of 8 or 4 bits",
    "Makes a model folder whose matrices have 8 or 4 bits, and measures what that costs.",
    "sioconv quantize runs/demo/model runs/demo/int4 --to int4",
    quantize_options,
    quantize,
)
