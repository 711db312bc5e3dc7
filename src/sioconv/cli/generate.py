"""`sioconv generate`."""

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sioconv import unique_keys
from sioconv.cli.options import form_of, form_options, json_option, load, model_options, sampling_options
from sioconv.cli.verb import OptionVerb
from sioconv.errors import UserError
from sioconv.terminal import decode_utf8, read_prompt, show, show_json

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from sioconv.generate.session import Session


def options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    model_options(parser, "; or a text to go on from, which --save-state or /save of chat has written")
    parser.add_argument("prompt", type=str, nargs="*", help="texts to continue; - is all of standard input")
    parser.add_argument(
        "--prompts", type=str | None, default=None,
        help="a file of prompts, one a line, or JSON lines with `prompt`; - for standard input",
    )  # fmt: skip
    parser.add_argument(
        "--file", type=str | None, default=None,
        help="a text of any length that is read first; the prompts follow it; - for standard input",
    )  # fmt: skip
    parser.add_argument("--ask", action="store_true", help="prompts are messages, and what is written are the replies")
    parser.add_argument("--n", type=int, default=1, help="continuations of each prompt, with seeds one after the other")
    parser.add_argument(
        "--save_state", type=str | None, default=None,
        help="keep the text as it is at the end, for --state and chat --load; without a prompt, as it was read",
    )  # fmt: skip
    parser.add_argument(
        "--store", type=str | None, default=None,
        help="a file that keeps what was read: texts that begin alike are read faster the next time",
    )  # fmt: skip
    form_options(parser)
    sampling_options(parser)
    json_option(parser, "print one JSON object a text, each on a line")


def generate(arguments: "Namespace") -> None:
    """Continues texts.

    Raises:
        UserError: the arguments contradict each other, or something that they name can't be read or written.
    """
    prompts, form = _prompts(arguments), form_of(arguments)
    start, tokenizer, sampling = _start(arguments)
    from sioconv.generate import Grammars, texts
    from sioconv.generate.constraint import NAMES

    grammar = None if form is None else Grammars(start.vocabulary).compile(form)
    if arguments.ask and (prompts or arguments.file is not None):
        texts.begin_message(start, tokenizer)
    if arguments.file is not None:
        texts.read_file(start, tokenizer, None if arguments.file == "-" else Path(arguments.file), _stdin())
    if not prompts:
        start.save(arguments.save_state)
        return
    sessions = _sessions(arguments, prompts, start, tokenizer)
    if len(prompts) * arguments.n == 1:
        (session,) = sessions
        cut = _write_one(arguments, prompts[0], session, sampling, grammar).whole is False
    else:
        cut = False
        repeated = (prompt for prompt in prompts for _ in range(arguments.n))
        for prompt, result in zip(repeated, texts.write_texts(sessions, sampling, grammar), strict=True):
            if arguments.json:
                _show_generation(prompt, result)
            else:
                show(_shown(arguments, prompt) + result.text + "\n")
            cut = cut or result.whole is False
    if cut and form is not None and not arguments.json:
        raise UserError(
            f"a text ended before it was a whole {NAMES[form.kind]}: give more than --max-new-tokens "
            f"{sampling.max_new_tokens}, and no --stop that may stand in it"
        )


def _write_one(arguments: "Namespace", prompt: str, session: "Session", sampling: Any, grammar: Any) -> Any:
    """Writes and prints the only text, as it comes, and keeps its session where that is asked for."""
    from sioconv.generate import texts

    if arguments.json:
        result = texts.write_text(session, sampling, grammar=grammar)
        _show_generation(prompt, result)
    else:
        show(_shown(arguments, prompt), end="")
        result = texts.write_text(session, sampling, lambda text: show(text, end=""), grammar)
        show("")
    if arguments.save_state is not None:
        if arguments.ask:
            session.end_turn()
        session.save(arguments.save_state)
    return result


def _shown(arguments: "Namespace", prompt: str) -> str:
    """What stands before the text that is written: nothing before a reply, or a text that a program may read."""
    formed = arguments.schema is not None or arguments.regex is not None or arguments.choice
    return "" if arguments.ask or formed else prompt


def _start(arguments: "Namespace") -> tuple["Session", Any, Any]:
    """The session that the texts go on from, the tokenizer and the sampling."""
    from sioconv.model.tensor_file import SESSION, kind_of

    saved = arguments.state
    if saved is not None and kind_of(Path(saved)) is SESSION:
        arguments.state = None
    else:
        saved = None
    model, tokenizer, sampling = load(arguments)
    from sioconv.generate import Engine, SqliteFile, StateStore, session
    from sioconv.generate.sampling import random_seed

    engine = Engine(model, store=None if arguments.store is None else StateStore(backing=SqliteFile(arguments.store)))
    if saved is None:
        start = session.Session(model, tokenizer, random_seed(), engine)
    else:
        start = session.Session.load(saved, model, tokenizer, engine)
    if sampling.seed is not None:
        start.seed = sampling.seed
    return start, tokenizer, sampling


def _sessions(arguments: "Namespace", prompts: list[str], start: "Session", tokenizer: Any) -> Iterator["Session"]:
    """A session for each continuation of each prompt, which it has read."""
    from sioconv.generate import texts

    # The first one has read the file, the others go on from what it has become.
    starts = [start, *(start.fork() for _ in prompts[1:])]
    for session, prompt in zip(starts, prompts, strict=True):
        if arguments.ask:
            between = "\n\n" if arguments.file is not None else ""
            texts.read_message(session, tokenizer, between + prompt)
        else:
            texts.read_prompt(session, tokenizer, prompt)
        yield from [session, *(session.fork((session.seed + i) % 2**63) for i in range(1, arguments.n))]


def _show_generation(prompt: str, result: Any) -> None:
    show_json({"prompt": prompt} | {item.name: getattr(result, item.name) for item in fields(result)})


def _stdin() -> Any:
    if sys.stdin is None:
        raise UserError("there is no standard input to read: give a file, or a pipe")
    return sys.stdin.buffer


def _prompts(arguments: "Namespace") -> list[str]:
    """The prompts of `generate`. Raises UserError where the arguments contradict each other."""
    if not 1 <= arguments.n <= 4096:
        raise UserError(f"n out of range: {arguments.n}: give a number of continuations from 1 to 4096")
    if [*arguments.prompt, arguments.prompts, arguments.file].count("-") > 1:
        raise UserError("standard input can be read once: give - once")
    prompts = [read_prompt() if prompt == "-" else prompt for prompt in arguments.prompt]
    if arguments.prompts is not None:
        prompts += _prompts_of(arguments.prompts)
    if not prompts and arguments.state is not None and arguments.file is None and arguments.save_state is None:
        prompts = [""]
    if not prompts and (arguments.file is None or arguments.save_state is None):
        raise UserError("arguments are required: prompt; see sioconv generate --help")
    if arguments.save_state is not None and len(prompts) * arguments.n > 1:
        raise UserError("a state file holds one text: with --save-state give one prompt, and no --n")
    return prompts


def _prompts_of(name: str) -> list[str]:
    """The prompts in a file: its lines that aren't empty, or the `prompt` of JSON lines."""
    if name == "-":
        text = read_prompt()
    else:
        try:
            text = decode_utf8(Path(name).read_bytes(), name)
        except OSError as error:
            raise UserError(f"can't read the prompts: {name}: {error.strerror}: check the name") from error
    prompts = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        if not line.startswith("{"):
            prompts.append(line)
            continue
        try:
            prompt = unique_keys.loads(line)["prompt"]
        except (ValueError, KeyError, RecursionError) as error:
            raise UserError(f'{name}:{number}: not a JSON object with "prompt": {error}') from error
        if not isinstance(prompt, str):
            raise UserError(f"{name}:{number}: the prompt is not text: give a string")
        prompts.append(prompt)
    if not prompts:
        raise UserError(f"no prompts in {name}: give one a line")
    return prompts


GENERATE = OptionVerb(
    "generate",
    "MODEL PROMPT",
    "continue a text",
    "Continues texts. About a long one it can be asked: sioconv generate MODEL --file book.txt --ask 'Who is it?'",
    'sioconv generate runs/demo/model "宮城県(" --max-new-tokens 64 --seed 1',
    options,
    generate,
)
