"""A conversation on the terminal or through a pipe."""

import contextlib
import io
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from transformers import PreTrainedTokenizerFast

from sioconv.errors import UserError
from sioconv.generate.config import SamplingConfig
from sioconv.generate.conversation import Conversation
from sioconv.generate.sampling import random_seed
from sioconv.generate.session import Session
from sioconv.model import SioConvForCausalLM
from sioconv.terminal import decode_utf8, visible, write_out

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

PROMPT = "> "
HELP = """\
/reset        forget the conversation and begin anew
/undo         take the last message and its reply back
/retry        write the last reply again, with another seed
/fork NAME    go on in a copy called NAME, or switch to it; without NAME, list the copies
/system TEXT  begin anew with these instructions; without TEXT, show them
/save FILE    keep the conversation in a file
/load FILE    go on with a conversation that was kept
/memory       what the conversation takes in memory, and what the last reply had to read
/help         this list
/exit         end, as Ctrl-D does; Ctrl-C ends a reply
A line that begins with a space is a message even where a / follows. On a terminal, Alt+Enter begins a new line."""


def chat_loop(
    model: SioConvForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    sampling: SamplingConfig,
    *,
    system: str | None = None,
    load: str | Path | None = None,
    input: TextIO | None = None,
    output: TextIO | None = None,
) -> None:
    """Reads messages line by line and answers them until the input ends or a line says /exit.

    On a terminal it asks for each line; from a pipe it repeats the line, so that the output is the whole conversation.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        sampling: the settings of the replies.
        system: instructions that stand at the beginning of a new conversation.
        load: state file of a conversation to go on with.
        input: where lines come from, stdin unless given.
        output: where replies go, stdout unless given.

    Raises:
        UserError: `load` can't be loaded or comes with a `system`, there is no input or it isn't UTF-8, or the model's
            weights are broken.
    """
    if system is not None and load is not None:
        raise UserError(
            "a conversation from a file has its instructions already: leave out the system text or the file"
        )
    output = sys.stdout if output is None else output
    conversation = Conversation(model, tokenizer, random_seed() if sampling.seed is None else sampling.seed, system)
    if load is not None:
        conversation.load(Path(load))
    for line in _lines(_standard_input() if input is None else input, output):
        if not line.startswith("/"):
            _reply(conversation.reply(line.strip(), sampling), output)
        elif line.split() == ["/retry"]:
            try:
                _reply(conversation.retry(sampling), output)
            except UserError as error:
                _print(output, f"[{error}]\n")
        elif line.split()[0] == "/exit":
            return
        else:
            _print(output, f"{_command(conversation, line)}\n")


def _reply(reply: Generator[str, None, None], output: TextIO) -> None:
    with _interruptible() as interrupted, contextlib.closing(reply) as pieces:
        for piece in pieces:
            _print(output, piece)
            if interrupted.is_set():
                break
    _print(output, "\n")


def _command(conversation: Conversation, line: str) -> str:
    """Does what a line with a / says and returns what to tell the user."""
    name, *rest = line.split(maxsplit=1)
    said = rest[0].strip() if rest else ""
    try:
        match name:
            case "/help" if not said:
                return HELP
            case "/reset" if not said:
                conversation.reset()
                return "[a new conversation]"
            case "/undo" if not said:
                conversation.undo()
                return f"[taken back: {_extent(conversation.session)}]"
            case "/memory" if not said:
                return _memory(conversation)
            case "/save" | "/load" | "/fork" | "/system":
                return _command_with_argument(conversation, name, said)
    except (UserError, RuntimeError) as error:  # RuntimeError: ~ of a user who doesn't exist
        return f"[{error}]"
    return f"[no such command: {name}: /help lists them; a message may begin with / after a space]"


def _command_with_argument(conversation: Conversation, name: str, said: str) -> str:
    if name == "/fork":
        if not said:
            return f"[{', '.join(each + ' (this one)' * (each == conversation.name) for each in conversation.names)}]"
        made = conversation.fork(said)
        return f"[{'a copy called' if made else 'now in'} {said}: {_extent(conversation.session)}]"
    if name == "/system":
        if not said:
            return f"[{'no instructions' if conversation.system is None else conversation.system}]"
        conversation.system = said
        conversation.reset()
        return "[a new conversation with these instructions]"
    if not said:
        return f"[{name} needs the name of a file: {name} FILE]"
    path = Path(said).expanduser()
    if name == "/save":
        conversation.session.save(path)
        return f"[saved to {path}]"
    conversation.load(path)
    return f"[loaded from {path}: {_extent(conversation.session)}]"


def _extent(session: Session) -> str:
    return f"replies {session.turns}, tokens {session.tokens_seen}"


def _memory(conversation: Conversation) -> str:
    session = conversation.session
    reading, (snapshots, size) = session.reading, session.snapshots
    return (
        f"[state {session.state.bytes / 1000:.1f} kB, {_extent(session)}; last reply: tokens reused {reading.reused}, "
        f"read {reading.read}, written {session.reply_tokens} at {conversation.tokens_per_second:.0f}/s; "
        f"snapshots {snapshots}, {size / 1000:.1f} kB]"
    )


def _lines(input: TextIO, output: TextIO) -> Iterator[str]:
    """The lines of the input that aren't blank, without their ends; Ctrl-C at a terminal's prompt ends them too."""
    terminal = input.isatty()
    ask: Callable[[], str] = input.readline
    if terminal:
        _print(output, "/help lists the commands\n")
        ask = _questions(input, output)
    while True:
        try:
            line = ask()
            line.encode()  # some locales let bytes that aren't UTF-8 through as surrogates
        except UnicodeError as error:
            raise _not_utf8(error) from error
        except OSError as error:
            raise UserError(f"can't read the input: {error.strerror}: start chat on a terminal or a pipe") from error
        if not line:
            return
        line = line.rstrip("\r\n")
        if not line.strip():
            continue
        if not terminal:
            _print(output, f"{PROMPT}{line}\n")
        yield line


def _standard_input() -> TextIO:
    """Standard input; from a pipe or file it is UTF-8, a byte-order mark aside, whatever the terminal has."""
    if sys.stdin is None:
        raise UserError("there is no standard input to read messages from: start chat on a terminal or a pipe")
    if not sys.stdin.isatty() and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")
    return sys.stdin


def _not_utf8(error: UnicodeError) -> UserError:
    if isinstance(error, UnicodeDecodeError):
        try:
            decode_utf8(error.object, "the input")
        except UserError as named:
            return named
    return UserError(f"the input is not UTF-8 text: {error}: convert it first")


def _questions(input: TextIO, output: TextIO) -> Callable[[], str]:
    """What asks a terminal for a message and returns it with its end; an empty string when the user ends the input."""
    editor = _editor() if (input, output) == (sys.stdin, sys.stdout) and output.isatty() else None

    def ask() -> str:
        try:
            if editor is not None:
                return editor.prompt(PROMPT) + "\n"
            _print(output, PROMPT)
            return input.readline()
        except (EOFError, KeyboardInterrupt):
            _print(output, "\n")
            return ""

    return ask


def _editor() -> "PromptSession[str]":
    """Edits messages of several lines, and remembers those of this process alone: what was said stays private."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(multiline=True, key_bindings=keys, reserve_space_for_menu=0)


def _print(output: TextIO, text: str) -> None:
    """Writes a part of the conversation; neither the model nor a name in a message may command a terminal."""
    write_out(visible(text), output)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yields an event that Ctrl-C sets; a second Ctrl-C acts as usual.

    An exception could come between two layers and leave the memory half a token ahead of itself.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may handle signals
        return
    usual = signal.getsignal(signal.SIGINT) or signal.default_int_handler  # None where it isn't Python's

    def remember(*_: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, remember)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, usual)
