"""A text or conversation that the model has read so far: read on, write on, save, load, fork."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer import encode_texts
from sioconv.errors import UserError
from sioconv.generate.config import SamplingConfig
from sioconv.generate.sampling import Sampler, random_seed, reply_seed
from sioconv.generate.state_file import SessionState, read_state, write_state
from sioconv.generate.stream import TextStream, Vocabulary
from sioconv.model import SioConvCache, SioConvForCausalLM

CHUNK = 1024
StoppedBy = Literal["eos", "end_of_turn", "stop", "length"]


class Session:
    """One text or conversation: the model's memory of it, and what isn't in the memory yet.

    The memory has the same size after 10 tokens and after a million; it can be saved, loaded and copied.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        seed: together with the number of tokens so far it decides every random choice.

    Attributes:
        turns: turns of a conversation that the model has written.
        stopped_by: what ended the last reply; None while one is being written.
        reply_tokens: tokens chosen for the last reply, the one that ended it included.

    Raises:
        UserError: the tokenizer lacks a special token.
    """

    def __init__(self, model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> None:
        self.seed = seed
        self.turns = 0
        self.stopped_by: StoppedBy | None = None
        self.reply_tokens = 0
        self.vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
        self._model = model
        self._cache = SioConvCache(model.config)
        # The last token is read when the next one is wanted, because reading it is what gives the next one's logits.
        self._pending: list[int] = []
        self._text = TextStream()
        self._turn_ids: set[int] = set()

    @property
    def tokens_seen(self) -> int:
        """Tokens of the text so far, in the memory or waiting to be."""
        return int(self._cache.tokens_seen) + len(self._pending)

    def feed(self, ids: Sequence[int], chunk: int = CHUNK) -> None:
        """Reads on, `chunk` tokens at a time, so that a text of any length takes constant memory.

        What `stream` has kept back is forgotten: the new text comes between it and what might follow.
        """
        if not ids:
            return
        self._text = TextStream()
        # Special tokens aren't penalised: an end-of-turn token in the prompt would make replies endless.
        self._turn_ids.update(set(ids) - self.vocabulary.special)
        self._pending.extend(ids)
        while len(self._pending) > 1:
            piece = self._pending[:-1][:chunk]
            self._read(piece)
            del self._pending[: len(piece)]

    def stream(self, sampling: SamplingConfig) -> Iterator[str]:
        """Writes on and yields the text as it comes, in whole characters.

        A stop string isn't yielded. What follows it in the same token, and a character that isn't complete when the
        reply ends, are kept back: they begin the next reply unless something is fed before it. Whenever a piece was
        yielded the session is right for going on, saving and forking, so a reply may be left early.

        Args:
            sampling: the settings; the seed is the session's, not theirs.

        Raises:
            ValueError: nothing was fed yet, or nothing since `eos` ended the text.
            UserError: the model's weights are broken.
        """
        if not self._pending:
            raise ValueError("there is nothing to continue from: feed() at least one token first")
        return self._write(sampling)

    def end_turn(self) -> None:
        """Closes the turn that the model has written, with an end-of-turn token unless it wrote one itself."""
        if self._pending[-1:] != [self.vocabulary.end_of_turn]:
            self._pending.append(self.vocabulary.end_of_turn)
        self._text = TextStream()
        self._turn_ids.clear()
        self.turns += 1

    def fork(self, seed: int | None = None) -> "Session":
        """An independent copy; it goes on as this one would, unless it is given another seed."""
        other = copy.copy(self)
        other.seed = self.seed if seed is None else seed
        other._cache = SioConvCache(self._model.config)
        memory = {name: value.clone() for name, value in self._cache.state_dict().items()}
        other._cache.load_state_dict(memory, int(self._cache.tokens_seen))
        other._pending = list(self._pending)
        other._text = TextStream(pending=self._text.pending)
        other._turn_ids = set(self._turn_ids)
        return other

    def save(self, path: str | Path) -> None:
        """Writes the session to a file, whole or not at all.

        Raises:
            UserError: the file can't be written.
        """
        state = SessionState(
            tokens_seen=int(self._cache.tokens_seen),
            pending_ids=self._pending,
            pending_bytes=self._text.pending,
            turn_ids=sorted(self._turn_ids),
            seed=self.seed,
            turns=self.turns,
        )
        write_state(Path(path), self._model, state, self._cache.state_dict())

    @classmethod
    def load(cls, path: str | Path, model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast) -> "Session":
        """The session that was saved to a file; it goes on as the saved one would have.

        Raises:
            UserError: no such file, not a state file, another format version, or another model's state.
        """
        state, memory = read_state(Path(path), model)
        session = cls(model, tokenizer, state.seed)
        session.turns = state.turns
        session._cache.load_state_dict(memory, state.tokens_seen)
        session._pending = state.pending_ids
        session._text = TextStream(pending=state.pending_bytes)
        session._turn_ids = set(state.turn_ids)
        return session

    def _write(self, sampling: SamplingConfig) -> Iterator[str]:
        seed = reply_seed(self.seed, self.tokens_seen)
        sampler = Sampler(sampling, seed, self.vocabulary.banned, self._turn_ids)
        text = self._text = TextStream(sampling.stop, self._text.pending)
        self.stopped_by, self.reply_tokens = None, 0
        data = b""  # the first push brings what was kept back
        while True:
            piece = text.push(data)
            if text.stopped:
                self.stopped_by = "stop"
            elif self.stopped_by is None and self.reply_tokens >= sampling.max_new_tokens:
                self.stopped_by = "length"
            if piece:
                yield piece
            if self.stopped_by is not None:
                break
            data = self._next(sampler)
        if not text.stopped and (piece := text.flush()):
            yield piece

    def _next(self, sampler: Sampler) -> bytes:
        """Chooses one token and returns its bytes."""
        token = sampler.choose(self._read(self._pending))
        self.reply_tokens += 1
        self._pending = [token]
        if token == self.vocabulary.eos:
            # Never read: text that is fed after it goes on as though the text hadn't ended.
            self._pending = []
            self.stopped_by = "eos"
        elif token == self.vocabulary.end_of_turn:
            self.stopped_by = "end_of_turn"
        else:
            self._turn_ids.add(token)
        return self.vocabulary.bytes_of(token)

    @torch.inference_mode()
    def _read(self, ids: list[int]) -> Tensor:
        """Takes ids into the memory; gives the logits [V] of the token after them, fp32 on the CPU."""
        tokens = torch.tensor([ids], device=self._model.device)  # [1, T]
        out = self._model(input_ids=tokens, cache=self._cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = out.logits[0, -1].float().cpu()
        return logits


@dataclass(frozen=True)
class Generation:
    """A text that the model has written.

    Args:
        text: what it wrote, without the prompt.
        tokens: tokens that it chose, the one that ended the text included.
        prompt_tokens: tokens of the prompt, the one that begins a text included.
        stopped_by: what ended it.
        seconds: time of writing; reading the prompt isn't counted.
        tokens_per_second: tokens / seconds.
        seed: gives the same text again.
    """

    text: str
    tokens: int
    prompt_tokens: int
    stopped_by: StoppedBy
    seconds: float
    tokens_per_second: float
    seed: int


def generate_text(
    model: SioConvForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    sampling: SamplingConfig,
    on_text: Callable[[str], object] | None = None,
) -> Generation:
    """Continues `prompt`, which may be empty and of any length; nothing in it becomes a special token.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        prompt: the beginning of the text.
        sampling: the settings.
        on_text: called with each piece of the text as soon as it is written.

    Raises:
        UserError: the prompt isn't UTF-8, or the model's weights are broken.
    """
    session = Session(model, tokenizer, random_seed() if sampling.seed is None else sampling.seed)
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that aren't UTF-8 come as lone surrogates
        raise UserError(f"the prompt is not text: {error}: give UTF-8") from error
    ids = [session.vocabulary.bos, *encode_texts(tokenizer, [prompt])[0]]
    session.feed(ids)
    start = time.perf_counter()
    pieces = []
    for piece in session.stream(sampling):
        pieces.append(piece)
        if on_text is not None:
            on_text(piece)
    seconds = time.perf_counter() - start
    assert session.stopped_by is not None
    return Generation(
        text="".join(pieces),
        tokens=session.reply_tokens,
        prompt_tokens=len(ids),
        stopped_by=session.stopped_by,
        seconds=seconds,
        tokens_per_second=session.reply_tokens / seconds,
        seed=session.seed,
    )
