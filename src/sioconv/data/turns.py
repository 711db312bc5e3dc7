"""The turns of a conversation as text: the role token that begins each turn, its content, tools and tool calls."""

import json
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

from sioconv.errors import UserError

Message = Mapping[str, Any]
Tool = Mapping[str, Any] | Callable[..., Any]
TURN_OF = {"system": "system", "developer": "system", "user": "user", "tool": "user", "assistant": "assistant"}
# The keys of a message. Names and ids say which answer is for which call, to callers: a model doesn't see them.
KNOWN = ("role", "content", "tool_calls", "tool_call_id", "name", "weight")


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
    from transformers.utils.chat_template_utils import get_json_schema  # takes a second, and few give functions

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
