"""The form of `/v1/responses`: input items, the response object and its parts."""

from collections.abc import Sequence
from typing import Any

from sioconv.serve.api.replies import Asked, logprobs_of, usage_of
from sioconv.serve.api.schema import ResponseRequest
from sioconv.serve.errors import ApiError
from sioconv.serve.writing import Token

TEXTS = ("input_text", "output_text", "text")
ITEM_KEYS = {"type", "role", "content", "id", "status"}


def messages_of(items: str | Sequence[dict[str, Any]], param: str = "input") -> list[dict[str, Any]]:
    """Messages from a text or from items of the type `message`. Raises ApiError for all other items."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages = []
    for number, item in enumerate(items):
        if item.get("type", "message") != "message":
            raise ApiError(400, f"an item of type {str(item['type'])[:40]!r} can't be read: give messages", param)
        if strange := sorted(set(item) - ITEM_KEYS):
            raise ApiError(400, f"the field {param}[{number}].{strange[0][:40]} isn't supported: leave it out", param)
        messages.append({"role": item.get("role"), "content": _text(item.get("content"), param)})
    return messages


def _text(content: Any, param: str) -> Any:
    if not isinstance(content, list):
        return content
    parts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in TEXTS or not isinstance(part.get("text"), str):
            raise ApiError(400, "a part of a message isn't text: only text can be read", param)
        parts.append(part["text"])
    return "".join(parts)


def response_of(asked: Asked, body: ResponseRequest, status: str, tokens: Sequence[Token], stored: bool) -> Any:
    """The response object.

    Args:
        asked: the request, while it runs or after.
        body: what was asked for.
        status: `in_progress`, `completed`, `incomplete`, `cancelled` or `failed`.
        tokens: with log-probabilities, where they are asked for.
        stored: whether it can be asked for again.
    """
    sampling, over = asked.sampling, status != "in_progress"
    usage, format = usage_of(asked.writing), body.text.format if body.text else None
    conversation = body.conversation if isinstance(body.conversation, str | None) else body.conversation.id
    return {
        "id": asked.id,
        "object": "response",
        "created_at": asked.created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": asked.served.name,
        "output": [item_of(asked, status, tokens)] if over else [],
        "parallel_tool_calls": False,
        "previous_response_id": body.previous_response_id,
        "conversation": None if conversation is None else {"id": conversation},
        "reasoning": {"effort": None, "summary": None},
        "store": stored,
        "temperature": sampling.temperature,
        "text": {"format": format.model_dump(by_alias=True) if format else {"type": "text"}},
        "tool_choice": "none",
        "tools": [],
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "metadata": body.metadata or {},
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }
        if over
        else None,
        "sioconv": asked.extras(),
    }


def item_of(asked: Asked, status: str, tokens: Sequence[Token]) -> dict[str, Any]:
    """The message that was written; without its content while it is."""
    return {
        "id": message_id(asked),
        "type": "message",
        "status": {"incomplete": "incomplete", "in_progress": "in_progress"}.get(status, "completed"),
        "role": "assistant",
        "content": [] if status == "in_progress" else [part_of(asked, tokens)],
    }


def part_of(asked: Asked, tokens: Sequence[Token] | None) -> dict[str, Any]:
    """The message's content; without text where `tokens` is None."""
    text = "" if tokens is None else asked.writing.replies[0].text
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": logprobs_of(asked.served, tokens or ()),
    }


def message_id(asked: Asked) -> str:
    """The id of the message that was written."""
    return "msg_" + asked.id.removeprefix("resp_")
