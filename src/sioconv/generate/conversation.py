"""A conversation: a session that is fed messages and writes replies, and its copies."""

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from sioconv.data.chat import encode_turn
from sioconv.errors import UserError
from sioconv.generate.config import LARGEST_SEED, SamplingConfig
from sioconv.generate.engine import Engine
from sioconv.generate.session import Session
from sioconv.generate.states.store import StateStore
from sioconv.model import SioConvForCausalLM

MAIN = "main"  # what the conversation is called that wasn't forked


@dataclass
class Branch:
    """One of the copies of a conversation.

    Args:
        session: the model's side of it.
        reply: the token with which the last reply begins; None where there is none that could be written again.
    """

    session: Session
    reply: int | None = None


class Conversation:
    """A session that is fed messages, and its copies.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        seed: seed of new sessions.
        system: instructions that stand at the beginning of new sessions.
        store: where what was read is kept and looked for; None for none.
        keep_transcript: whether files hold what was said, besides what the model remembers of it.
        at_once: see `Engine`.

    Attributes:
        system: those instructions.
        name: which of the copies is talked to.
        tokens_per_second: speed of the last reply.
    """

    def __init__(
        self,
        model: SioConvForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
        system: str | None = None,
        store: StateStore | None = None,
        keep_transcript: bool = True,
        at_once: bool = False,
    ) -> None:
        self._keep_transcript = keep_transcript
        self.system, self.name, self.tokens_per_second = system, MAIN, 0.0
        self._model, self._tokenizer, self._seed = model, tokenizer, seed
        self._engine = Engine(model, store=store, at_once=at_once)
        self._branches: dict[str, Branch] = {}
        self.reset()

    @property
    def session(self) -> Session:
        """The model's side of the conversation."""
        return self._branches[self.name].session

    @property
    def names(self) -> list[str]:
        """What the copies are called."""
        return list(self._branches)

    def finish(self) -> None:
        """See `Engine.finish`."""
        self._engine.finish()

    def reset(self) -> None:
        """Begins anew; other copies stay."""
        self._branches[self.name] = Branch(Session(self._model, self._tokenizer, self._seed, self._engine))

    def load(self, path: Path) -> None:
        """Goes on with a saved session. Raises `UserError` when it can't be loaded; the one at hand then stays."""
        self._branches[self.name] = Branch(Session.load(path, self._model, self._tokenizer, self._engine))

    def save(self, path: Path) -> None:
        """Keeps the session in a file. Raises `UserError` where it can't be written."""
        self.session.save(path, self._keep_transcript)

    def fork(self, name: str) -> bool:
        """Goes on in the copy of that name; whether it was made for it."""
        new = name not in self._branches
        if new:
            self._branches[name] = Branch(self.session.fork(), self._branches[self.name].reply)
        self.name = name
        return new

    def undo(self) -> None:
        """Takes the last message and its reply back. Raises `UserError` where there is none, or it is forgotten."""
        if self.session.turns == 0:
            raise UserError("there is no message to take back")
        self.session.rewind(turns=1)
        self._forget("user")
        self._branches[self.name].reply = None

    def reply(self, message: str, sampling: SamplingConfig) -> Generator[str, None, None]:
        """Feeds the user's message and yields the reply as it comes; the turn is closed however the reply ends."""
        ids = []
        if self.session.tokens_seen == 0:
            ids = [self.session.vocabulary.bos]
            if self.system is not None:
                ids += encode_turn(self._tokenizer, "system", self.system)
                self.session.transcript += (("system", self.system),)
        ids += [*encode_turn(self._tokenizer, "user", message), self.session.vocabulary.assistant]
        self.session.feed(ids)
        self.session.transcript += (("user", message),)
        self._branches[self.name].reply = self.session.tokens_seen
        yield from self._write(sampling)

    def retry(self, sampling: SamplingConfig) -> Generator[str, None, None]:
        """Writes the last reply again, with the next seed, and yields it as `reply` does.

        Raises:
            UserError: there is no reply, or what it answers is forgotten.
        """
        start, session = self._branches[self.name].reply, self.session
        if start is None:
            raise UserError("there is no reply to write again")
        session.rewind(tokens=session.tokens_seen - start)
        self._forget("assistant")
        session.seed = (session.seed + 1) % (LARGEST_SEED + 1)
        yield from self._write(sampling)

    def _write(self, sampling: SamplingConfig) -> Generator[str, None, None]:
        session, start = self.session, time.perf_counter()
        text = ""
        try:
            for piece in session.stream(sampling):
                text += piece
                yield piece
        finally:
            self.tokens_per_second = session.reply_tokens / (time.perf_counter() - start)
            session.transcript += (("assistant", text),)
            session.end_turn()

    def _forget(self, role: str) -> None:
        """Takes the transcript back to before the last turn of this role, if it has it."""
        turns = self.session.transcript
        last = max((i for i, turn in enumerate(turns) if turn[0] == role), default=len(turns))
        self.session.transcript = turns[:last]
