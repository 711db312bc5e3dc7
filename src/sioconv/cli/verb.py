"""One verb of the command line: its help, its options, and the function that it calls."""

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, get_args

from sioconv.errors import UserError
from sioconv.language import language, translated, wrapped
from sioconv.terminal import show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

# What jsonargparse puts behind an option's help.
LIBRARY_WORDS = (("(required, ", "(必須、"), ("(type: ", "(型: "), ("type: ", "型: "), ("default: ", "既定値: "))
WHOLE = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE]\+?[0-9]{1,2})?", re.ASCII)  # if it is one


@dataclass(frozen=True)
class Verb(ABC):
    """A verb.

    Args:
        name: one word or two.
        operands: follow it in the usage, such as `MODEL`.
        summary: its line in `sioconv --help`.
        purpose: the beginning of its own help.
        example: a whole command line, or several.
    """

    name: str
    operands: str
    summary: str
    purpose: str
    example: str

    @abstractmethod
    def parser(self) -> "ArgumentParser":
        """A parser of its arguments."""

    @abstractmethod
    def call_with(self, arguments: list[str]) -> None:
        """Does the work. Raises UserError for arguments that the verb doesn't take."""

    def run(self, arguments: list[str]) -> None:
        """Does the work, or prints the help. Raises UserError for arguments that the verb doesn't take."""
        end = arguments.index("--") if "--" in arguments else len(arguments)
        if {"-h", "--help"}.intersection(arguments[:end]):
            show(self.help(), end="")
        else:
            self.call_with(arguments)

    def help(self) -> str:
        """Its `--help`. The purpose isn't given to the parser, which would break the example's lines."""
        example = "\n".join(translated(f"Example: {example}") for example in self.example.splitlines())
        return f"{translated(self.purpose)}\n\n{example}\n\n{self.usage()}"

    def usage(self) -> str:
        """What its help says of operands and options."""
        return _in_language(self.parser())

    def parts(self) -> Iterator[str]:
        """What its help says of the options, for translators."""
        parser = self.parser()
        for group in parser._action_groups:
            yield from (text for text in (group.title, group.description) if text)
        yield from (action.help for action in parser._actions if action.help and action.help != "==SUPPRESS==")


def _in_language(parser: "ArgumentParser") -> str:
    """The help of a parser; in Japanese what the libraries say too, in lines of the right width."""
    if language() == "en":
        return parser.format_help()
    for group in parser._action_groups:
        group.title = group.title and translated(group.title)
        group.description = group.description and translated(group.description)
    for action in parser._actions:
        if action.help and action.help != "==SUPPRESS==":
            action.help = translated(" ".join(action.help.split()))
    usual = parser.formatter_class

    class Formatter(usual):  # type: ignore[misc, valid-type]
        """The usual one, which counts letters where a terminal has columns."""

        def _split_lines(self, text: str, width: int) -> list[str]:
            for english, ours in LIBRARY_WORDS:
                text = text.replace(english, ours)
            text = re.sub(r"(?<=[ぁ-ん一-鿿])\.$", "。", text)
            return list(wrapped(text, width))

    parser.formatter_class = Formatter
    return parser.format_help().replace("usage:", translated("usage:"), 1)


@dataclass(frozen=True)
class OptionVerb(Verb):
    """A verb with options of its own.

    Args:
        options: adds its arguments to a parser.
        call: does the work; gets the parsed arguments.
    """

    options: Callable[["ArgumentParser"], None]
    call: Callable[["Namespace"], None]

    def parser(self) -> "ArgumentParser":
        """A parser of its arguments."""
        from jsonargparse import ArgumentParser

        parser = ArgumentParser(prog=f"sioconv {self.name}", exit_on_error=False, default_env=False)
        self.options(parser)
        return parser

    def call_with(self, arguments: list[str]) -> None:
        """Calls the verb's function. What stands behind `--` is no option."""
        from jsonargparse import ArgumentError

        end = arguments.index("--") if "--" in arguments else len(arguments)
        parser = self.parser()
        # --max-new-tokens and --max_new_tokens are the same option.
        named = _with_digits(parser, [_underscores(argument) for argument in arguments[:end]])
        try:
            parsed = parser.parse_args(_options_first(parser, named, arguments[end + 1 :]))
        except ArgumentError as error:
            raise UserError(f"{' '.join(str(error).split())}; see {parser.prog} --help") from error
        for name, value in vars(parsed).items():
            if isinstance(value, int) and value.bit_length() > 64:
                raise UserError(f"{name} out of range: it has more than 64 bits; see {parser.prog} --help")
        parsed.given = frozenset(word.partition("=")[0][2:] for word in named if word.startswith("--"))
        parsed.line = shlex.join(["sioconv", *self.name.split(), *arguments])  # as it was given, for messages
        self.call(parsed)


def _options_first(parser: "ArgumentParser", arguments: list[str], rest: list[str]) -> list[str]:
    """Options before everything else: argparse gives what takes many words only those of one place.

    A line with an option that isn't known stays as it is.
    """
    options, words, left = list[str](), list[str](), arguments[:]
    while left:
        word = left.pop(0)
        if not word.startswith("--") and word not in parser._option_string_actions:
            words.append(word)
            continue
        action = parser._option_string_actions.get(word.partition("=")[0])
        if action is None:
            return [*arguments, "--", *rest] if rest else arguments
        options.append(word)
        if "=" not in word and action.nargs != 0 and left:
            options.append(left.pop(0))
    return [*options, "--", *words, *rest] if words or rest else options


def _with_digits(parser: "ArgumentParser", arguments: list[str]) -> list[str]:
    """The arguments with whole numbers such as 1e6 or 1.5e3, where an option takes one, in digits: as in recipes."""
    whole = set()
    for action in parser._actions:
        hint = getattr(action, "_typehint", action.type)
        if int in (hint, *get_args(hint)):
            whole |= set(action.option_strings)
    found = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        key, equals, value = argument.partition("=") if argument.startswith("--") else (before, "", argument)
        short = len(value) < 100  # Python refuses to write numbers of thousands of digits
        if key in whole and short and WHOLE.fullmatch(value) and (number := Decimal(value)) == int(number):
            argument = f"{key}={int(number)}" if equals else str(int(number))
        found.append(argument)
    return found


def _underscores(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    key, equals, value = argument.partition("=")
    return "--" + key[2:].replace("-", "_") + equals + value
