"""A text or conversation that the model has read so far: read on, write on, save, load, fork."""

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerFast

from sioconv.errors import UserError
from sioconv.generate.config import SamplingConfig
from sioconv.generate.constraint import Document, Grammar
from sioconv.generate.engine import Engine, Event, Place, Reading, Request
from sioconv.generate.states.file import SessionState, StateFormat
from sioconv.generate.states.history import History
from sioconv.generate.states.state import State
from sioconv.generate.text_stream import TextStream
from sioconv.generate.vocabulary import Vocabulary
from sioconv.model import SioConvForCausalLM

StoppedBy = Literal["eos", "end_of_turn", "complete", "stop", "length"]


class Session:
    """One text or conversation: the model's memory of it, and what isn't in the memory yet.

    The memory has the same size after 10 tokens and after a million; it can be saved, loaded and copied.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        seed: together with the number of tokens so far it decides every random choice.
        engine: an engine of the same model, for sessions that shall run beside each other; None for one of its own.
        history: bytes for snapshots, so that `rewind` can go back; the oldest are forgotten where more would be needed.

    Attributes:
        stopped_by: what ended the last reply; None while one is being written.
        whole: whether the last reply is a whole text of the form that it was to have; None where it was to have none,
            or is being written.
        reply_tokens: tokens chosen for the last reply, the one that ended it included.
        transcript: (role, text) of what was said, as a layer above keeps it; it is saved with the session.
        reading: how many tokens of the text before the last reply had to be read since the reply before, and how many
            hadn't.

    Raises:
        UserError: the tokenizer lacks a special token.
    """

    def __init__(
        self,
        model: SioConvForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        seed: int = 0,
        engine: Engine | None = None,
        history: int = 64 * 2**20,
    ) -> None:
        self.seed = seed
        self.stopped_by: StoppedBy | None = None
        self.whole: bool | None = None
        self.transcript: tuple[tuple[str, str], ...] = ()
        self.reply_tokens = 0
        self.reading = Reading()
        self.vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
        self._model, self._tokenizer = model, tokenizer
        self._engine = Engine(model) if engine is None else engine
        # The last token is read when the next one is wanted, because reading it is what gives the next one's logits.
        self._place = Place(State(), ())
        self._running: int | None = None  # the number of the reply that is being written from that place on
        self._events: deque[Event] = deque()  # of that reply, not yet taken
        self._taken: list[int] = []  # its tokens so far
        self._text = TextStream()
        self._document: Document | None = None  # the last text of some form
        self._turn_ids: set[int] = set()
        self._turn_shared = False  # whether a fork has the same set
        self._history = History(State(), (), history)
        self._readings: list[Reading] = []  # since the last reply

    @property
    def turns(self) -> int:
        """Turns of a conversation that the model has written."""
        return self._history.turns

    @property
    def snapshots(self) -> tuple[int, int]:
        """How many places `rewind` can start from, and the bytes that they take."""
        return self._history.snapshots, self._history.bytes

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
        self._close_document()
        # Special tokens aren't penalised: an end-of-turn token in the prompt would make replies endless.
        self._add_to_turn(set(ids) - self.vocabulary.special)
        self._history.feed(ids)
        self._place = self._read(place, ids)

    def stream(self, sampling: SamplingConfig, grammar: Grammar | None = None) -> Iterator[str]:
        """Writes on and yields the text as it comes, in whole characters.

        A stop string isn't yielded. What follows it in the same token, and a character that isn't complete when the
        reply ends, are kept back: they begin the next reply unless something is fed before it. Whenever a piece was
        yielded the session is right for going on, saving and forking, so a reply may be left early.

        Args:
            sampling: the settings; the seed is the session's, not theirs.
            grammar: what the reply must be. A reply of the same form that wasn't whole, and that nothing was fed after,
                is gone on with, also in forks, in a session that was saved and loaded, and after `rewind`.

        Raises:
            ValueError: nothing was fed yet, or nothing since `eos` ended the text.
            UserError: the model's weights are broken, or the form needs more than the limits of its compiler.
        """
        if not self._where().unread:
            raise ValueError("there is nothing to continue from: feed() at least one token first")
        return self._write(sampling, grammar)

    def end_turn(self) -> None:
        """Closes the turn that the model has written, with an end-of-turn token unless it wrote one itself."""
        place = self._stop()
        if place.unread[-1:] != (self.vocabulary.end_of_turn,):
            place = Place(place.state, (*place.unread, self.vocabulary.end_of_turn))
            self._history.feed([self.vocabulary.end_of_turn])
        self._place = place
        self._text = TextStream()
        self._close_document()
        self._turn_ids, self._turn_shared = set(), False
        self._history.add(place.state)
        self._history.end_turn()

    def rewind(self, *, turns: int | None = None, tokens: int | None = None) -> None:
        """Goes back in the text; what follows is as though the session had never been further, on CPUs to the bit.

        The nearest snapshot is taken and the tokens after it, mostly fewer than 256, are read again.

        Args:
            turns: how many turns are taken back, the user's and the model's part together; what was read or written
                since the last turn ended goes too.
            tokens: how many tokens are taken back. Give one of the two.

        Raises:
            ValueError: both or none of the two, or a negative number.
            UserError: so much can't be taken back: it isn't there, or its snapshots were forgotten. The session then
                is as it was.
        """
        if (turns is None) == (tokens is None) or (turns or tokens or 0) < 0:
            raise ValueError("rewind takes turns or tokens, 0 or more")
        if turns is None:
            target: int | None = self.tokens_seen - (tokens or 0)
            if target is not None and target < self._history.start:
                target = None
        else:
            target = self._history.turn(turns)
        if target is None:
            wanted = f"{tokens} tokens" if turns is None else f"{turns} turns"
            raise UserError(
                f"can't take back {wanted}: this session remembers its text from token {self._history.start}"
            )
        self._stop()
        if target < self.tokens_seen:
            self._go_back(target)

    def _go_back(self, tokens: int) -> None:
        history, place = self._history, Place(State(), ())
        text = TextStream()
        text.push(b"".join(map(self.vocabulary.bytes_of, history.written(tokens))))
        self._text = TextStream(pending=text.pending)
        self._document = self._document and self._document.cut(tokens)
        self._turn_ids, self._turn_shared = history.turn_ids(tokens) - self.vocabulary.special, False
        history.cut(tokens)
        if tokens:
            state = history.before(tokens - 1)
            place = self._read(Place(state, ()), history.ids(state.tokens, tokens))
        self._place = place

    def fork(self, seed: int | None = None) -> "Session":
        """An independent copy; it goes on as this one would, unless it is given another seed."""
        other = copy.copy(self)
        other.seed = self.seed if seed is None else seed
        other._place, other._running, other._events, other._taken = self._where(), None, deque(), []
        other._text = TextStream(pending=self._text.pending)
        other._document = self._document and self._document.copy()
        other._history, other._readings = self._history.copy(), []
        self._turn_shared = other._turn_shared = True
        return other

    def save(self, path: str | Path, transcript: bool = True) -> None:
        """Writes the session to a file, whole or not at all; the transcript is left out where it isn't wanted.

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
            prefix=place.state.prefix,
            transcript=self.transcript if transcript else (),
            document=self._document if self._document is not None and self._document.open else None,
        )
        StateFormat(self._model, self._tokenizer).write(Path(path), state, place.state.tensors)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: SioConvForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        engine: Engine | None = None,
        history: int = 64 * 2**20,
    ) -> "Session":
        """The session that was saved to a file; it goes on as the saved one would have, but can't go back behind it.

        Raises:
            UserError: no such file, not a state file, another format version, or another model's state.
        """
        state, memory = StateFormat(model, tokenizer).read(Path(path))
        session = cls(model, tokenizer, state.seed, engine, history)
        session._place = Place(State(memory, state.tokens_seen, state.prefix), tuple(state.pending_ids))
        session._text = TextStream(pending=state.pending_bytes)
        session._document, session.transcript = state.document, state.transcript
        session._turn_ids = set(state.turn_ids)
        session._history = History(session._place.state, session._place.unread, history, state.turns)
        return session

    def _close_document(self) -> None:
        if self._document is not None:
            self._document.open = False

    def _open_document(self, grammar: Grammar) -> Document:
        """The text of that form that is to be gone on with, or a new one, whose bytes begin here."""
        document = self._document
        if document is None or not document.open or document.form != grammar.form:
            document = self._document = Document(grammar.form, self.tokens_seen, [])
            self._text = TextStream()
        return document

    def _add_to_turn(self, ids: set[int]) -> None:
        if self._turn_shared and not ids <= self._turn_ids:
            self._turn_ids, self._turn_shared = set(self._turn_ids), False
        self._turn_ids |= ids

    def _where(self) -> Place:
        """Where the text stands now, also while a reply is being written."""
        if self._running is None:
            return self._place
        if self._events:  # other callers of the engine have written on meanwhile
            if not self._taken:
                return self._place
            place = self._read(self._place, self._taken)
            self._readings.pop()  # what was written isn't a part of the next prompt
            return place
        return self._engine.place(self._running)

    def _read(self, place: Place, ids: Sequence[int]) -> Place:
        """The place after `ids`, at least one, of which the last stays unread."""
        unread = [*place.unread, *ids]
        state, reading = place.state, Reading()
        if len(unread) > 1:
            boundaries = (self.vocabulary.end_of_turn,)
            request = Request(unread[:-1], state, max_new_tokens=0, boundaries=boundaries, snapshots=True)
            for event in self._engine.stream(request):
                if event.snapshot is not None:
                    self._history.add(event.snapshot)
                elif event.place is not None and event.reading is not None:
                    state, reading = event.place.state, event.reading
        self._readings.append(reading)
        return Place(state, (unread[-1],))

    def _sum_of_readings(self, unread: int) -> Reading:
        """What was read since the last reply, `unread` tokens included that are about to be read."""
        readings, self._readings = self._readings, []
        read = unread + sum(reading.read for reading in readings)
        helped = any(reading.why is None and reading.read for reading in readings)
        why = None if helped else max(readings, key=lambda reading: reading.read, default=Reading()).why
        return Reading(self.tokens_seen - read, read, why)

    def _stop(self) -> Place:
        """Ends a reply that was left before its end; where the text stands."""
        self._place = self._where()
        if self._running is not None:
            self._engine.cancel(self._running)
            self._running = None
            while self._events and (snapshot := self._events.popleft().snapshot) is not None:
                self._history.add(snapshot)
        return self._place

    def _write(self, sampling: SamplingConfig, grammar: Grammar | None) -> Iterator[str]:
        place, vocabulary = self._stop(), self.vocabulary
        constraint = None
        if grammar is None:
            self._close_document()
        else:
            constraint = grammar.after(self._open_document(grammar).ids)
        text = self._text = TextStream(sampling.stop, self._text.pending)
        self.stopped_by, self.whole, self.reply_tokens = None, None, 0
        self.reading = self._sum_of_readings(len(place.unread))
        request = Request(
            place.unread,
            place.state,
            sampling,
            sampling.max_new_tokens,
            self.seed,
            ending=(vocabulary.eos, vocabulary.end_of_turn),
            banned=vocabulary.banned,
            constraint=constraint,
            history=self._turn_ids,
            unpenalised=vocabulary.special,
            boundaries=(vocabulary.end_of_turn,),
            snapshots=True,
        )
        self._events, self._taken = deque(), []
        number = self._running = self._engine.submit(request, self._events.append)
        data = b""  # the first push brings what was kept back
        while True:
            piece = text.push(data)
            if text.stopped:
                self._stop()
                self.stopped_by = "stop"
                self.whole = None if grammar is None else False
            if piece:
                yield piece
            # Where something was fed in between, this reply has ended.
            if self.stopped_by is not None or number != self._running:
                break
            data = self._next(grammar)
        if not text.stopped and (piece := text.flush()):
            yield piece

    def _next(self, grammar: Grammar | None) -> bytes:
        """Waits for the reply's next token and returns its bytes."""
        event = self._event()
        while event.snapshot is not None:
            self._history.add(event.snapshot)
            event = self._event()
        if event.place is not None:
            self._place, self._running = event.place, None
        if event.error is not None:
            raise event.error
        token, vocabulary = event.token, self.vocabulary
        assert token is not None
        self.reply_tokens += 1
        self._taken.append(token)
        if token != vocabulary.eos:
            self._history.write(token)
        if token == vocabulary.eos:
            # Never read: text that is fed after it goes on as though the text hadn't ended.
            self._place = Place(self._place.state, ())
            self.stopped_by = "eos"
        elif token == vocabulary.end_of_turn:
            self.stopped_by = "end_of_turn"
        else:
            self._add_to_turn({token})
            self.stopped_by = None if event.ended is None else "complete" if event.ended == "complete" else "length"
        if grammar is not None:
            self._follow(token, grammar)
        return vocabulary.bytes_of(token)

    def _follow(self, token: int, grammar: Grammar) -> None:
        """A text of some form has got a token."""
        assert self._document is not None
        if self.stopped_by in (None, "length", "complete"):
            self._document.ids.append(token)
        if self.stopped_by is not None:
            self.whole = self.stopped_by != "length" or grammar.after(self._document.ids).whole
            self._document.open = self.stopped_by == "length"

    def _event(self) -> Event:
        while not self._events:
            self._engine.step()
        return self._events.popleft()
