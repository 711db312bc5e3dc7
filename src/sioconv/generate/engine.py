"""Writing many texts at once: token ids in, token ids out.

Requests join and leave at every step. A step reads one token of each text that is being written and, within a budget,
pieces of the prompts that are still to be read, all in one call of the model. Which tokens a request gets depends on
nothing else that runs: every text has its own memory, settings and random numbers, which are drawn from its seed and
the token's place in the text.

Prompts are cut at absolute multiples of 256 tokens and behind the ids that end a message. The memory at such a cut is a
snapshot: a store keeps it by the name of what was read, and a later text that begins alike goes on from it.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sioconv.errors import UserError
from sioconv.generate.config import SamplingConfig
from sioconv.generate.decoder import Compilation, Decoder, Piece, TorchDecoder, begin_decoding, pick_decoder
from sioconv.generate.sampling import Constraint, Sampler, log_probabilities
from sioconv.generate.states.state import SNAPSHOT_EVERY, Prefix, State, next_cut
from sioconv.generate.states.store import Shelf, StateStore

Ended = Literal["ending", "complete", "length", "failed"]


@dataclass(frozen=True)
class Request:
    """What is to be read and written.

    Args:
        ids: token ids to read, below the vocabulary's size; at least one.
        state: what they go on from.
        sampling: the settings; `stop` and `seed` are for the layers above.
        max_new_tokens: most tokens that are written; 0 only reads.
        seed: decides every random choice.
        n: how many continuations are written, each with random numbers of its own, from one reading of `ids`; where
            nothing is written there is one.
        ending: ids that end a continuation once they are written.
        banned: ids that are never written, int64 [k].
        constraint: which tokens may come next; each continuation follows a copy of it, and it stays as it is.
        history: ids that the repetition penalty applies to besides those that are written.
        unpenalised: ids that it never applies to.
        logprobs: how many of the likeliest tokens are given with each token, with ln of their probabilities; None for
            none.
        priority: where not all fit into a step, lower ones come first.
        boundaries: ids that end a message: snapshots are made behind them, besides those every 256 tokens.
        snapshots: whether events tell of the snapshots.
        scope: whose text it is: in the engine's store, texts of different scopes never find each other.
        stored: whether the engine's store is asked, and gets the snapshots.
    """

    ids: Sequence[int]
    state: State = field(default_factory=State)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    max_new_tokens: int = 256
    seed: int = 0
    n: int = 1
    ending: Collection[int] = ()
    banned: Tensor | None = None
    constraint: Constraint | None = None
    history: Collection[int] = ()
    unpenalised: Collection[int] = ()
    logprobs: int | None = None
    priority: int = 0
    boundaries: Collection[int] = ()
    snapshots: bool = False
    scope: str = ""
    stored: bool = True


@dataclass(frozen=True)
class Reading:
    """What became of a request's prompt: reused + read is the state's tokens and the ids.

    Args:
        reused: tokens that weren't read again: those of the request's state, or of a longer stored beginning.
        read: tokens that were read.
        why: why the engine's store has spared nothing; None where it has, or where there is no store.
    """

    reused: int = 0
    read: int = 0
    why: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a text stands: what it has become, and the ids after that, which were written but not read."""

    state: State
    unread: tuple[int, ...]


@dataclass(frozen=True)
class Event:
    """A token that was written, the end of a continuation, or a snapshot of it.

    Args:
        request: the request's number.
        branch: which of its continuations.
        token: the id; None where the request ends without another token, and with a snapshot.
        ended: why this is the last event of the continuation: `ending`, one of the ids that end it; `complete`, the
            constraint lets nothing follow; `length`; `failed`, see `error`. None while it goes on.
        place: where it ended.
        logprob: ln of the token's probability before all penalties and filters, where `logprobs` is asked for.
        top: the likeliest tokens with theirs.
        error: what is wrong with the model or the request.
        reading: what became of the prompt, where this is the last event.
        snapshot: what the text has become so far; only where the request wants to know.
    """

    request: int
    branch: int
    token: int | None = None
    ended: Ended | None = None
    place: Place | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    error: UserError | None = None
    reading: Reading | None = None
    snapshot: State | None = None


@dataclass(eq=False)
class _Text:
    """One continuation, or the prompt that several will begin with."""

    number: int
    request: Request
    on_event: Callable[[Event], object]
    memory: Any
    reading: Reading
    prefix: Prefix | None  # the name of what was read, up to `unnamed`
    branch: int = 0
    unnamed: list[int] = field(default_factory=list)  # ids that were read since
    unread: list[int] = field(default_factory=list)
    read: int = 0  # tokens in the memory
    written: int = 0
    history: set[int] = field(default_factory=set)
    sampler: Sampler | None = None


def _ignore(_: Event) -> None:
    """For events that nobody waits for."""


class Engine:
    """Runs requests on one model.

    Args:
        model: a language model whose cache is its state, in eval mode; on a CPU in fp32 or bf16 the compiled kernel
            runs it, otherwise torch.
        token_budget: most tokens that a step reads; texts that are being written come first.
        max_texts: most texts that are written at once; more wait. Below the budget, so that reading goes on.
        store: where snapshots are kept and looked for; None for none.
        fixed: whether the weights never change from now on; else they are looked at for each text that begins alone.
        at_once: whether it may begin with torch where the kernel has never been compiled, which takes half a minute.
            Torch's logits are the kernel's but for rounding, so a token may be another where two are as good as equal:
            not for texts that must come out the same again.

    Methods may be called from several threads.
    """

    def __init__(
        self,
        model: Any,
        token_budget: int = 512,
        max_texts: int = 256,
        store: StateStore | None = None,
        fixed: bool = False,
        at_once: bool = False,
    ) -> None:
        if not 0 < max_texts < token_budget:
            raise ValueError(f"expected 0 < max_texts < token_budget, not {max_texts} and {token_budget}")
        self._model = model
        self._budget, self._max_texts = token_budget, max_texts
        self._store, self._fixed = store, fixed
        self._decoder: Decoder | None = None
        self._at_once = at_once
        self._compilation: Compilation | None = None  # while torch stands in for the kernel
        self._shelf: Shelf | None = None  # the store's, of this model
        self._numbers = itertools.count()
        self._reading: list[_Text] = []  # prompts, those that came first in front
        self._writing: list[_Text] = []
        self._lock = threading.RLock()

    @property
    def running(self) -> int:
        """Texts that are being read or written."""
        return len(self._reading) + len(self._writing)

    def submit(self, request: Request, on_event: Callable[[Event], object] = _ignore) -> int:
        """Takes a request in; its number.

        Args:
            request: what is to be read and written.
            on_event: called with each of its events, inside `step`, in order; left out where the request is there for
                the store alone.

        Raises:
            ValueError: there are no ids, an id isn't in the vocabulary, n or max_new_tokens is out of range.
            UserError: `logit_bias` names an id that isn't in the vocabulary.
        """
        size = self._model.config.vocab_size
        if not request.ids or not all(0 <= i < size for i in request.ids):
            raise ValueError(f"ids: expected at least one, each from 0 to {size - 1}")
        if not 1 <= request.n <= self._max_texts:
            raise ValueError(f"n is {request.n}: expected 1 to {self._max_texts}")
        if request.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens is {request.max_new_tokens}: expected 0 or more")
        if strange := [i for i in request.sampling.logit_bias if not 0 <= i < size]:
            raise UserError(f"logit_bias names token {strange[0]}: give ids from 0 to {size - 1}")
        with self._lock:
            if self._decoder is None or not (self._fixed or self.running):
                self._take_decoder()
            assert self._decoder is not None
            number, state, why = next(self._numbers), request.state, None
            if self._shelf is not None and request.stored:
                found, why = self._shelf.find(state, request.ids, request.boundaries, request.scope)
                state = found or state
            spared = state.tokens - request.state.tokens
            reading = Reading(state.tokens, len(request.ids) - spared, why)
            text = _Text(number, request, on_event, self._decoder.memory(state), reading, state.prefix)
            text.unread, text.read = list(request.ids[spared:]), state.tokens
            self._reading.append(text)
            if spared and request.snapshots:
                on_event(Event(number, 0, snapshot=state))
            return number

    def step(self) -> bool:
        """Reads once with everything that runs, and hands out the events; False where nothing runs."""
        with self._lock:
            if self._compilation is not None and self._compilation.done:
                self._take_kernel()
            texts, pieces = self._pieces()
            if not pieces:
                return False
            assert self._decoder is not None
            logits = iter(self._decoder.read(pieces))
            for text, piece in zip(texts, pieces, strict=True):
                text.read += len(piece.ids)
                text.unnamed.extend(piece.ids)
                del text.unread[: len(piece.ids)]
                if text.read % SNAPSHOT_EVERY == 0 or piece.ids[-1] in text.request.boundaries:
                    self._snapshot(text)
                if text.sampler is not None:
                    text.on_event(self._write(text, next(logits)))
                elif not text.unread:
                    self._reading.remove(text)
                    for event in self._begin(text, next(logits) if piece.wanted else None):
                        text.on_event(event)
            if self._compilation is not None and not self.running:
                self._compilation.begin()
            return True

    def stream(self, request: Request) -> Iterator[Event]:
        """Submits a request and yields its events; whatever else runs goes on beside it.

        A stream that is left before its end cancels the request.
        """
        events: deque[Event] = deque()
        number = self.submit(request, events.append)
        left = request.n if request.max_new_tokens else 1
        try:
            while left:
                while not events:
                    self.step()
                event = events.popleft()
                left -= event.ended is not None
                yield event
        finally:
            self.cancel(number)

    def place(self, number: int, branch: int = 0) -> Place:
        """Where a running continuation stands; it goes on.

        Raises:
            KeyError: there is none with this number, or it has ended.
        """
        with self._lock:
            for text in [*self._reading, *self._writing]:
                if text.number == number and text.branch == branch:
                    return self._place(text)
        raise KeyError(f"no request {number} with a continuation {branch} is running")

    def cancel(self, number: int, branch: int | None = None) -> None:
        """Ends a request and forgets it, if it still runs; or one of its continuations that is being written."""
        with self._lock:
            if branch is None:
                self._reading = [text for text in self._reading if text.number != number]
            gone = (number, branch)
            self._writing = [
                text for text in self._writing if (text.number, None if branch is None else text.branch) != gone
            ]

    def forget(self, scope: str) -> None:
        """Ends what is read for the store alone, of a scope and of those that begin with it and a stroke."""
        with self._lock:
            self._reading = [
                text for text in self._reading
                if text.on_event is not _ignore or not f"{text.request.scope}/".startswith(f"{scope}/")
            ]  # fmt: skip

    def clear(self) -> None:
        """Ends all requests and forgets them."""
        with self._lock:
            self._reading, self._writing, self._decoder = [], [], None

    def finish(self) -> None:
        """Waits until the kernel that torch stands in for is compiled, and so kept for the next process."""
        if self._compilation is not None:
            self._compilation.wait()

    def _take_decoder(self) -> None:
        """A decoder, anew for texts that begin alone: the weights may have changed since."""
        if self._compilation is not None and self._compilation.done:
            self._at_once, self._compilation = False, None
        if self._compilation is None:
            begun = begin_decoding(self._model) if self._at_once else (pick_decoder(self._model), None)
            self._decoder, self._compilation = begun
        elif self._decoder is None:
            self._decoder = TorchDecoder(self._model, kernels=False)
        if self._store is not None:
            self._shelf = self._store.shelf(self._model, type(self._decoder).__name__)

    def _take_kernel(self) -> None:
        """The compiled kernel in torch's place, for the texts that run too: they go on from their states."""
        before = self._decoder
        self._take_decoder()
        assert before is not None and self._decoder is not None
        for text in [*self._reading, *self._writing]:
            text.memory = self._decoder.memory(before.freeze(text.memory, text.read))

    def _pieces(self) -> tuple[list[_Text], list[Piece]]:
        """What this step reads: a token of each text that is written, then equal parts of the prompts."""
        texts = list(self._writing)
        pieces = [Piece(text.memory, list(text.unread), True) for text in texts]
        left, room = self._budget - len(texts), self._max_texts - len(texts)
        prompts = sorted(self._reading, key=lambda text: text.request.priority)[:left]
        for place, text in enumerate(prompts):
            # Equal parts, so that a short prompt isn't kept waiting by a long one that came before it.
            share = min(-(-left // (len(prompts) - place)), next_cut(text.read, text.unread, text.request.boundaries))
            writes = text.request.n if text.request.max_new_tokens else 0
            whole = share == len(text.unread)
            if whole and writes > room:
                share, whole = share - 1, False  # it waits with its last token until texts have ended
            room -= writes if whole else 0
            if share:
                texts.append(text)
                pieces.append(Piece(text.memory, text.unread[:share], whole and writes > 0))
                left -= share
        return texts, pieces

    def _begin(self, prompt: _Text, logits: NDArray[np.float32] | None) -> Iterator[Event]:
        """The first token of each continuation of a prompt that was read."""
        request = prompt.request
        if logits is None:
            yield Event(prompt.number, 0, ended="length", place=self._place(prompt), reading=prompt.reading)
            return
        assert self._decoder is not None
        for branch in range(request.n):
            last = branch == request.n - 1
            memory = prompt.memory if last else self._decoder.copy(prompt.memory)
            text = replace(prompt, memory=memory, branch=branch, unnamed=list(prompt.unnamed), history=set())
            text.history.update(request.history)
            text.sampler = Sampler(
                request.sampling,
                request.seed,
                request.banned,
                text.history,
                text.read,
                branch,
                request.ending,
                None if request.constraint is None else request.constraint.copy(),
            )
            self._writing.append(text)
            yield self._write(text, logits)

    def _write(self, text: _Text, logits: NDArray[np.float32]) -> Event:
        """Chooses a text's next token."""
        assert text.sampler is not None
        request = text.request
        try:
            token = text.sampler.choose(logits)
        except UserError as error:  # of this text: the others go on
            self._writing.remove(text)
            place = self._place(text)
            return Event(text.number, text.branch, ended="failed", place=place, error=error, reading=text.reading)
        text.written += 1
        text.unread = [token]
        if token not in request.unpenalised:
            text.history.add(token)
        ended: Ended | None = "length" if text.written >= request.max_new_tokens else None
        ended = "complete" if text.sampler.complete else ended
        ended = "ending" if token in request.ending else ended
        event = Event(text.number, text.branch, token, ended)
        if ended is not None:
            self._writing.remove(text)
            event = replace(event, place=self._place(text), reading=text.reading)
            if self._shelf is not None and request.stored and token in request.boundaries:
                self._read_on(text)
        if request.logprobs is None:
            return event
        log_p = log_probabilities(logits)
        likeliest = np.argsort(-log_p, kind="stable")[: request.logprobs]
        top = tuple((int(i), float(log_p[i])) for i in likeliest)
        return replace(event, logprob=float(log_p[token]), top=top)

    def _read_on(self, text: _Text) -> None:
        """Reads the end of a message that was written, so that the store has what a next message goes on from."""
        request = replace(text.request, max_new_tokens=0, snapshots=False)
        reader = replace(text, number=next(self._numbers), request=request, on_event=_ignore, sampler=None)
        self._reading.append(reader)

    def _snapshot(self, text: _Text) -> None:
        shelf = self._shelf if text.request.stored else None
        if shelf is None and not text.request.snapshots:
            self._name(text)
            return
        state = self._place(text).state
        if shelf is not None:
            shelf.keep(state, text.request.scope)
        if text.request.snapshots:
            text.on_event(Event(text.number, text.branch, snapshot=state))

    def _name(self, text: _Text) -> None:
        if text.prefix is not None:
            text.prefix = text.prefix.extend(text.unnamed)
        text.unnamed.clear()

    def _place(self, text: _Text) -> Place:
        assert self._decoder is not None
        self._name(text)
        state = replace(self._decoder.freeze(text.memory, text.read), prefix=text.prefix)
        return Place(state, tuple(text.unread))
