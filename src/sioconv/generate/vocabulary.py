"""The bytes of every token, and the ids that generation needs."""

import re

import torch
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sioconv.data.tokenizer.tokenizer import BOS, END_OF_TURN, EOS, ROLE_TOKENS, encode_texts
from sioconv.errors import UserError

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Vocabulary:
    """What generation needs to know of a tokenizer.

    Attributes:
        size: number of rows of the model's head.
        bos: id that a text begins with.
        eos: id that ends a text.
        end_of_turn: id that ends a turn of a conversation.
        assistant: id that begins a reply.
        special: ids that aren't text.
        banned: ids that a model must never write, int64 [n]: special ones that don't end anything, and rows of the head
            without a token.

    Raises:
        UserError: the tokenizer lacks one of the tokens named here.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, size: int) -> None:
        """Takes the tokenizer and `size`, the number of rows of the model's head."""
        self._tokenizer, self.size = tokenizer, size
        added = tokenizer.added_tokens_decoder
        self.special = frozenset(i for i, token in added.items() if token.special)
        self.bos = self._id(BOS)
        self.eos = self._id(EOS)
        self.end_of_turn = self._id(END_OF_TURN)
        self.assistant = self._id(ROLE_TOKENS["assistant"])
        without_token = set(range(size)).difference(tokenizer.get_vocab().values())
        banned = (self.special | without_token) - {self.eos, self.end_of_turn}
        self.banned = torch.tensor(sorted(i for i in banned if i < size), dtype=torch.int64)
        self._bytes: dict[int, bytes] = {}
        decoder = tokenizer.backend_tokenizer.decoder
        self._byte_level = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()
        self._byte_of = {char: byte for byte, char in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]

    def bytes_of(self, token: int) -> bytes:
        """The bytes that a token stands for, whole characters or not; none for special tokens."""
        if token not in self._bytes:
            self._bytes[token] = b"" if token in self.special else self._look_up(token)
        return self._bytes[token]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, none of them special."""
        return encode_texts(self._tokenizer, [text])[0]

    def _look_up(self, token: int) -> bytes:
        name = self._tokenizer.backend_tokenizer.id_to_token(token) or ""
        if self._byte_level:
            # Tokens that were added to the vocabulary as they are may hold characters that no byte is written as.
            whole = all(char in self._byte_of for char in name)
            return bytes(self._byte_of[char] for char in name) if whole else name.encode()
        if match := BYTE_TOKEN.fullmatch(name):
            return bytes([int(match[1], 16)])
        # Other decoders treat the first token of a text in another way: look at what the token adds to a text.
        decode = self._tokenizer.backend_tokenizer.decode
        return decode([token, token])[len(decode([token])) :].encode()

    def _id(self, token: str) -> int:
        found = self._tokenizer.get_vocab().get(token)
        if found is None:
            raise UserError(
                f"the tokenizer lacks {token}: generation can't start or end a text: use the model's own tokenizer"
            )
        return found
