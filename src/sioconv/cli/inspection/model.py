"""`sioconv inspect`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sioconv.cli.options import device_option, json_option, model_options
from sioconv.cli.verb import OptionVerb
from sioconv.errors import UserError
from sioconv.terminal import decode_chunks, read_prompt, show_json, write_out

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

CHUNK = 1 << 16  # bytes of a file that are read at once


def options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    model_options(parser)
    parser.add_argument("--text", type=str | None, default=None, help="the text; - is standard input")
    parser.add_argument("--file", type=str | None, default=None, help="a file of text in place of it, of any length")
    parser.add_argument("--window", type=int, default=512, help="most tokens at the end that are looked at one by one")
    parser.add_argument("--picture", type=str | None, default=None, help="a file for a picture: .png, .svg or .pdf")
    device_option(parser)
    json_option(parser)


def inspect(arguments: "Namespace") -> None:
    """Shows what the memory does on a text. Raises UserError where the model or the text can't be read."""
    if (arguments.text is None) == (arguments.file is None):
        raise UserError("give a text: --text TEXT, --file FILE, or --text - for standard input")
    picture = None if arguments.picture is None else Path(arguments.picture)
    from sioconv.hardware import pick_device
    from sioconv.inspect.measure import inspect_text
    from sioconv.inspect.picture import check_name, draw
    from sioconv.inspect.view import as_json, describe
    from sioconv.model import load_model_folder
    from sioconv.progress import say

    if picture is not None:
        check_name(picture)
    model, tokenizer = load_model_folder(arguments.model, pick_device(arguments.device), state=arguments.state)
    seen = inspect_text(model, tokenizer, _chunks(arguments), arguments.window)
    if arguments.json:
        show_json(as_json(seen))
    else:
        write_out(describe(seen))
    if picture is not None:
        labelled = draw(seen, picture)
        say(f"picture → {picture}" + ("" if labelled else " (its tokens are numbered: too many, or no font has them)"))


def _chunks(arguments: "Namespace") -> Iterator[str]:
    if arguments.text is not None:
        text = read_prompt() if arguments.text == "-" else arguments.text
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"the text is not text: {error}: give UTF-8") from error
        yield text
        return
    from sioconv.progress import track

    path = Path(arguments.file)
    try:
        with path.open("rb") as file:
            pieces = track(iter(lambda: file.read(CHUNK), b""), f"reading {path} (bytes)", path.stat().st_size, len)
            yield from decode_chunks(pieces, str(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"can't read {path}: {reason}: check the name") from error


INSPECT = OptionVerb(
    "inspect",
    "MODEL",
    "forgetting, surprise and what is remembered",
    "Shows how quickly each head forgets on a text, what surprises the model, and what its state holds at the end.",
    "sioconv inspect runs/demo/model --text '宮城県の県庁所在地は仙台市である。' --picture memory.png",
    options,
    inspect,
)
