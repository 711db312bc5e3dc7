"""The results of an evaluation as plain data. The report and summary.json are made from it alone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

SHARES = ("ended", "in_language", "no_repeat", "right")


@dataclass(frozen=True)
class Answer:
    """A question, what the model answered, and what can be said of the answer without reading it.

    Args:
        question: what was asked.
        expected: the true answer.
        text: what the model answered.
        why: what kind of question it is (seen, unseen place, paraphrase, …).
        ended: the model ended the answer by itself.
        in_language: the answer is in the language it should be in.
        no_repeat: no 8 tokens in a row come twice.
        right: the answer holds the true answer.
        judged: whether it is known what a right answer holds; of a user's own questions it isn't.
    """

    question: str
    expected: str
    text: str
    why: str
    ended: bool
    in_language: bool
    no_repeat: bool
    right: bool
    judged: bool = True


@dataclass(frozen=True)
class Chat:
    """How tuning on conversations went.

    Args:
        loss_before: mean loss of held-out assistant tokens in nats, of the pretrained model; None where there are none.
        loss_after: the same of the tuned model.
        seen: answers to questions that the tuning conversations hold.
        unseen: answers to questions that they don't hold.
    """

    loss_before: float | None = None
    loss_after: float | None = None
    seen: Sequence[Answer] = ()
    unseen: Sequence[Answer] = ()


@dataclass(frozen=True)
class TextBits:
    """Bits per byte of held-out text.

    Args:
        language: its language.
        templated: made from facts: it isn't part of its language's total.
        bytes: UTF-8 bytes that were read.
        base: bits per byte of the pretrained model.
        tuned: bits per byte of the tuned model, where there is one.
    """

    language: str
    templated: bool
    bytes: int
    base: float
    tuned: float | None = None


@dataclass(frozen=True)
class Yardsticks:
    """Bits per byte of held-out text under methods that are no neural network; they and the model read the same bytes.

    Args:
        xz_primed: what `xz -9e` adds for the held-out text once it has read the training text.
        ngram7: cross-entropy under a byte 7-gram with Witten-Bell smoothing counted on the training text.
        train_bytes: bytes of training text that both have read.
    """

    xz_primed: float
    ngram7: float
    train_bytes: int


@dataclass(frozen=True)
class Sizes:
    """The model's numbers: parameters, and the bytes of the state that it carries from token to token."""

    parameters: int
    state_bytes: int


@dataclass(frozen=True)
class Minutes:
    """Where the time went; None where it wasn't measured."""

    install: float | None = None
    train: float | None = None
    total: float | None = None


@dataclass(frozen=True)
class ReportFigures:
    """Everything that a report shows.

    Args:
        name: the run.
        sizes: the model's size.
        sources: bits per byte of each source of text.
        languages: bits per byte of each language, templated sources left out.
        yardsticks: by language.
        chat: conversations; None where the run has none.
        continuations: prompt → what the final model writes after it.
        timescales: [layer][head], in tokens.
        metrics: rows of metrics.jsonl.
        samples: rows of samples.jsonl.
        evaluation: what `parts.measure` found of the finished model.
        minutes: time spent.
        machine: what it ran on, in words.
        versions: package → version.
        window: tokens in a window of pretraining.
        weights: fingerprint of the weights that were measured, as `base` and `tuned`.
    """

    name: str
    sizes: Sizes
    sources: dict[str, TextBits] = field(default_factory=dict)
    languages: dict[str, TextBits] = field(default_factory=dict)
    yardsticks: dict[str, Yardsticks] = field(default_factory=dict)
    chat: Chat | None = None
    continuations: dict[str, str] = field(default_factory=dict)
    timescales: Sequence[Sequence[float]] = ()
    metrics: Sequence[dict[str, Any]] = ()
    samples: Sequence[dict[str, Any]] = ()
    evaluation: dict[str, Any] = field(default_factory=dict)
    minutes: Minutes = field(default_factory=Minutes)
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    window: int | None = None
    weights: dict[str, str] = field(default_factory=dict)

    def last(self, stage: str, key: str) -> float | None:
        """The last value of `key` in the training rows of `stage`."""
        values = [row[key] for row in self.metrics if row["stage"] == stage and row["split"] == "train"]
        return float(values[-1]) if values else None

    @property
    def tokens(self) -> int:
        """Tokens that pretraining has read."""
        return int(self.last("pretrain", "tokens") or 0)

    @property
    def tokens_per_second(self) -> float | None:
        """Mean speed of pretraining."""
        seconds = self.last("pretrain", "seconds")
        return self.tokens / seconds if seconds else None


def shares(answers: Iterable[Answer]) -> dict[str, Any]:
    """How many answers there are and which share of them ends, is in its language, repeats nothing, and is right."""
    listed = list(answers)
    values: dict[str, float | None] = {
        name: sum(getattr(answer, name) for answer in listed) / len(listed) for name in SHARES if listed
    }
    judged = [answer.right for answer in listed if answer.judged]
    if listed:
        values["right"] = sum(judged) / len(judged) if judged else None
    return {"questions": len(listed)} | values


def shares_by_kind(answers: Sequence[Answer]) -> dict[str, Any]:
    """`shares` of all answers, and under `by` those of each kind of question."""
    kinds = dict.fromkeys(answer.why for answer in answers)
    return shares(answers) | {"by": {kind: shares(a for a in answers if a.why == kind) for kind in kinds}}


def summarise(figures: ReportFigures) -> dict[str, Any]:
    """The content of summary.json: every figure; one that isn't finite is null there."""
    chat = figures.chat or Chat()
    values = {
        "name": figures.name,
        "bpb": {language: bits.base for language, bits in figures.languages.items()}
        | {"sources": {name: bits.base for name, bits in figures.sources.items()}},
        "bpb_tuned": {language: bits.tuned for language, bits in figures.languages.items() if bits.tuned is not None}
        | {"sources": {name: bits.tuned for name, bits in figures.sources.items() if bits.tuned is not None}},
        "heldout_bytes": {language: bits.bytes for language, bits in figures.languages.items()},
        "yardsticks": {
            language: {"xz_primed": marks.xz_primed, "ngram7": marks.ngram7, "train_bytes": marks.train_bytes}
            for language, marks in figures.yardsticks.items()
        },
        "chat": {
            "loss_before": chat.loss_before,
            "loss_after": chat.loss_after,
            "seen": shares_by_kind(chat.seen),
            "unseen": shares_by_kind(chat.unseen),
        },
        "continuations": figures.continuations,
        "evaluation": figures.evaluation,
        "parameters": figures.sizes.parameters,
        "weights": figures.weights,
        "state_bytes": figures.sizes.state_bytes,
        "tokens": figures.tokens,
        "tokens_per_second": figures.tokens_per_second,
        "minutes": {
            "install": figures.minutes.install,
            "train": figures.minutes.train,
            "total": figures.minutes.total,
        },
        "machine": figures.machine,
        "versions": figures.versions,
    }
    finite_values: dict[str, Any] = finite(values)
    return finite_values


def finite(value: Any) -> Any:
    """The same nested dicts and lists with None in place of numbers that JSON doesn't know (NaN, infinities)."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
