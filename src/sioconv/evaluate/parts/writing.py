"""What a model writes by itself: does it repeat itself, how many words does it know, are its texts well-formed?

All texts begin as held-out documents do, and these documents' own continuations are measured beside them: the figures
of a person, on the same beginnings and lengths.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from sioconv.errors import UserError
from sioconv.evaluate.subject import Subject
from sioconv.generate import Engine, SamplingConfig, Session
from sioconv.generate.texts import continue_ids, read_prompt, write_texts
from sioconv.model import SioConvForCausalLM
from sioconv.progress import say, track

PROMPT = 16  # characters of a document that the model gets
# A word of Latin letters or digits, or any other letter or sign: the same units whatever the tokenizer.
UNITS = re.compile(r"[A-Za-z0-9']+|[^\sA-Za-z0-9']")
BRACKETS = {"「": "」", "『": "』", "（": "）", "(": ")", "[": "]", "【": "】", "“": "”", "《": "》"}
REPETITION, DISTINCT = 4, (1, 2, 3)
TEMPERATURE, TOP_P = 0.8, 0.95


@dataclass(frozen=True)
class Written:
    """A text behind its prompt, and whether the model ended it by itself."""

    text: str
    ended: bool


def measure_writing(
    subject: Subject, texts: Mapping[str, Sequence[str]], samples: int, max_new_tokens: int, seed: int
) -> dict[str, Any]:
    """Repetition, distinct n-grams and well-formedness of `samples` texts, shared out to the groups of `texts`.

    Args:
        subject: the model.
        texts: held-out documents by language or name.
        samples: texts in all.
        max_new_tokens: longest of them.
        seed: of the choice of prompts, and of each text.

    Returns:
        By group `{"texts", "model": {…}, "human": {…}}`, both with `repetition`, `distinct_1` to `_3`, `broken`,
        `unclosed`, and the model's with `ended`; see docs/evaluation.md. A group without a document that is longer than
        a prompt is left out.

    Raises:
        UserError: the model has no positions behind a prompt.
    """
    long = {name: [text for text in group if len(text) > 2 * PROMPT] for name, group in texts.items()}
    long = {name: group for name, group in long.items() if group}
    found = {}
    for number, (name, group) in enumerate(long.items()):
        wanted = samples // len(long) + (number < samples % len(long))
        if wanted:
            chosen = np.random.default_rng(seed).integers(len(group), size=wanted).tolist()
            prompts = [group[i][:PROMPT] for i in chosen]
            sampling = SamplingConfig(temperature=TEMPERATURE, top_p=TOP_P, max_new_tokens=max_new_tokens)
            sampling = that_fits(subject, prompts, sampling, f"writing, {name}")
            written = list(track(write(subject, prompts, sampling, seed), f"writing, {name}", wanted))
            found[name] = {"texts": wanted, **_beside(prompts, written, [group[i] for i in chosen])}
    return found


def that_fits(subject: Subject, prompts: Sequence[str], sampling: SamplingConfig, what: str) -> SamplingConfig:
    """`sampling` with as many new tokens as the model has positions for behind the longest prompt; says so if fewer.

    Raises UserError where there are none.
    """
    if subject.positions is None:
        return sampling
    longest = max(map(len, subject.encode(prompts)))
    room = subject.positions - longest
    if room < 1:
        raise UserError(
            f"{what}: a prompt has {longest:,} tokens and {subject.name} positions for {subject.positions:,} in all: "
            "take a model with more of them"
        )
    if room >= sampling.max_new_tokens:
        return sampling
    say(f"{what}: {subject.name} has positions for {subject.positions:,} tokens: it writes {room:,} new ones at most")
    return replace(sampling, max_new_tokens=room)


def write(subject: Subject, prompts: Sequence[str], sampling: SamplingConfig, seed: int) -> Iterator[Written]:
    """Yields a `Written` for each prompt, of the seeds `seed`, `seed` + 1, …"""
    model = subject.model
    if isinstance(model, SioConvForCausalLM):
        engine, tokenizer = Engine(model), subject.tokenizer
        sessions = (_begun(model, tokenizer, engine, prompt, seed + i) for i, prompt in enumerate(prompts))
        for result in write_texts(sessions, sampling):
            yield Written(result.text, result.stopped_by in ("eos", "end_of_turn"))
        return
    for i, prompt in enumerate(prompts):
        yield _by_transformers(subject, prompt, replace(sampling, seed=seed + i))


def _begun(model: Any, tokenizer: Any, engine: Engine, prompt: str, seed: int) -> Session:
    session = Session(model, tokenizer, seed, engine)
    read_prompt(session, tokenizer, prompt)
    return session


def _by_transformers(subject: Subject, prompt: str, sampling: SamplingConfig) -> Written:
    """Another architecture's text."""
    ends = stop_ids(subject.model, subject.tokenizer)
    new = continue_ids(subject.model, subject.encode([prompt])[0], sampling, ends)
    text = subject.tokenizer.decode(new, skip_special_tokens=True)
    return Written(str(text), new[-1] in ends)


def stop_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end a text: those of the model's generation settings, and the tokenizer's eos."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = [configured] if isinstance(configured, int) else list(configured or [])
    ids += [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    known = model.config.get_text_config().vocab_size  # a configuration may keep another's ids
    return [i for i in dict.fromkeys(ids) if i < known]


def _beside(prompts: Sequence[str], written: Sequence[Written], documents: Sequence[str]) -> dict[str, Any]:
    """The model's figures, and those of the documents cut to the same numbers of units."""
    human = []
    for prompt, mine, document in zip(prompts, written, documents, strict=True):
        places = [unit.end() for unit in UNITS.finditer(document[PROMPT:])]
        length = len(UNITS.findall(mine.text))
        human.append(prompt + document[PROMPT:][: places[min(length, len(places)) - 1] if length and places else 0])
    texts = [prompt + mine.text for prompt, mine in zip(prompts, written, strict=True)]
    ended = sum(mine.ended for mine in written) / len(written)
    return {"model": {**figures_of(texts), "ended": ended}, "human": figures_of(human)}


def figures_of(texts: Sequence[str]) -> dict[str, float | None]:
    """What can be counted of texts; a figure is None where they are too short for it.

    `repetition` is the mean share of a text's 4-grams that stood in it before (Welleck et al. 2020, arXiv:1908.04319);
    `distinct_n` the different n-grams of all texts over all of them (Li et al. 2016, arXiv:1510.03055); `broken` the
    share of texts with U+FFFD, `unclosed` that with a bracket that nothing closes or opens.
    """
    units = [UNITS.findall(text) for text in texts]
    shares = [1 - len(set(grams)) / len(grams) for each in units if (grams := _grams(each, REPETITION))]
    found: dict[str, float | None] = {"repetition": float(np.mean(shares)) if shares else None}
    for n in DISTINCT:
        grams = [gram for each in units for gram in _grams(each, n)]
        found[f"distinct_{n}"] = len(set(grams)) / len(grams) if grams else None
    found["broken"] = sum("\ufffd" in text for text in texts) / len(texts)
    found["unclosed"] = sum(not is_closed(text) for text in texts) / len(texts)
    return found


def _grams(units: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]


def is_closed(text: str) -> bool:
    """Whether every bracket is closed by its own, and none is closed that wasn't opened."""
    waiting: list[str] = []
    for sign in text:
        if sign in BRACKETS:
            waiting.append(BRACKETS[sign])
        elif sign in BRACKETS.values() and (not waiting or waiting.pop() != sign):
            return False
    return not waiting
