"""`sioconv chat`."""

from typing import TYPE_CHECKING

from sioconv.cli.options import load, model_options, sampling_options
from sioconv.cli.verb import OptionVerb

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    model_options(parser)
    sampling_options(parser)
    parser.add_argument(
        "--system", type=str | None, default=None, help="what the model is told before the conversation"
    )
    parser.add_argument(
        "--load",
        type=str | None,
        default=None,
        help="go on with the conversation that /save wrote to this file",
    )


def chat(arguments: "Namespace") -> None:
    """Talks until the input ends. Raises UserError where the model or a saved conversation can't be read."""
    model, tokenizer, sampling = load(arguments)
    from sioconv.generate import chat_loop

    chat_loop(model, tokenizer, sampling, system=arguments.system, load=arguments.load)


CHAT = OptionVerb(
    "chat", "MODEL", "talk", "Talks; /help inside lists the commands.", "sioconv chat runs/demo/model", options, chat
)
