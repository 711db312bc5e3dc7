"""The forms in which conversations are published, all turned into one: turns with `role` and `content`.

The form is told by a record's keys, the first of these that is there:

- `messages`, `conversations`, `conversation`, `dialogue` or `dialog`: turns with `role` and `content`, as OpenAI's API
  and HuggingFaceH4/ultrachat_200k have them, or with `from` and `value`, as ShareGPT, shi3z/ja_conv_wikipedia_* and
  llm-jp/oasst1-21k-ja have them;
- a question (`instruction`, `prompt`, `question`, `query` or `input`) and an answer (`output`, `completion`,
  `response`, `answer`, or `chosen` of a preference pair): texts or, as `prompt` and `completion`, lists of turns; as
  Alpaca, Dolly and OpenOrca have them;
- `chosen`: a preference pair's turns.

Beside any of them may stand what the model is told before (`system`, `system_prompt`, `system_message`), what has been
said before (`history`) and what it may call (`tools`, `functions`); beside a question, what it is about (`input`,
`context`). Whatever else belongs to a conversation makes a record an error: nothing of one is left out in silence, but
for `rejected`, which nobody shall learn, and what a source's `ignore_columns` names; a row whose `label`, `correct` or
`is_correct` is false is one that nobody shall learn. Keys that don't belong to one (an
id, a score) may stand beside it; text under a name that nobody knows is passed over and named (`texts_beside`).
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sioconv import unique_keys
from sioconv.data.turns import turns_of
from sioconv.errors import UserError

Turns = list[dict[str, Any]]
TURN_KEYS = (("role", "content"), ("from", "value"), ("role", "text"))
CALL = "function_call"  # the key of a message, and in ShareGPT's form a role, in which the assistant calls a tool
ROLE_OF = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
LEARNED = ("weight", "train", "loss")  # keys that say whether one of the assistant's turns is learned
TURNS = ("messages", "conversations", "conversation", "dialogue", "dialog")
QUESTIONS = {"instruction": "output", "prompt": "completion", "question": "answer", "query": "response"}
QUESTIONS["input"] = "output"
ANSWERS = ("output", "completion", "response", "answer", "chosen")
ABOUT = ("input", "context")
SYSTEMS = ("system", "system_prompt", "system_message")
TOOLS = ("tools", "functions")
UNWANTED = ("label", "is_correct", "correct")  # false beside an answer that nobody shall learn, as KTO's rows have it
NOT_TEXT = ("image", "images", "video", "videos", "audio", "audios", "files", "documents", "attachments")
BELONGS = {*TURNS, *QUESTIONS, *ANSWERS, *ABOUT, *NOT_TEXT}
# Keys whose text is about a conversation and no part of it, as data sets of this field name them; so are all that end
# with one of ABOUT_ENDS.
ABOUT_ROWS = {
    "about", "annotator", "author", "categories", "category", "collection", "config", "copyright", "created",
    "creator", "data_source", "dataset", "date", "difficulty", "domain", "engine", "field", "format", "generator",
    "hash", "id", "index", "intent", "key", "keywords", "label", "labels", "lang", "language", "length", "level",
    "licence", "license", "link", "locale", "md5", "meta", "metadata", "model", "model_name", "name", "num",
    "origin", "page", "part", "quality", "rating", "rejected", "relation", "revision", "row", "safety", "score",
    "sentiment", "sha256", "size", "skill", "skills", "source", "sources", "split", "stage", "status", "style",
    "subject", "subset", "subtask", "tag", "tags", "task", "task_name", "task_type", "templated", "theme", "time",
    "timestamp", "title", "topic", "topics", "tree", "type", "updated", "url", "user", "uuid", "version",
}  # fmt: skip
ABOUT_ENDS = ("_id", "_at", "_hash", "_url", "_date", "_language", "_lang", "_type", "_name", "_model", "_source")
FORMS = (
    '"messages" (a list of {"role": "system|user|assistant", "content": "…"}), "conversations" (a list of '
    '{"from": "system|human|gpt", "value": "…"}), "instruction" and "output", or "prompt" and "completion"'
)


def conversation_of(record: Mapping[str, Any], ignored: Collection[str] = ()) -> tuple[Turns, dict[str, Any]]:
    """The turns of a record in any of the forms, and its other keys, without those that are `ignored`.

    Turns have `role` (system, user or assistant) and `content`, and the `weight` 0 where what the assistant says isn't
    learned.

    Raises ValueError saying what is wrong; nothing of a conversation is left out in silence.
    """
    rest = {key: value for key, value in record.items() if key not in ignored}
    system = _system(rest)
    history = rest.pop("history", None)
    tools = [tool for key in TOOLS for tool in _tools(rest.pop(key, None), key)]
    messages = _messages(rest)
    if _is_there(history):
        if messages[0]["role"] == "system":
            raise ValueError(f'"history" beside a turn of the system: {_leave_out("history")}')
        messages = _history(history) + messages
    if system is not None and system not in messages:
        if messages[0]["role"] == "system":
            raise ValueError(f'"system" beside another turn of the system: {_leave_out("system")}')
        messages = [system, *messages]
    _check_rest(rest, messages)
    return _spoken(messages, tools), rest


def texts_beside(rest: Mapping[str, Any], messages: Turns) -> list[str]:
    """The keys beside the turns whose text no turn says, and whose name doesn't say that it isn't to be learned."""
    return [
        key
        for key, value in rest.items()
        if not (key.lower() in ABOUT_ROWS or key.lower().endswith(ABOUT_ENDS))
        and any(not any(text in message["content"] for message in messages) for text in _texts_in(value))
    ]


def _texts_in(value: Any) -> Iterator[str]:
    inside = [value]
    while inside:
        one = inside.pop()
        if isinstance(one, str):
            if one.strip():
                yield one.strip()
        elif isinstance(one, Mapping):
            inside += one.values()
        elif isinstance(one, list | tuple):
            inside += one


def _messages(rest: dict[str, Any]) -> Turns:
    """Takes the turns out of a record, whichever form it has."""
    for name in TURNS:
        if name in rest:
            return _turns(rest.pop(name), name)
    question = next((key for key in QUESTIONS if key in rest), None)
    if question is not None:
        return _question_and_answer(rest, question)
    if isinstance(rest.get("chosen"), Sequence):
        return _turns(rest.pop("chosen"), "chosen")
    if "parent_id" in rest:
        raise ValueError("one message of a tree of replies; a row must hold a conversation from its first turn on")
    raise ValueError("none of the keys messages, conversations, instruction, prompt")


def _question_and_answer(rest: dict[str, Any], question: str) -> Turns:
    given = [key for key in ANSWERS if _is_there(rest.get(key))]
    if len(given) > 1:
        raise ValueError(f"two answers: {' and '.join(given)}: {_leave_out(given[1])} to learn the first")
    answer = given[0] if given else QUESTIONS[question]
    asked, answered = rest.pop(question), rest.pop(answer, None)
    if isinstance(asked, Mapping) and "replies" in asked:
        raise ValueError("a tree of replies; a row must hold one conversation from its first turn to its last")
    if not isinstance(asked, str):
        turns = _turns(asked, question)
        return turns + _turns(answered, answer)
    text = text_of(asked, f'"{question}"')
    for key in ABOUT:
        more = rest.pop(key, None)
        if _is_there(more):
            text += "\n\n" + text_of(more, f'"{key}"')
    if answer == "chosen" and not isinstance(answered, str):  # some repeat the question in it
        turns = _turns(answered, answer)
        return turns if any(turn["content"] == text for turn in turns) else [_turn("user", text), *turns]
    return [_turn("user", text), _turn("assistant", text_of(answered, f'"{answer}"'))]


def _turns(turns: Any, name: str) -> Turns:
    if isinstance(turns, str):
        turns = _from_json(turns, name)
    if isinstance(turns, Mapping):  # a table's column of lists instead of a list of records
        columns = [values for values in turns.values() if isinstance(values, Sequence)]
        if len({len(values) for values in columns}) != 1 or len(columns) != len(turns):
            raise ValueError(f'"{name}" has columns of different lengths')
        turns = [dict(zip(turns, values, strict=True)) for values in zip(*columns, strict=True)]
    if not isinstance(turns, list) or not turns:
        raise ValueError(f'missing or empty "{name}"')
    found = [_message(turn, number) for number, turn in enumerate(turns, start=1)]
    said = [message for message in found if message["role"] != "system" or message["content"]]
    if not said:
        raise ValueError(f'nothing is said in "{name}"')
    return said


def _message(turn: Any, number: int) -> dict[str, Any]:
    # Tables fill the keys that a turn doesn't have with null.
    given = {key: value for key, value in turn.items() if value is not None} if isinstance(turn, Mapping) else {}
    calls = _calls(given, number)
    pairs = [pair for pair in TURN_KEYS if pair[0] in given and (pair[1] in given or calls)]
    expected = " or ".join(f'"{who}" and "{what}"' for who, what in TURN_KEYS[:2])
    if not pairs:
        raise ValueError(f"message {number} must have {expected}")
    who, what = pairs[0]
    named = given.pop(who)
    role = ROLE_OF.get(named.strip().lower()) if isinstance(named, str) else None
    if named == CALL:
        role, calls = "assistant", _listed(_from_json(given.pop(what), CALL))
    if role is None:
        raise ValueError(f"message {number} has the role {named!r}")
    message = _turn(role, _content(given.pop(what, None), f'"{what}" of message {number}', role, bool(calls)))
    if calls:
        message["tool_calls"] = calls
    flags = [key for key in LEARNED if key in given]
    for key in flags:
        value = given.pop(key)
        if value not in (0, 1):
            raise ValueError(f'"{key}" of message {number} is {value!r} instead of 0 or 1')
        if value == 0:
            message["weight"] = 0
    others = sorted(key for key in given if key not in ("name", "tool_call_id") and _is_there(given[key]))
    if flags and role != "assistant":
        others += flags
    if others:
        raise ValueError(f"message {number} must have {expected} and nothing else, but has {', '.join(others)}")
    return message


def _calls(given: dict[str, Any], number: int) -> list[Any]:
    """Takes what the assistant calls out of a message."""
    calls = given.pop("tool_calls", None) or []
    if isinstance(calls, str):
        calls = _from_json(calls, "tool_calls")
    if CALL in given:
        calls = [*_listed(calls), given.pop(CALL)]
    if not isinstance(calls, list):
        raise ValueError(f'"tool_calls" of message {number} is no list')
    return calls


def _content(value: Any, name: str, role: str, calls: bool) -> str:
    """A turn's text; OpenAI's API also writes it as a list of parts. What isn't text but a call may have none."""
    if isinstance(value, list) and value:
        texts = [part for part in value if isinstance(part, Mapping) and part.get("type") == "text"]
        if len(texts) != len(value):
            kinds = {str(part.get("type")) if isinstance(part, Mapping) else type(part).__name__ for part in value}
            raise ValueError(f"{name} has parts that aren't text: {', '.join(sorted(kinds - {'text'}))}")
        return "".join(text_of(part.get("text"), name) for part in texts)
    if value in (None, "") and (calls or (value == "" and role in ("system", "tool"))):
        return ""
    return text_of(value, name)


def _history(history: Any) -> Turns:
    """Earlier turns: a list of turns, or of pairs of what the user and the assistant said."""
    if not isinstance(history, list) or all(isinstance(one, Mapping) for one in history):
        return _turns(history, "history")
    found = []
    for number, pair in enumerate(history, start=1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f'{number} of "history" is no pair of a question and an answer')
        for role, text in zip(("user", "assistant"), pair, strict=True):
            found.append(_turn(role, text_of(text, f'{number} of "history"')))
    return found


def _system(rest: dict[str, Any]) -> dict[str, Any] | None:
    """Takes what the model is told before out of a record."""
    given = {key: rest.pop(key) for key in SYSTEMS if key in rest}
    texts = {text_of(value, f'"{key}"'): key for key, value in given.items() if value is not None and value != ""}
    if len(texts) > 1:
        names = list(texts.values())
        raise ValueError(f"two texts of the system: {' and '.join(names)}: {_leave_out(names[1])} to use the first")
    return _turn("system", next(iter(texts))) if texts else None


def _tools(value: Any, name: str) -> list[Any]:
    tools = _from_json(value, name) if isinstance(value, str) and value.strip() else value
    if not _is_there(tools):
        return []
    if not isinstance(tools, list):
        raise ValueError(f'"{name}" is no list')
    return [_from_json(tool, name) if isinstance(tool, str) else tool for tool in tools]


def _check_rest(rest: Mapping[str, Any], messages: Turns) -> None:
    """Raises ValueError where a key that belongs to a conversation says what no turn says."""
    for key in rest:
        if key in UNWANTED and rest[key] is False:
            raise ValueError(
                f'"{key}" is false, as of an answer that isn\'t to be learned: {_leave_out(key)} to learn it'
            )
        if key in BELONGS and _is_there(rest[key]) and not _is_said(rest[key], key, messages):
            why = "is no text" if key in NOT_TEXT else "says what no turn says"
            raise ValueError(
                f'"{key}" {why}, and can\'t be used beside the turns: {_leave_out(key)} to learn without it'
            )


def _leave_out(key: str) -> str:
    return f"name it in the source's ignore_columns: [{key}]"


def _is_said(value: Any, key: str, messages: Turns) -> bool:
    if key in NOT_TEXT:
        return False
    if isinstance(value, str):
        return any(value.strip() in message["content"] for message in messages)
    return isinstance(value, list | Mapping) and all(turn in messages for turn in _turns(value, key))


def _spoken(messages: Turns, tools: list[Any]) -> Turns:
    """The turns with tools and calls as text."""
    try:
        turns = turns_of(messages, tools)
    except UserError as error:
        raise ValueError(str(error)) from error
    weights = [None] * (len(turns) - len(messages)) + [message.get("weight") for message in messages]
    spoken = []
    for (role, text), weight in zip(turns, weights, strict=True):
        spoken.append(_turn(role, text) | ({} if weight is None else {"weight": weight}))
    if not any(turn["role"] == "assistant" and turn.get("weight") != 0 and turn["content"].strip() for turn in spoken):
        roles = ", ".join(dict.fromkeys(str(message["role"]) for message in messages))
        raise ValueError(f"the assistant says nothing that is to be learned (roles: {roles})")
    return spoken


def _is_there(value: Any) -> bool:
    """Whether a table's or object's value says anything."""
    if isinstance(value, list | tuple):
        return any(one is not None for one in value)
    return value is not None and value is not False and value != "" and value != {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _from_json(text: Any, name: str) -> Any:
    try:
        return unique_keys.loads(text_of(text, f'"{name}"'))
    except unique_keys.RepeatedKeyError as error:
        raise ValueError(f'"{name}": {error}') from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f'"{name}" is a text that isn\'t JSON') from error


def _turn(role: str, content: str) -> dict[str, Any]:
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
