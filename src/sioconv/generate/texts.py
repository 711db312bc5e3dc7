"""From prompts to texts: one or many at once, after a file of any length, or by another architecture's own means."""

import io
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sioconv.data.chat import encode_turn
from sioconv.data.tokenizer.long_texts import encode_stream
from sioconv.data.tokenizer.tokenizer import ROLE_TOKENS, encode_texts
from sioconv.errors import UserError
from sioconv.files import shown
from sioconv.generate.config import SamplingConfig
from sioconv.generate.constraint import Form, Grammar, Grammars
from sioconv.generate.sampling import random_seed
from sioconv.generate.session import Session, StoppedBy
from sioconv.generate.vocabulary import Vocabulary
from sioconv.model import SioConvForCausalLM
from sioconv.progress import track
from sioconv.terminal import decode_chunks

CHUNK = 1 << 16  # bytes of a file that are read at once
AT_ONCE = 64  # texts that are written at once


@dataclass(frozen=True)
class Generation:
    """A text that the model has written.

    Args:
        text: what it wrote, without the prompt.
        tokens: tokens that it chose, the one that ended the text included.
        prompt_tokens: tokens of the text before that, the one that begins a text included.
        stopped_by: what ended it.
        seconds: time of writing, other texts that were written meanwhile included; reading the prompt isn't counted.
        tokens_per_second: tokens / seconds.
        seed: gives the same text again.
        reused_tokens: tokens of the prompt that were read before: in the state that it goes on from, or in a store.
        read_tokens: the others.
        not_reused_because: why a store has spared nothing; None where it has, or where there is none.
        whole: whether the text is all of the form that was asked for, or was ended before that; None where none was.
    """

    text: str
    tokens: int
    prompt_tokens: int
    stopped_by: StoppedBy
    seconds: float
    tokens_per_second: float
    seed: int
    reused_tokens: int
    read_tokens: int
    not_reused_because: str | None
    whole: bool | None


def generate_text(
    model: SioConvForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    sampling: SamplingConfig,
    on_text: Callable[[str], object] | None = None,
    *,
    schema: str | Mapping[str, Any] | None = None,
    regex: str | None = None,
    choice: Sequence[str] = (),
) -> Generation:
    """Continues `prompt`, which may be empty and of any length; nothing in it becomes a special token.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        prompt: the beginning of the text.
        sampling: the settings.
        on_text: called with each piece of the text as soon as it is written.
        schema: the text is a JSON document that this JSON schema allows.
        regex: the text is one that this regular expression matches as a whole.
        choice: the text is one of these strings.

    Raises:
        UserError: the prompt isn't UTF-8, or the model's weights are broken; the form that is asked for is none, or
            more than one.
    """
    session = Session(model, tokenizer, random_seed() if sampling.seed is None else sampling.seed)
    form = Form.of(schema, regex, choice)
    grammar = None if form is None else Grammars(session.vocabulary).compile(form)
    read_prompt(session, tokenizer, prompt)
    return write_text(session, sampling, on_text, grammar)


def read_text(session: Session, tokenizer: PreTrainedTokenizerFast, chunks: Iterable[str]) -> None:
    """Reads a text of any length in constant memory; a text that begins gets its first token.

    Args:
        session: what it is appended to.
        tokenizer: the session's.
        chunks: the text, in parts.
    """
    if session.tokens_seen == 0:
        session.feed([session.vocabulary.bos])
    for ids in encode_stream(tokenizer, chunks):
        session.feed(ids)


def read_prompt(session: Session, tokenizer: PreTrainedTokenizerFast, prompt: str) -> None:
    """Reads a prompt. Raises UserError where it isn't text."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that aren't UTF-8 come as lone surrogates
        raise UserError(f"the prompt is not text: {error}: give UTF-8") from error
    read_text(session, tokenizer, [prompt])


def read_message(session: Session, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """Reads the rest of a message of the user, which `begin_message` has begun; the reply comes next."""
    *ids, end = encode_turn(tokenizer, "user", text)[1:]
    session.feed([*ids, end, session.vocabulary.assistant])


def begin_message(session: Session, tokenizer: PreTrainedTokenizerFast) -> None:
    """Begins a message of the user."""
    bos = [session.vocabulary.bos] if session.tokens_seen == 0 else []
    session.feed([*bos, tokenizer.get_vocab()[ROLE_TOKENS["user"]]])


def read_file(
    session: Session, tokenizer: PreTrainedTokenizerFast, path: Path | None, stdin: io.BufferedIOBase
) -> None:
    """Reads a file of UTF-8 text in constant memory, and shows how far it is.

    Args:
        session: what it is appended to.
        tokenizer: the session's.
        path: the file; None for standard input.
        stdin: standard input.

    Raises:
        UserError: the file isn't there, can't be read, or isn't UTF-8.
    """
    name = "the input" if path is None else shown(path)
    try:
        with stdin if path is None else path.open("rb") as file:
            size = None if path is None else path.stat().st_size
            chunks = track(iter(lambda: file.read(CHUNK), b""), f"reading {name} (bytes)", size, len)
            read_text(session, tokenizer, decode_chunks(chunks, name))
    except OSError as error:
        raise UserError(f"can't read {name}: {error.strerror}: check the name") from error


def write_text(
    session: Session,
    sampling: SamplingConfig,
    on_text: Callable[[str], object] | None = None,
    grammar: Grammar | None = None,
) -> Generation:
    """Writes on from where a session stands. Raises UserError as `Session.stream` does."""
    writing = _Writing(session, sampling, grammar)
    while (piece := writing.go_on()) is not None:
        if on_text is not None:
            on_text(piece)
    return writing.result()


def write_texts(
    sessions: Iterable[Session], sampling: SamplingConfig, grammar: Grammar | None = None
) -> Iterator[Generation]:
    """Writes on from many sessions of one engine at once; each gets what it gets alone.

    Args:
        sessions: taken as others end.
        sampling: the settings of all.
        grammar: what each of the texts must be; None for anything.

    Yields:
        What was written, in the sessions' order.
    """
    waiting, running = iter(sessions), deque[_Writing]()
    while True:
        while len(running) < AT_ONCE and (session := next(waiting, None)) is not None:
            running.append(_Writing(session, sampling, grammar))
        if not running:
            return
        for writing in running:
            writing.go_on()
        while running and running[0].ended:
            yield running.popleft().result()


class _Writing:
    """A text that is being written."""

    def __init__(self, session: Session, sampling: SamplingConfig, grammar: Grammar | None) -> None:
        self.ended = False
        self._session, self._start, self._seconds = session, time.perf_counter(), 0.0
        self._prompt_tokens, self._pieces = session.tokens_seen, list[str]()
        self._stream = session.stream(sampling, grammar)

    def go_on(self) -> str | None:
        """The next piece; None at the end."""
        piece = next(self._stream, None)
        if piece is not None:
            self._pieces.append(piece)
        elif not self.ended:
            self.ended, self._seconds = True, time.perf_counter() - self._start
        return piece

    def result(self) -> Generation:
        session = self._session
        assert session.stopped_by is not None
        return Generation(
            text="".join(self._pieces),
            tokens=session.reply_tokens,
            prompt_tokens=self._prompt_tokens,
            stopped_by=session.stopped_by,
            seconds=self._seconds,
            tokens_per_second=session.reply_tokens / self._seconds,
            seed=session.seed,
            reused_tokens=session.reading.reused,
            read_tokens=session.reading.read,
            not_reused_because=session.reading.why,
            whole=session.whole,
        )


def continue_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, sampling: SamplingConfig
) -> str:
    """Continues `prompt` with a model whose memory a `Session` can't hold; nothing in it becomes a special token.

    Args:
        model: any causal language model of transformers' form, in eval mode.
        tokenizer: its tokenizer.
        prompt: the beginning of the text.
        sampling: temperature, top_p, max_new_tokens and seed count.
    """
    vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
    ids = [vocabulary.bos, *encode_texts(tokenizer, [prompt])[0]]
    ends = [vocabulary.eos, vocabulary.end_of_turn]
    written = continue_ids(model, ids, sampling, ends, vocabulary.banned.tolist())
    return b"".join(map(vocabulary.bytes_of, written)).decode(errors="replace")


@torch.inference_mode()
def continue_ids(
    model: PreTrainedModel,
    ids: Sequence[int],
    sampling: SamplingConfig,
    ends: Sequence[int],
    banned: Sequence[int] = (),
) -> list[int]:
    """The ids that transformers' own `generate` writes after `ids`.

    Args:
        model: any causal language model of transformers' form, in eval mode.
        ids: of the text so far.
        sampling: temperature, top_p, max_new_tokens and seed count.
        ends: ids that end the text.
        banned: ids that it mustn't write.
    """
    prompt = torch.tensor([list(ids)], device=model.device)  # [1, T]
    chance = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {}
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(random_seed() if sampling.seed is None else sampling.seed)
        written = model.generate(  # type: ignore[operator]
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=sampling.max_new_tokens,
            do_sample=bool(chance),
            suppress_tokens=list(banned) or None,
            eos_token_id=list(ends) or None,
            pad_token_id=ends[0] if ends else 0,
            **chance,
        )
    found: list[int] = written[0, prompt.shape[1] :].tolist()
    return found
