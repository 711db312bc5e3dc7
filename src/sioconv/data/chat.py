"""Conversations as token ids, for tuning, chat and serving alike.

A conversation is bos, then for every turn its role's token, its text and the end-of-turn token. Special tokens enter by
their ids and text goes through `encode_texts`, so no text of a user can become one of them. On text that spells no
special token the result equals the tokenizer's chat template; `apply_chat_template` of transformers by itself gives no
such protection.
"""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerFast

from sioconv.data.rows import ROLES
from sioconv.data.tokenizer import BOS, END_OF_TURN, ROLE_TOKENS, encode_texts
from sioconv.errors import UserError

Message = Mapping[str, str]


def encode(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], *, add_generation_prompt: bool = False
) -> tuple[list[int], list[int]]:
    """One conversation as token ids, and which of them are learned.

    Args:
        tokenizer: a tokenizer with this project's special tokens.
        messages: turns, each with `role` (system, user, assistant) and `content`.
        add_generation_prompt: end with the assistant's token, for a model to go on from.

    Returns:
        ids and, as long as they, a mask that is 1 on what the assistant says and on its end-of-turn tokens, else 0.

    Raises:
        UserError: no messages, another role, or a content that isn't text.
    """
    [(ids, mask)] = encode_batch(tokenizer, [messages])
    if add_generation_prompt:
        ids.append(_id(tokenizer, ROLE_TOKENS["assistant"]))
        mask.append(0)
    return ids, mask


def encode_batch(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Sequence[Message]]
) -> list[tuple[list[int], list[int]]]:
    """What `encode` gives for each conversation, with all their text tokenised together, which is faster."""
    for messages in conversations:
        if not messages:
            raise UserError("empty conversation: no messages: give at least one")
        for message in messages:
            _check(message)
    contents = [message["content"] for messages in conversations for message in messages]
    texts = iter(encode_texts(tokenizer, contents))
    bos, end = _id(tokenizer, BOS), end_of_turn_id(tokenizer)
    roles = {role: _id(tokenizer, token) for role, token in ROLE_TOKENS.items()}
    encoded = []
    for messages in conversations:
        ids, mask = [bos], [0]
        for message in messages:
            text = next(texts)
            ids += [roles[message["role"]], *text, end]
            mask += [0, *[int(message["role"] == "assistant")] * (len(text) + 1)]
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


def _check(message: Message) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise UserError(f"unknown role: {role!r}: choose one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise UserError(f"bad message: the content of the role {role} is {type(content).__name__}: give text")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"bad message: the content of the role {role} has a lone surrogate: give UTF-8 text") from error
