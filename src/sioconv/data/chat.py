"""Conversations as token ids, for tuning, chat and serving alike.

A conversation is bos, then for every turn a role's token, its text and the end-of-turn token. Special tokens enter by
their ids and text goes through `encode_texts`, so no text of a user can become one of them. On text that spells no
special token the result equals the tokenizer's chat template; `apply_chat_template` of transformers by itself gives no
such protection.

Roles without a token of their own speak in another's turn: `developer` as system, `tool` as user, its text between
`<tool_response>` and `</tool_response>`. Tools that the assistant may call are listed in the system's turn, and its
calls stand behind what it says, `<tool_call>` each (the form of NousResearch's Hermes and of Qwen, which servers know).
"""

import json
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import get_json_schema

from sioconv.data.tokenizer import BOS, END_OF_TURN, ROLE_TOKENS, encode_texts
from sioconv.errors import UserError

Message = Mapping[str, Any]
Tool = Mapping[str, Any] | Callable[..., Any]
TURN_OF = {"system": "system", "developer": "system", "user": "user", "tool": "user", "assistant": "assistant"}
# The keys of a message. Names and ids say which answer is for which call, to callers: a model doesn't see them.
KNOWN = ("role", "content", "tool_calls", "tool_call_id", "name")


def encode(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] | None = None,
    add_generation_prompt: bool = False,
) -> tuple[list[int], list[int]]:
    """One conversation as token ids, and which of them are learned.

    Args:
        tokenizer: a tokenizer with this project's special tokens.
        messages: turns, each with `role` (a key of `TURN_OF`) and `content`, text or a list of parts
            `{"type": "text", "text": …}`. The assistant's may have `tool_calls`, each with `name` and `arguments`
            (an object or its JSON), also inside a `function`.
        tools: what the assistant may call: JSON schemas, or functions with types and a docstring.
        add_generation_prompt: end with the assistant's token, for a model to go on from.

    Returns:
        ids and, as long as they, a mask that is 1 on what the assistant says and calls and on its end-of-turn tokens,
        else 0.

    Raises:
        UserError: no messages, another role, or a message that isn't text only.
    """
    [(ids, mask)] = encode_batch(tokenizer, [messages], [tools])
    if add_generation_prompt:
        ids.append(_id(tokenizer, ROLE_TOKENS["assistant"]))
        mask.append(0)
    return ids, mask


def encode_batch(
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[Sequence[Message]],
    tools: Sequence[Sequence[Tool] | None] | None = None,
) -> list[tuple[list[int], list[int]]]:
    """What `encode` gives for each conversation, with all their text tokenised together, which is faster.

    `tools` has as many entries as `conversations`.
    """
    offered = [None] * len(conversations) if tools is None else tools
    turns = [turns_of(messages, some) for messages, some in zip(conversations, offered, strict=True)]
    texts = iter(encode_texts(tokenizer, [text for conversation in turns for _, text in conversation]))
    bos, end = _id(tokenizer, BOS), end_of_turn_id(tokenizer)
    roles = {role: _id(tokenizer, token) for role, token in ROLE_TOKENS.items()}
    encoded = []
    for conversation in turns:
        ids, mask = [bos], [0]
        for role, _ in conversation:
            text = next(texts)
            ids += [roles[role], *text, end]
            mask += [0, *[int(role == "assistant")] * (len(text) + 1)]
        encoded.append((ids, mask))
    return encoded


def encode_turn(tokenizer: PreTrainedTokenizerFast, role: str, text: str) -> list[int]:
    """The ids of one turn without bos, for a session that appends turn by turn. Raises UserError as `encode` does."""
    ids, _ = encode(tokenizer, [{"role": role, "content": text}])
    return ids[1:]


def end_of_turn_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id that ends a turn."""
    return _id(tokenizer, END_OF_TURN)


def turns_of(messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> list[tuple[str, str]]:
    """The turns that `encode` makes of a conversation: whose token begins each, and its text.

    Raises:
        UserError: as `encode` does.
    """
    if not messages:
        raise UserError("empty conversation: no messages: give at least one")
    turns = [_turn(message) for message in messages]
    if tools:
        offer = "<tools>\n" + "".join(_json(_schema(tool)) + "\n" for tool in tools) + "</tools>"
        role, text = turns[0]
        turns[:1] = [(role, f"{text}\n\n{offer}")] if role == "system" else [("system", offer), turns[0]]
    for role, text in turns:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _bad(f"the text of the role {role} has a lone surrogate", "give UTF-8 text") from error
    return turns


def _turn(message: Message) -> tuple[str, str]:
    role = message.get("role")
    if role not in TURN_OF:
        raise UserError(f"unknown role: {role!r}: choose one of {', '.join(TURN_OF)}")
    for key, value in message.items():
        if key not in KNOWN and value is not None and not (isinstance(value, Sized) and len(value) == 0):
            raise _bad(f"the role {role} has {key!r}, which can't be read", "give content or tool_calls")
    content, calls = message.get("content"), message.get("tool_calls") or []
    if calls and role != "assistant":
        raise _bad(f"the role {role} has tool_calls", "only the assistant calls tools")
    text = "" if calls and content is None else _text(content, role)
    if role == "tool":
        text = f"<tool_response>\n{text}\n</tool_response>"
    for number, call in enumerate(calls):
        text += ("\n" if content or number else "") + _call(call)
    return TURN_OF[role], text


def _text(content: Any, role: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise _bad(f"the content of the role {role} is {type(content).__name__}", "give text")
    for part in content:
        if not isinstance(part, Mapping):
            raise _bad(f"a content part of the role {role} is {type(part).__name__}", "give objects with type and text")
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise _bad(f"a content part of type {part.get('type')!r} can't be read", "give text")
    return "".join(part["text"] for part in content)


def _call(call: Any) -> str:
    function = (call.get("function") or call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise _bad("a tool call has no name", "give a name and arguments")
    arguments = function.get("arguments", {})
    written = arguments if isinstance(arguments, str) else _json(arguments)
    return f'<tool_call>\n{{"name": {_json(function["name"])}, "arguments": {written}}}\n</tool_call>'


def _schema(tool: Tool) -> Mapping[str, Any]:
    if isinstance(tool, Mapping):
        return tool
    try:
        schema: Mapping[str, Any] = get_json_schema(tool)
    except Exception as error:  # transformers raises several kinds for a function without types or docstring
        raise UserError(f"bad tool: {tool!r}: {' '.join(str(error).split())}: give a JSON schema") from error
    return schema


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise _bad(f"what a tool is or takes isn't JSON ({error})", "give JSON") from error


def _bad(problem: str, advice: str) -> UserError:
    return UserError(f"bad message: {problem}: {advice}")


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(number, int) or number == tokenizer.unk_token_id:
        raise UserError(f"not a tokenizer of this project: it lacks {token}: train one")
    return number
