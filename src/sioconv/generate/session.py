"""A text or conversation that the model has read so far: read on, write on, save, load, fork."""

import copy
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerFast

from sioconv.data.tokenizer.tokenizer import encode_texts
from sioconv.errors import UserError
from sioconv.generate.config import SamplingConfig
from sioconv.generate.engine import Engine, Event, Place, Request
from sioconv.generate.sampling import random_seed
from sioconv.generate.state import State
from sioconv.generate.state_file import SessionState, read_state, write_state
from sioconv.generate.stream import TextStream, Vocabulary
from sioconv.model import SioConvForCausalLM

StoppedBy = Literal["eos", "end_of_turn", "stop", "length"]


class Session:
    """One text or conversation: the model's memory of it, and what isn't in the memory yet.

    The memory has the same size after 10 tokens and after a million; it can be saved, loaded and copied.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        seed: together with the number of tokens so far it decides every random choice.
        engine: an engine of the same model, for sessions that shall run beside each other; None for one of its own.

    Attributes:
        turns: turns of a conversation that the model has written.
        stopped_by: what ended the last reply; None while one is being written.
        reply_tokens: tokens chosen for the last reply, the one that ended it included.

    Raises:
        UserError: the tokenizer lacks a special token.
    """

    def __init__(
        self,
        model: SioConvForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        seed: int = 0,
        engine: Engine | None = None,
    ) -> None:
        self.seed = seed
        self.turns = 0
        self.stopped_by: StoppedBy | None = None
        self.reply_tokens = 0
        self.vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
        self._model = model
        self._engine = Engine(model) if engine is None else engine
        # The last token is read when the next one is wanted, because reading it is what gives the next one's logits.
        self._place = Place(State(), ())
        self._running: int | None = None  # the number of the reply that is being written from that place on
        self._events: deque[Event] = deque()  # of that reply, not yet taken
        self._taken: list[int] = []  # its tokens so far
        self._text = TextStream()
        self._turn_ids: set[int] = set()

    @property
    def state(self) -> State:
        """What the text has become, without its last token, which is read when the next one is wanted."""
        return self._where().state

    @property
    def tokens_seen(self) -> int:
        """Tokens of the text so far, in the memory or waiting to be."""
        place = self._where()
        return place.state.tokens + len(place.unread)

    def feed(self, ids: Sequence[int]) -> None:
        """Reads on, a piece at a time, so that a text of any length takes constant memory.

        What `stream` has kept back is forgotten: the new text comes between it and what might follow.
        """
        if not ids:
            return
        place = self._stop()
        self._text = TextStream()
        # Special tokens aren't penalised: an end-of-turn token in the prompt would make replies endless.
        self._turn_ids.update(set(ids) - self.vocabulary.special)
        self._place = self._read(place, ids)

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
        if not self._where().unread:
            raise ValueError("there is nothing to continue from: feed() at least one token first")
        return self._write(sampling)

    def end_turn(self) -> None:
        """Closes the turn that the model has written, with an end-of-turn token unless it wrote one itself."""
        place = self._stop()
        if place.unread[-1:] != (self.vocabulary.end_of_turn,):
            place = Place(place.state, (*place.unread, self.vocabulary.end_of_turn))
        self._place = place
        self._text = TextStream()
        self._turn_ids.clear()
        self.turns += 1

    def fork(self, seed: int | None = None) -> "Session":
        """An independent copy; it goes on as this one would, unless it is given another seed."""
        other = copy.copy(self)
        other.seed = self.seed if seed is None else seed
        other._place, other._running, other._events, other._taken = self._where(), None, deque(), []
        other._text = TextStream(pending=self._text.pending)
        other._turn_ids = set(self._turn_ids)
        return other

    def save(self, path: str | Path) -> None:
        """Writes the session to a file, whole or not at all.

        Raises:
            UserError: the file can't be written.
        """
        place = self._where()
        state = SessionState(
            tokens_seen=place.state.tokens,
            pending_ids=list(place.unread),
            pending_bytes=self._text.pending,
            turn_ids=sorted(self._turn_ids),
            seed=self.seed,
            turns=self.turns,
        )
        write_state(Path(path), self._model, state, dict(place.state.tensors))

    @classmethod
    def load(cls, path: str | Path, model: SioConvForCausalLM, tokenizer: PreTrainedTokenizerFast) -> "Session":
        """The session that was saved to a file; it goes on as the saved one would have.

        Raises:
            UserError: no such file, not a state file, another format version, or another model's state.
        """
        state, memory = read_state(Path(path), model)
        session = cls(model, tokenizer, state.seed)
        session.turns = state.turns
        session._place = Place(State(memory, state.tokens_seen), tuple(state.pending_ids))
        session._text = TextStream(pending=state.pending_bytes)
        session._turn_ids = set(state.turn_ids)
        return session

    def _where(self) -> Place:
        """Where the text stands now, also while a reply is being written."""
        if self._running is None:
            return self._place
        if self._events:  # other callers of the engine have written on meanwhile
            return self._read(self._place, self._taken) if self._taken else self._place
        return self._engine.place(self._running)

    def _read(self, place: Place, ids: Sequence[int]) -> Place:
        """The place after `ids`, at least one, of which the last stays unread."""
        unread = [*place.unread, *ids]
        state = place.state
        if len(unread) > 1:
            for event in self._engine.stream(Request(unread[:-1], state, max_new_tokens=0)):
                assert event.place is not None
                state = event.place.state
        return Place(state, (unread[-1],))

    def _stop(self) -> Place:
        """Ends a reply that was left before its end; where the text stands."""
        self._place = self._where()
        if self._running is not None:
            self._engine.cancel(self._running)
            self._running = None
        return self._place

    def _write(self, sampling: SamplingConfig) -> Iterator[str]:
        place, vocabulary = self._stop(), self.vocabulary
        text = self._text = TextStream(sampling.stop, self._text.pending)
        self.stopped_by, self.reply_tokens = None, 0
        request = Request(
            place.unread,
            place.state,
            sampling,
            sampling.max_new_tokens,
            self.seed,
            ending=(vocabulary.eos, vocabulary.end_of_turn),
            banned=vocabulary.banned,
            history=self._turn_ids,
            unpenalised=vocabulary.special,
        )
        self._events, self._taken = deque(), []
        number = self._running = self._engine.submit(request, self._events.append)
        data = b""  # the first push brings what was kept back
        while True:
            piece = text.push(data)
            if text.stopped:
                self._stop()
                self.stopped_by = "stop"
            if piece:
                yield piece
            # Where something was fed in between, this reply has ended.
            if self.stopped_by is not None or number != self._running:
                break
            data = self._next()
        if not text.stopped and (piece := text.flush()):
            yield piece

    def _next(self) -> bytes:
        """Waits for the reply's next token and returns its bytes."""
        while not self._events:
            self._engine.step()
        event = self._events.popleft()
        if event.place is not None:
            self._place, self._running = event.place, None
        if event.error is not None:
            raise event.error
        token, vocabulary = event.token, self.vocabulary
        assert token is not None
        self.reply_tokens += 1
        self._taken.append(token)
        if token == vocabulary.eos:
            # Never read: text that is fed after it goes on as though the text hadn't ended.
            self._place = Place(self._place.state, ())
            self.stopped_by = "eos"
        elif token == vocabulary.end_of_turn:
            self.stopped_by = "end_of_turn"
        else:
            self._turn_ids.add(token)
            self.stopped_by = None if event.ended is None else "length"
        return vocabulary.bytes_of(token)


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
