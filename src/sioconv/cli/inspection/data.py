"""`sioconv data inspect`."""

from pathlib import Path
from typing import TYPE_CHECKING

from sioconv.cli.options import json_option
from sioconv.cli.verb import OptionVerb
from sioconv.errors import UserError
from sioconv.terminal import show, show_json

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    parser.add_argument("dir", type=str, help="a run, its data/, a source in it, or one shard set")
    parser.add_argument("--documents", type=int, default=3, help="how many documents of each set are shown")
    parser.add_argument("--seed", type=int, default=0, help="decides which documents")
    parser.add_argument("--tokenizer", type=str | None, default=None, help="its folder, if it isn't the run's")
    parser.add_argument("--verify", action="store_true", help="compare every file with its checksum")
    parser.add_argument(
        "--picture", type=str | None, default=None, help="where the picture of the lengths goes; by default into DIR"
    )
    json_option(parser)


def inspect_data(arguments: "Namespace") -> None:
    """Shows what is in shards. Raises UserError where there are none."""
    from sioconv.data.shards import inspection
    from sioconv.data.shards.inspection import PICTURE, describe_shards, draw_lengths
    from sioconv.progress import say

    folder = Path(arguments.dir)
    tokenizer = None if arguments.tokenizer is None else Path(arguments.tokenizer)
    if arguments.documents < 0:
        raise UserError(f"documents out of range: {arguments.documents}: give 0 or more")
    report = inspection.inspect_data(
        folder,
        tokenizer=tokenizer,
        documents=arguments.documents,
        seed=arguments.seed,
        verify=arguments.verify,
    )
    picture = Path(arguments.picture or folder / PICTURE)
    draw_lengths(report, picture)
    if arguments.json:
        show_json(report)
    else:
        show(describe_shards(report), end="")
    say(f"picture of the lengths → {picture}")


INSPECT_DATA = OptionVerb(
    "data inspect",
    "DIR",
    "what is in the shards",
    "Shows what is in token shards: sizes, lengths of documents, some documents at random.",
    "sioconv data inspect runs/demo/data --verify",
    options,
    inspect_data,
)
