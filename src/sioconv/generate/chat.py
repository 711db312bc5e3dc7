"""A conversation on the terminal or through a pipe."""

import builtins
import contextlib
import io
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TextIO

from transformers import PreTrainedTokenizerFast

from sioconv.data.chat import encode_turn
from sioconv.errors import UserError
from sioconv.generate.config import SamplingConfig
from sioconv.generate.sampling import random_seed
from sioconv.generate.session import Session
from sioconv.model import SioConvForCausalLM
from sioconv.terminal import decode_utf8, visible, write_out

PROMPT = "> "
HELP = """\
/reset       forget the conversation and begin anew
/save FILE   keep the conversation in a file
/load FILE   go on with a conversation that was kept
/help        this list
/exit        end, as Ctrl-D does; Ctrl-C ends a reply
A line that begins with a space is a message even where a / follows."""


class Conversation:
    """A session that is fed messages.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        seed: seed of new sessions.
        system: instructions that stand at the beginning of new sessions.

    Attributes:
        session: the model's side of the conversation.
    """

    def __init__(
        self,
        model: SioConvForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
        system: str | None = None,
    ) -> None:
        self._model, self._tokenizer, self._seed, self._system = model, tokenizer, seed, system
        self.session = Session(model, tokenizer, seed)

    def reset(self) -> None:
        """Begins anew."""
        self.session = Session(self._model, self._tokenizer, self._seed)

    def load(self, path: Path) -> None:
        """Goes on with a saved session. Raises `UserError` when it can't be loaded; the one at hand then stays."""
        self.session = Session.load(path, self._model, self._tokenizer)

    def reply(self, message: str, sampling: SamplingConfig) -> Generator[str, None, None]:
        """Feeds the user's message and yields the reply as it comes; the turn is closed however the reply ends."""
        ids = []
        if self.session.tokens_seen == 0:
            ids = [self.session.vocabulary.bos]
            if self._system is not None:
                ids += encode_turn(self._tokenizer, "system", self._system)
        ids += [*encode_turn(self._tokenizer, "user", message), self.session.vocabulary.assistant]
        self.session.feed(ids)
        try:
            yield from self.session.stream(sampling)
        finally:
            self.session.end_turn()


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
        if line.startswith("/"):
            if line.split()[0] == "/exit":
                return
            _print(output, f"{_command(conversation, line)}\n")
        else:
            _reply(conversation, line.strip(), sampling, output)


def _reply(conversation: Conversation, message: str, sampling: SamplingConfig, output: TextIO) -> None:
    with _interruptible() as interrupted, contextlib.closing(conversation.reply(message, sampling)) as pieces:
        for piece in pieces:
            _print(output, piece)
            if interrupted.is_set():
                break
    _print(output, "\n")


def _command(conversation: Conversation, line: str) -> str:
    """Does what a line with a / says and returns what to tell the user."""
    name, *rest = line.split(maxsplit=1)
    try:
        path = Path(rest[0].strip()).expanduser() if rest else None
        match name, path:
            case "/help", None:
                return HELP
            case "/reset", None:
                conversation.reset()
                return "[a new conversation]"
            case "/save", Path():
                conversation.session.save(path)
                return f"[saved to {path}]"
            case "/load", Path():
                conversation.load(path)
                session = conversation.session
                return f"[loaded from {path}: replies {session.turns}, tokens {session.tokens_seen}]"
            case "/save" | "/load", None:
                return f"[{name} needs the name of a file: {name} FILE]"
    except (UserError, RuntimeError) as error:  # RuntimeError: ~ of a user who doesn't exist
        return f"[{error}]"
    return f"[no such command: {name}: /help lists them; a message may begin with / after a space]"


def _lines(input: TextIO, output: TextIO) -> Iterator[str]:
    """The lines of the input that aren't blank, without their ends; Ctrl-C at a terminal's prompt ends them too."""
    terminal = input.isatty()
    if terminal:
        with contextlib.suppress(ImportError):  # Windows has none; elsewhere importing it lets `input` edit lines
            import readline  # noqa: F401
        _print(output, "/help lists the commands\n")
    while True:
        try:
            line = _ask(input, output) if terminal else input.readline()
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


def _ask(input: TextIO, output: TextIO) -> str:
    """One line from a terminal with its end; an empty string when the user ends the input."""
    try:
        if (input, output) == (sys.stdin, sys.stdout):
            return builtins.input(PROMPT) + "\n"
        _print(output, PROMPT)
        return input.readline()
    except (EOFError, KeyboardInterrupt):
        _print(output, "\n")
        return ""


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
