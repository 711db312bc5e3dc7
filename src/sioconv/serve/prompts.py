"""From a request's messages and state to what the engine reads."""

import asyncio
import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from sioconv.data.chat import encode
from sioconv.errors import UserError
from sioconv.generate.constraint import Form, Grammar
from sioconv.serve.config import ServeConfig
from sioconv.serve.errors import ApiError, of_user_error
from sioconv.serve.models import ServedModel, Start
from sioconv.serve.writing import Prompt


def start_of(served: ServedModel, persona: str | None, state: str | None) -> tuple[Start, bool]:
    """What a text begins from, and whether what is read after that may be stored.

    Args:
        served: the model.
        persona: the name of another beginning.
        state: a state file in base64 that the client keeps.

    Raises:
        ApiError: there is no such persona, or both are given, or the state can't be used.
    """
    if state is None:
        if persona is None:
            return Start(), True
        if persona not in served.personas:
            known = f"; it has: {', '.join(served.personas)}" if served.personas else ": it has none"
            raise ApiError(404, f"{served.name} has no such persona{known}", "persona", "persona_not_found")
        return served.personas[persona], True
    if persona is not None:
        raise ApiError(400, "persona and state are both given: a state has a persona's beginning in it", "persona")
    try:
        data = base64.b64decode(state, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, "the state isn't base64: give what return_state gave", "state") from error
    try:
        return served.unpack(data), False
    except UserError as error:
        raise of_user_error(error, "state") from error


async def chat_prompt(
    served: ServedModel,
    messages: Sequence[Mapping[str, Any]],
    start: Start,
    owner: str,
    stored: bool,
    config: ServeConfig,
    param: str = "messages",
) -> Prompt:
    """The prompt of a conversation's next reply.

    Args:
        served: the model.
        messages: the whole conversation; after a state with text in it, what is new.
        start: what the text begins from.
        owner: whose text it is.
        stored: whether the store of snapshots may be used.
        config: the server's limits.
        param: the field that the messages came in.

    Raises:
        ApiError: the messages can't be read, or are too long.
    """
    try:
        ids, mask = await asyncio.to_thread(encode, served.tokenizer, messages, add_generation_prompt=True)
    except UserError as error:
        raise of_user_error(error, param) from error
    last = max((i for i, learned in enumerate(mask) if learned), default=0)
    history = frozenset(ids[last + 1 :]) - served.vocabulary.special
    if start.state.tokens or start.pending:
        ids = [*start.pending, *ids[1:]]
    return checked(Prompt(ids, start.state, scope_of(owner, start), history, stored), config, param)


async def grammar_of(served: ServedModel, form: Form | None, param: str) -> Grammar | None:
    """What a reply must be, compiled. Raises ApiError where it can't be."""
    if form is None:
        return None
    try:
        return await asyncio.to_thread(served.grammars.compile, form)
    except UserError as error:
        raise of_user_error(error, param if form.kind == "schema" else form.kind) from error


def scope_of(owner: str, start: Start) -> str:
    """Whose texts can find each other's states: those of one owner that begin alike."""
    return f"{owner}/{start.name}" if start.name else owner


def checked(prompt: Prompt, config: ServeConfig, param: str) -> Prompt:
    """The prompt itself. Raises ApiError where it is too long."""
    if prompt.tokens - prompt.state.tokens > config.max_prompt_tokens:
        message = f"the prompt has {len(prompt.ids)} tokens: this server takes {config.max_prompt_tokens}"
        raise ApiError(400, message, param, "context_length_exceeded")
    return prompt


def to_base64(data: bytes) -> str:
    """A state file as text."""
    return base64.b64encode(data).decode()
