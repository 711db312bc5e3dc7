"""A request's replies as they come: text, log-probabilities, how each ended, and what the conversation has become."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace

from sioconv.data.tokenizer.tokenizer import encode_texts
from sioconv.generate.config import SamplingConfig
from sioconv.generate.constraint import Grammar
from sioconv.generate.engine import Event, Place, Reading, Request
from sioconv.generate.sampling import random_seed
from sioconv.generate.states.state import State
from sioconv.generate.states.store import key_of
from sioconv.generate.text_stream import TextStream
from sioconv.serve.access.limits import timed_out
from sioconv.serve.errors import ApiError
from sioconv.serve.models import ServedModel

ASIDE = 1  # the priority of what nobody waits for


@dataclass(frozen=True)
class Prompt:
    """What is read before a reply.

    Args:
        ids: token ids.
        state: what they go on from.
        scope: whose text it is.
        history: ids of the current turn, for the repetition penalty.
        stored: whether the store of snapshots may be used.
    """

    ids: list[int]
    state: State = field(default_factory=State)
    scope: str = ""
    history: frozenset[int] = frozenset()
    stored: bool = True

    @property
    def tokens(self) -> int:
        """Its length, the state's text included."""
        return self.state.tokens + len(self.ids)


@dataclass(frozen=True)
class Token:
    """A token of a reply, where log-probabilities are asked for.

    Args:
        id: its id.
        logprob: ln of its probability before penalties and filters.
        top: the likeliest ids with theirs.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """A part of a reply.

    Args:
        branch: which reply.
        text: what has become certain; may be empty.
        tokens: the tokens that were written since the last piece.
        finish: why the reply ends here: `stop` or `length`; None where it goes on.
    """

    branch: int
    text: str
    tokens: tuple[Token, ...] = ()
    finish: str | None = None


@dataclass
class Reply:
    """One reply, while it is written and after.

    Args:
        stream: makes text of its bytes.
        text: what was written so far.
        tokens: how many tokens were written, the one that ended it included.
        ids: those that are text.
        place: where the text stands at the end.
    """

    stream: TextStream
    text: str = ""
    tokens: int = 0
    ids: list[int] = field(default_factory=list)
    place: Place | None = None


class Writing:
    """The replies to one prompt.

    Args:
        served: the model.
        prompt: what is read.
        sampling: the settings; without a seed they get a random one.
        n: how many replies.
        logprobs: how many likely tokens are given with each one; None for none, and no log-probabilities.
        grammar: what each reply must be; None for anything.
        turns: whether a reply is a turn of a conversation, which has an end, and not a text that goes on.

    Attributes:
        sampling: the settings.
        seed: gives the same replies again.
        replies: one for each of n.
        reading: what became of the prompt, at the end.
        before: the last state that was seen while the prompt was read.
        keys: of the snapshots that were made or found.
        interrupt: ends the replies while they are written.
    """

    def __init__(
        self,
        served: ServedModel,
        prompt: Prompt,
        sampling: SamplingConfig,
        n: int = 1,
        logprobs: int | None = None,
        turns: bool = True,
        grammar: Grammar | None = None,
    ) -> None:
        self.seed = random_seed() if sampling.seed is None else sampling.seed
        self.replies = [Reply(TextStream(sampling.stop)) for _ in range(n)]
        self.reading: Reading | None = None
        self.before = prompt.state
        self.keys: set[str] = set()
        self._closed: set[int] = set()  # replies whose end was read
        self.interrupt: Callable[[], None] = _nothing
        self.sampling = sampling
        self._served, self._prompt, self._logprobs, self._turns = served, prompt, logprobs, turns
        vocabulary = served.vocabulary
        self._ending = (vocabulary.eos, vocabulary.end_of_turn)
        self._request = Request(
            prompt.ids,
            prompt.state,
            sampling,
            sampling.max_new_tokens,
            self.seed,
            n,
            ending=self._ending,
            banned=vocabulary.banned,
            constraint=None if grammar is None else grammar.start,
            history=prompt.history,
            unpenalised=vocabulary.special,
            logprobs=logprobs,
            boundaries=(vocabulary.end_of_turn,),
            snapshots=True,
            scope=prompt.scope,
            stored=prompt.stored,
        )

    @property
    def tokens(self) -> int:
        """Tokens that were written, of all replies."""
        return sum(reply.tokens for reply in self.replies)

    async def pieces(self, seconds: float, done: Callable[[], None]) -> AsyncGenerator[Piece | None, None]:
        """The pieces of all replies as they come; the first thing is None: the request was taken.

        A generator that is closed early ends the request.

        Args:
            seconds: the request is ended after that.
            done: called when all is written, however much of it was taken by then.

        Raises:
            ApiError: it took too long, or an id isn't in the vocabulary.
            UserError: the model's weights are broken, or the settings leave no token.
        """
        try:
            async with self._served.runner.start(self._request, seconds, done) as running:
                self.interrupt = running.interrupt
                yield None
                async for event in running:
                    piece = self._take(event)
                    if piece is None:
                        continue
                    if piece.finish is not None:
                        running.stop(piece.branch)
                    yield piece
        except TimeoutError as error:
            raise timed_out(seconds) from error
        except ValueError as error:
            raise ApiError(400, str(error)) from error

    def _take(self, event: Event) -> Piece | None:
        if event.snapshot is not None:
            self._note(event.snapshot)
            return None
        self.reading = event.reading or self.reading
        if event.error is not None:
            raise event.error
        reply = self.replies[event.branch]
        assert event.token is not None
        reply.tokens += 1
        reply.place = event.place
        text, tokens = "", tuple[Token, ...]()
        if event.token not in self._ending:
            reply.ids.append(event.token)
            text = reply.stream.push(self._served.vocabulary.bytes_of(event.token))
            if event.logprob is not None:
                tokens = (Token(event.token, event.logprob, event.top if self._logprobs else ()),)
        finish = None
        if reply.stream.stopped or event.ended in ("ending", "complete"):
            finish = "stop"
        elif event.ended == "length":
            finish = "length"
        if finish is not None and not reply.stream.stopped:
            text += reply.stream.flush()
        reply.text += text
        return Piece(event.branch, text, tokens, finish) if text or tokens or finish else None

    def _note(self, state: State) -> None:
        if state.prefix is not None:
            self.keys.add(key_of(state.prefix, self._prompt.scope))
        if self.before.tokens < state.tokens <= self._prompt.tokens:
            self.before = state

    async def close(self, branch: int = 0) -> State:
        """What the conversation has become with a reply: as though its text, and its end, had been read as a message.

        So going on from it is the same as sending the whole conversation again, to the bit on CPUs, also where the
        reply was cut at a stop string, or where the model has spelt it in other tokens than the tokenizer would.
        """
        request = await self._closing(branch)
        self._closed.add(branch)
        if not request.ids:
            return request.state
        async with self._served.runner.start(request) as running:
            async for event in running:
                if event.snapshot is not None and event.snapshot.prefix is not None:
                    self.keys.add(key_of(event.snapshot.prefix, self._prompt.scope))
                if event.place is not None:
                    return event.place.state
        raise AssertionError("a request that only reads ends with a place")

    async def close_aside(self) -> None:
        """Lets the store know what `close` gives, so that a client that sends the whole conversation is recognised."""
        if not self._prompt.stored or not self._turns:
            return
        for branch, reply in enumerate(self.replies):
            if branch not in self._closed and (reply.place is not None or reply.stream.stopped):
                request = await self._closing(branch)
                if request.ids != list(reply.place.unread if reply.place else ()):  # else the engine reads it itself
                    self._served.runner.read_aside(replace(request, snapshots=False))

    async def _closing(self, branch: int) -> Request:
        reply, prompt = self.replies[branch], self._prompt
        end = [self._served.vocabulary.end_of_turn] if self._turns else []
        spelt = await tokens_of(self._served, reply.text)
        if reply.place is not None and spelt == reply.ids:  # all but the latest tokens were read as they were written
            state = reply.place.state
            ids = [*spelt[state.tokens - prompt.tokens :], *end]
        else:
            state = self.before
            ids = [*prompt.ids[state.tokens - prompt.state.tokens :], *spelt, *end]
        return replace(self._request, ids=ids, state=state, max_new_tokens=0, n=1, priority=ASIDE)


async def tokens_of(served: ServedModel, text: str) -> list[int]:
    """A text's ids; long ones on another thread."""
    if len(text) < 2000:
        return encode_texts(served.tokenizer, [text])[0]
    return (await asyncio.to_thread(encode_texts, served.tokenizer, [text]))[0]


def _nothing() -> None:
    """Nothing is written yet."""
