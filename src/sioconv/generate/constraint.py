"""Texts of a given form: a JSON schema, a regular expression, or one of some strings.

llguidance says which tokens may come next. It works on the bytes of the tokens, the same ones that `Vocabulary` prints,
so a character may be spread over tokens in any way, and what is printed is exactly what was allowed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import llguidance
import numpy as np
from numpy.typing import NDArray

from sioconv import unique_keys
from sioconv.errors import UserError
from sioconv.generate.vocabulary import Vocabulary
from sioconv.terminal import one_line

Kind = Literal["schema", "regex", "choice"]
NAMES: dict[Kind, str] = {"schema": "JSON schema", "regex": "regular expression", "choice": "choice"}
# One space behind commas and colons, as most JSON in texts has it, and no other blanks: where any may come, a model can
# write them without an end. A schema's own `x-guidance` stands above this.
SPACES: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
KEPT = 64  # compiled forms


@dataclass(frozen=True)
class Form:
    """What a text must be.

    Args:
        kind: `schema`, a JSON document that a schema allows; `regex`, a text that a regular expression matches as a
            whole; `choice`, one of some strings.
        text: the schema, the expression in the syntax of Rust's regex crate, or the strings as a JSON list.
    """

    kind: Kind
    text: str

    @classmethod
    def of(
        cls,
        schema: str | Mapping[str, Any] | None = None,
        regex: str | None = None,
        choice: Sequence[str] = (),
    ) -> "Form | None":
        """The form that one of the arguments asks for; None where none does.

        Args:
            schema: a JSON schema, as text or as what its JSON means.
            regex: a regular expression.
            choice: strings, of which one is written.

        Raises:
            UserError: more than one is given, the schema isn't JSON, or something isn't text.
        """
        given: dict[Kind, Any] = {"schema": schema, "regex": regex, "choice": list(choice) or None}
        forms = [cls._of(kind, value) for kind, value in given.items() if value is not None]
        if len(forms) > 1:
            raise UserError("a text has one form: give a schema, a regular expression or choices")
        return forms[0] if forms else None

    @classmethod
    def _of(cls, kind: Kind, value: Any) -> "Form":
        if kind == "schema" and isinstance(value, str):
            try:
                value = unique_keys.loads(value)
            except unique_keys.RepeatedKeyError as error:
                raise UserError(f"the schema: {error}: leave one of them out") from error
            except (ValueError, RecursionError) as error:
                raise UserError(f"the schema is not JSON: {error}: give a JSON schema") from error
        if kind == "schema" and not isinstance(value, Mapping):
            raise UserError(f"the schema is a {type(value).__name__}: give a JSON object")
        if kind == "choice" and "" in value:
            raise UserError("a choice is empty: give strings that aren't")
        text = value if kind == "regex" else json.dumps(value, ensure_ascii=False)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"the {NAMES[kind]} is not text: {error}: give UTF-8") from error
        return cls(kind, text)


class Grammars:
    """Compiles forms for one vocabulary; the last ones are kept. For several threads.

    Args:
        vocabulary: whose tokens are written, of special ones only those that end a text or a turn.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._size = vocabulary.size
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Tokens(vocabulary)),
            n_vocab=vocabulary.size,
            eos_token=[vocabulary.eos, vocabulary.end_of_turn],
        )
        self._compiled = lru_cache(KEPT)(self._compile)

    def compile(self, form: Form) -> "Grammar":
        """What constraints of this form begin from.

        Raises:
            UserError: the form isn't valid, uses what llguidance doesn't know, or no text can be like that.
        """
        return self._compiled(form)

    def _compile(self, form: Form) -> "Grammar":
        if form.kind == "schema":
            grammar = llguidance.LLMatcher.grammar_from_json_schema(form.text, defaults=SPACES)
        else:
            regex = form.text if form.kind == "regex" else "|".join(map(_literally, json.loads(form.text)))
            grammar = llguidance.LLMatcher.grammar_from_regex(regex)
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # finds out whether anything may come
        if matcher.is_error():
            raise _refused(form, matcher.get_error())
        return Grammar(form, Constraint(matcher, self._size))


def _literally(string: str) -> str:
    """A regular expression that only this string matches, whatever is in it."""
    return "".join(f"\\x{{{ord(char):x}}}" for char in string)


def _refused(form: Form, message: str) -> UserError:
    """The compiler's message of several lines as one."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["it can't be compiled"]
    reason = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    if reason.startswith("NoExtension"):
        reason = "no text is like that"
    given = one_line(form.text)
    given = given if len(given) <= 60 else given[:60] + "…"
    return UserError(f"{NAMES[form.kind]} {given}: {one_line(reason)[:200]}: change it (docs/generation.md, Forms)")


class _Tokens:
    """A vocabulary as llguidance wants it."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.eos
        self.special_token_ids = [vocabulary.eos, vocabulary.end_of_turn]
        banned = set(vocabulary.banned.tolist())
        # Tokens without bytes are never allowed; 0xff begins what is no text.
        self.tokens = [b"" if i in banned else vocabulary.bytes_of(i) for i in range(vocabulary.size)]
        for i in self.special_token_ids:
            self.tokens[i] = b"\xff<%d>" % i
        self._encode = vocabulary.encode

    def __call__(self, text: bytes) -> list[int]:
        return self._encode(text.decode())


class Constraint:
    """Which tokens may come next in one text; follows the tokens that are chosen.

    Args:
        matcher: llguidance's, which this one advances.
        size: V, the number of rows of the model's head.
    """

    def __init__(self, matcher: llguidance.LLMatcher, size: int) -> None:
        self._matcher, self._size = matcher, size

    @property
    def complete(self) -> bool:
        """Whether the text is whole and nothing may follow it."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def whole(self) -> bool:
        """Whether the text would be whole if it ended here; more may be allowed to follow."""
        return self._matcher.is_accepting()

    def mask(self) -> NDArray[np.bool_]:
        """[V], True at the tokens that may come next: those that end a text among them, where it is whole.

        Raises:
            UserError: the form needs more than llguidance's limits allow.
        """
        words = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(words, count=self._size, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        """The token comes next. Raises UserError where it may not, and as `mask` does."""
        self._matcher.consume_token(token)
        self._check()

    def copy(self) -> "Constraint":
        """Another one, as far as this one is."""
        return Constraint(self._matcher.deep_copy(), self._size)

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = one_line(self._matcher.get_error().split("\n")[0])
            raise UserError(f"the form can't be followed: {reason[:200]}: make it simpler")


@dataclass(frozen=True)
class Grammar:
    """A compiled form.

    Args:
        form: what was compiled.
        start: before the first token; it stays so.
    """

    form: Form
    start: Constraint

    def after(self, ids: Sequence[int]) -> Constraint:
        """The constraint after the tokens of a text that has begun. Raises UserError where they aren't like that."""
        constraint = self.start.copy()
        for token in ids:
            constraint.accept(token)
        return constraint


@dataclass
class Document:
    """A text of some form that a session writes.

    Args:
        form: what it must be.
        start: tokens of the session's text before it.
        ids: its own so far, without the token that ends it.
        open: whether it is to be gone on with.
    """

    form: Form
    start: int
    ids: list[int]
    open: bool = True

    def cut(self, tokens: int) -> "Document | None":
        """What is left where the session's text goes back to so many tokens; None where that is before its start."""
        length = tokens - self.start
        if length < 0:
            return None
        if length > len(self.ids):
            return self.copy()
        return Document(self.form, self.start, self.ids[:length])

    def copy(self) -> "Document":
        """Another one with the same content."""
        return replace(self, ids=list(self.ids))
