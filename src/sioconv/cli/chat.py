"""`sioconv chat`."""

from pathlib import Path
from typing import TYPE_CHECKING

from sioconv.cli.options import json_option, load, model_options, sampling_options
from sioconv.cli.verb import OptionVerb
from sioconv.errors import UserError
from sioconv.terminal import read_prompt

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    model_options(parser, packaged=True)
    sampling_options(parser)
    parser.add_argument(
        "--system", type=str | None, default=None, help="what the model is told before the conversation"
    )
    parser.add_argument(
        "--load", type=str | None, default=None,
        help="go on with the conversation that /save, or --save, wrote to this file",
    )  # fmt: skip
    parser.add_argument(
        "-p", "--message", type=str, action="append", default=[],
        help="answer this message and end, for scripts; may be given several times; - is all of standard input",
    )  # fmt: skip
    parser.add_argument("--save", type=str | None, default=None, help="with -p or --json: keep the conversation here")
    parser.add_argument("--no_transcript", action="store_true", help="files don't hold what was said, only the memory")
    parser.add_argument(
        "--store", type=str | None, default=None,
        help="a file that keeps what was read: conversations that begin alike are read faster the next time",
    )  # fmt: skip
    json_option(parser, "print one JSON object a reply, each on a line; messages are lines of the input, or -p")


def chat(arguments: "Namespace") -> None:
    """Talks until the input ends, or answers some messages.

    Raises:
        UserError: the model or a saved conversation can't be read, or the arguments contradict each other.
    """
    script = arguments.json or arguments.message
    if arguments.save is not None and not script:
        raise UserError("--save goes with -p or --json: in a conversation say /save FILE")
    if arguments.message.count("-") > 1:
        raise UserError("standard input can be read once: give - once")
    messages = [read_prompt() if message == "-" else message for message in arguments.message]
    model, tokenizer, sampling = load(arguments)
    from sioconv.generate import SqliteFile, StateStore, terminal

    store = None if arguments.store is None else StateStore(backing=SqliteFile(arguments.store))
    options = {"system": arguments.system, "load": arguments.load, "store": store}
    options["keep_transcript"] = not arguments.no_transcript
    if not script:
        terminal.chat_loop(model, tokenizer, sampling, **options)
        return
    # With --json the seed is told, so the reply can be asked for again.
    conversation = terminal.begin(model, tokenizer, sampling, **options, at_once=not arguments.json)
    with terminal.finishing(conversation):
        terminal.answer(conversation, messages or terminal.input_lines(), sampling, arguments.json)
        if arguments.save is not None:
            conversation.save(Path(arguments.save))


CHAT = OptionVerb(
    "chat",
    "[MODEL]",
    "talk; without MODEL with the small model of the package",
    "Talks; /help inside lists the commands. In scripts: sioconv chat -p 'こんにちは' --json",
    "sioconv chat runs/demo/model",
    options,
    chat,
)
