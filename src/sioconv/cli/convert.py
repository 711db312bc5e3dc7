"""`sioconv convert`."""

from pathlib import Path
from typing import TYPE_CHECKING

from sioconv.cli.options import json_option
from sioconv.cli.verb import OptionVerb
from sioconv.terminal import show, show_json

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def options(parser: "ArgumentParser") -> None:
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
        show(f"no tokenizer: put its tokenizer.json and tokenizer_config.json into {done['model']} before using it")


CONVERT = OptionVerb(
    "convert",
    "CKPT OUT",
    "a checkpoint of the 2024 model → a model folder",
    "Turns a checkpoint of the 2024 model into a model folder.",
    "sioconv convert last.ckpt runs/talk/model --tokenizer my-tokenizer",
    options,
    convert,
)
