"""A conversation on the terminal or through a pipe."""

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from transformers import PreTrainedTokenizerFast

from sioconv.errors import UserError
from sioconv.generate.config import SamplingConfig
from sioconv.generate.conversation import Conversation
from sioconv.generate.sampling import random_seed
from sioconv.generate.session import Session
from sioconv.generate.states.store import StateStore
from sioconv.language import translated
from sioconv.model import SioConvForCausalLM
from sioconv.progress import busy
from sioconv.terminal import decode_utf8, in_lines, show, show_json, visible, write_out

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
/history      what was said so far
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
    store: StateStore | None = None,
    keep_transcript: bool = True,
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
        store: where what was read is kept and looked for; None for none.
        keep_transcript: whether files that are saved hold what was said.
        input: where lines come from, stdin unless given.
        output: where replies go, stdout unless given.

    Raises:
        UserError: `load` can't be loaded or comes with a `system`, there is no input or it isn't UTF-8, or the model's
            weights are broken.
    """
    output = sys.stdout if output is None else output
    conversation = begin(model, tokenizer, sampling, system, load, store, keep_transcript)
    with finishing(conversation):
        _talk(conversation, sampling, input, output)


def _talk(conversation: Conversation, sampling: SamplingConfig, input: TextIO | None, output: TextIO) -> None:
    for line in _lines(_standard_input() if input is None else input, output):
        if not line.startswith("/"):
            _reply(conversation.reply(line.strip(), sampling), output)
        elif line.split() == ["/retry"]:
            try:
                _reply(conversation.retry(sampling), output)
            except UserError as error:
                _print(output, in_lines(f"[{error}]\n", output))
        elif line.split()[0] == "/exit":
            return
        else:
            _print(output, in_lines(f"{_command(conversation, line)}\n", output))


def begin(
    model: SioConvForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    sampling: SamplingConfig,
    system: str | None = None,
    load: str | Path | None = None,
    store: StateStore | None = None,
    keep_transcript: bool = True,
    at_once: bool = True,
) -> Conversation:
    """A new conversation, or one that was kept; for the arguments see `chat_loop`.

    Where nobody could ask for its replies again, as their seed is drawn and forgotten, it talks at once: see `Engine`.

    Raises:
        UserError: `load` can't be loaded, or comes with a `system`.
    """
    if system is not None and load is not None:
        raise UserError(
            "a conversation from a file has its instructions already: leave out the system text or the file"
        )
    seed = random_seed() if sampling.seed is None else sampling.seed
    at_once = at_once and sampling.seed is None and load is None and store is None and sampling.temperature > 0
    conversation = Conversation(model, tokenizer, seed, system, store, keep_transcript, at_once)
    if load is not None:
        conversation.load(Path(load))
    return conversation


@contextlib.contextmanager
def finishing(conversation: Conversation) -> Iterator[None]:
    """At the end, waits for the kernel that is being compiled: a process that ends meanwhile would crash in it."""
    try:
        yield
    finally:
        try:
            with busy("compiling the kernel for the next time"):
                conversation.finish()
        except KeyboardInterrupt:
            sys.stdout.flush()
            os._exit(130)  # the compiler can't be stopped otherwise


def answer(conversation: Conversation, messages: Iterable[str], sampling: SamplingConfig, json: bool = False) -> None:
    """Answers messages and writes the replies alone to standard output, for programs.

    Args:
        conversation: what they are said in.
        messages: the user's, in order.
        sampling: the settings of the replies.
        json: whether each reply is an object on a line of its own, with what was read and written for it.

    Raises:
        UserError: a message is empty or no text, or the model's weights are broken.
    """
    for message in messages:
        if not message.strip():
            raise UserError("a message is empty: give one with text")
        try:
            message.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"a message is not text: {error}: give UTF-8") from error
        pieces = conversation.reply(message, sampling)
        if not json:
            for piece in pieces:
                show(piece, end="")
            show("")
            continue
        reply, session = "".join(pieces), conversation.session
        values = {"message": message, "reply": reply, "tokens": session.reply_tokens, "stopped_by": session.stopped_by}
        values |= {"tokens_per_second": conversation.tokens_per_second, "seed": session.seed}
        reading = session.reading
        values |= {"reused_tokens": reading.reused, "read_tokens": reading.read, "not_reused_because": reading.why}
        show_json(values)


def _history(conversation: Conversation) -> str:
    signs = {"user": PROMPT, "system": translated("[system] ")}
    turns = [f"{signs.get(role, '')}{text}" for role, text in conversation.session.transcript]
    return "\n".join(turns) or translated("[nothing was said, or the file that was loaded doesn't hold it]")


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
                return translated(HELP)
            case "/reset" if not said:
                conversation.reset()
                return translated("[a new conversation]")
            case "/undo" if not said:
                conversation.undo()
                return translated(f"[taken back: {_extent(conversation.session)}]")
            case "/history" if not said:
                return _history(conversation)
            case "/memory" if not said:
                return _memory(conversation)
            case "/save" | "/load" | "/fork" | "/system":
                return _command_with_argument(conversation, name, said)
    except (UserError, RuntimeError) as error:  # RuntimeError: ~ of a user who doesn't exist
        return f"[{translated(str(error))}]"
    return translated(f"[no such command: {name}: /help lists them; a message may begin with / after a space]")


def _command_with_argument(conversation: Conversation, name: str, said: str) -> str:
    if name == "/fork":
        if not said:
            here = translated(" (this one)")
            return f"[{', '.join(each + here * (each == conversation.name) for each in conversation.names)}]"
        made = conversation.fork(said)
        extent = _extent(conversation.session)
        return translated(f"[a copy called {said}: {extent}]" if made else f"[now in {said}: {extent}]")
    if name == "/system":
        if not said:
            return translated("[no instructions]") if conversation.system is None else f"[{conversation.system}]"
        conversation.system = said
        conversation.reset()
        return translated("[a new conversation with these instructions]")
    if not said:
        return translated(f"[{name} needs the name of a file: {name} FILE]")
    path = Path(said).expanduser()
    if name == "/save":
        conversation.save(path)
        return translated(f"[saved to {path}]")
    conversation.load(path)
    return translated(f"[loaded from {path}: {_extent(conversation.session)}]")


def _extent(session: Session) -> str:
    return translated(f"replies {session.turns}, tokens {session.tokens_seen}")


def _memory(conversation: Conversation) -> str:
    session = conversation.session
    reading, (snapshots, size) = session.reading, session.snapshots
    return translated(
        f"[state {session.state.bytes / 1000:.1f} kB, {_extent(session)}; last reply: tokens reused {reading.reused}, "
        f"read {reading.read}, written {session.reply_tokens} at {conversation.tokens_per_second:.0f}/s; "
        f"snapshots {snapshots}, {size / 1000:.1f} kB]"
    )


def _lines(input: TextIO, output: TextIO) -> Iterator[str]:
    """The lines of the input that aren't blank, without their ends; Ctrl-C at a terminal's prompt ends them too."""
    terminal = input.isatty()
    ask: Callable[[], str] = input.readline
    if terminal:
        _print(output, translated("/help lists the commands") + "\n")
        ask = _questions(input, output)
    for line in _messages(ask):
        if not terminal:
            _print(output, f"{PROMPT}{line}\n")
        yield line


def input_lines() -> Iterator[str]:
    """The lines of standard input that aren't blank. Raises UserError where there is none, or it isn't UTF-8."""
    return _messages(_standard_input().readline)


def _messages(ask: Callable[[], str]) -> Iterator[str]:
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
        if line.strip():
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
