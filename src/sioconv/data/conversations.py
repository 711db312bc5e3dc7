"""The forms in which conversations are published, all turned into one: turns with `role` and `content`.

The form is told by a record's keys, the first of these that is there:

- `messages`: turns with `role` and `content`, as OpenAI's API and HuggingFaceH4/ultrachat_200k have them;
- `conversations` or `conversation`: turns with `from` and `value`, as ShareGPT, shi3z/ja_conv_wikipedia_* and
  llm-jp/oasst1-21k-ja have them;
- `instruction`, maybe `input`, and `output`, as Alpaca's;
- `prompt` and `completion`, two texts or two lists of turns.

All but the first may have `system` beside them: what the model is told before.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Turns = list[dict[str, str]]
TURN_KEYS = (("role", "content"), ("from", "value"))
ROLE_OF = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
FORMS = (
    '"messages" (a list of {"role": "system|user|assistant", "content": "…"}), "conversations" (a list of '
    '{"from": "system|human|gpt", "value": "…"}), "instruction" and "output", or "prompt" and "completion"'
)


def conversation_of(record: Mapping[str, Any]) -> tuple[Turns, dict[str, Any]]:
    """The turns of a record in any of the forms, and its other keys.

    Raises ValueError saying what is wrong; nothing of a conversation is left out in silence.
    """
    rest = dict(record)
    if "messages" in rest:
        return _turns(rest.pop("messages"), "messages"), rest
    before = _system(rest.pop("system", None))
    for name in ("conversations", "conversation"):
        if name in rest:
            return before + _turns(rest.pop(name), name), rest
    if "instruction" in rest:
        question = text_of(rest.pop("instruction"), '"instruction"')
        if more := rest.pop("input", None):
            question += "\n\n" + text_of(more, '"input"')
        return [
            *before,
            _turn("user", question),
            _turn("assistant", text_of(rest.pop("output", None), '"output"')),
        ], rest
    if "prompt" in rest:
        prompt, completion = rest.pop("prompt"), rest.pop("completion", None)
        if isinstance(prompt, str):
            asked, answered = text_of(prompt, '"prompt"'), text_of(completion, '"completion"')
            return [*before, _turn("user", asked), _turn("assistant", answered)], rest
        return before + _turns(prompt, "prompt") + _turns(completion, "completion"), rest
    raise ValueError("none of the keys messages, conversations, instruction, prompt")


def _turns(turns: Any, name: str) -> Turns:
    if isinstance(turns, Mapping):  # a table's column of lists instead of a list of records
        columns = [values for values in turns.values() if isinstance(values, Sequence)]
        if len({len(values) for values in columns}) != 1 or len(columns) != len(turns):
            raise ValueError(f'"{name}" has columns of different lengths')
        turns = [dict(zip(turns, values, strict=True)) for values in zip(*columns, strict=True)]
    if not isinstance(turns, list) or not turns:
        raise ValueError(f'missing or empty "{name}"')
    found = []
    for number, turn in enumerate(turns, start=1):
        # Tables fill the keys that a turn doesn't have with null.
        keys = {key for key, value in turn.items() if value is not None} if isinstance(turn, Mapping) else set()
        who, what = next((pair for pair in TURN_KEYS if keys == set(pair)), (None, None))
        if who is None:
            pairs = " or ".join(f'"{who}" and "{what}"' for who, what in TURN_KEYS)
            raise ValueError(f"message {number} must have {pairs} and nothing else")
        role = turn[who]
        if not isinstance(role, str) or role not in ROLE_OF:
            raise ValueError(f"message {number} has the role {role!r}")
        found.append(_turn(ROLE_OF[role], _content(turn[what], f'"{what}" of message {number}')))
    return found


def _content(value: Any, name: str) -> str:
    """A turn's text; OpenAI's API also writes it as a list of parts."""
    if isinstance(value, list) and value:
        parts = [part for part in value if isinstance(part, Mapping) and part.get("type") == "text"]
        if len(parts) != len(value):
            raise ValueError(f"{name} has parts that aren't text")
        return "".join(text_of(part.get("text"), name) for part in parts)
    return text_of(value, name)


def _system(value: Any) -> Turns:
    return [_turn("system", text_of(value, '"system"'))] if value else []


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def text_of(value: Any, name: str) -> str:
    """`value` if it is text that isn't empty. Raises ValueError, naming `name`, if it isn't."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"missing or empty {name}, or not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which no UTF-8 text can hold
        raise ValueError(f"{name} holds a lone surrogate") from error
    return value
