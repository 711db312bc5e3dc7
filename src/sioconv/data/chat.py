"""Conversations as token ids, for tuning, chat and serving alike.

A conversation is bos, then for every turn a role's token, its text and the end-of-turn token. Special tokens enter by
their ids and text goes through `encode_texts`, so no text of a user can become one of them. On text that spells no
special token the result equals the tokenizer's chat template; `apply_chat_template` of transformers by itself gives no
such protection.

Roles without a token of their own speak in another's turn: `developer` as system, `tool` as user, its text between
`<tool_response>` and `</tool_response>`. Tools that the assistant may call are listed in the system's turn, and its
calls stand behind what it says, `<tool_call>` each (the form of NousResearch's Hermes and of Qwen, which servers know).
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer.tokenizer import BOS, END_OF_TURN, ROLE_TOKENS, encode_texts
from sioconv.data.turns import Message, Tool, turns_of
from sioconv.errors import UserError


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
            (an object or its JSON), also inside a `function`; one with the `weight` 0 isn't learned.
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
    for conversation, messages in zip(turns, conversations, strict=True):
        ids, mask = [bos], [0]
        offered_turns = len(conversation) - len(messages)  # 1 where the tools got a turn of their own
        for number, (role, _) in enumerate(conversation, start=-offered_turns):
            text = next(texts)
            learned = role == "assistant" and messages[number].get("weight") != 0
            ids += [roles[role], *text, end]
            mask += [0, *[int(learned)] * (len(text) + 1)]
        encoded.append((ids, mask))
    return encoded


def encode_turn(tokenizer: PreTrainedTokenizerFast, role: str, text: str) -> list[int]:
    """The ids of one turn without bos, for a session that appends turn by turn. Raises UserError as `encode` does."""
    ids, _ = encode(tokenizer, [{"role": role, "content": text}])
    return ids[1:]


def end_of_turn_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id that ends a turn."""
    return _id(tokenizer, END_OF_TURN)


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    number = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(number, int) or number == tokenizer.unk_token_id:
        raise UserError(f"not a tokenizer of this project: it lacks {token}: train one")
    return number
