"""The figures of several runs, measured on the same held-out text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sioconv.data.config import DataConfig
from sioconv.evaluate.heldout import Texts, some_of_each
from sioconv.evaluate.intervals import Interval, bootstrap
from sioconv.evaluate.parts.pairs import measure_pairs
from sioconv.evaluate.parts.text import Losses, read_texts
from sioconv.evaluate.subject import Subject
from sioconv.evaluate.timescales import timescales
from sioconv.model import SioConvForCausalLM


@dataclass(frozen=True)
class Bits:
    """Bits per byte of a language or source.

    Args:
        bpb: of this run.
        interval: 95 % over documents.
        change: this run's minus the first run's, on the same documents.
        change_interval: 95 % over documents, of pairs: a document that is hard is hard for both.
    """

    bpb: float
    interval: Interval | None
    change: float
    change_interval: Interval | None


@dataclass(frozen=True)
class RunFigures:
    """What is shown of one run.

    Args:
        name: of the run; two of one name have their folders' names.
        settings: keys of the recipe in which the compared runs differ → value.
        parameters: of the model.
        bits: language or source → its bits per byte, languages first.
        pairs: language → accuracy on minimal pairs and its interval.
        timescales: [layer][head] in tokens; empty for other architectures.
        metrics: rows of metrics.jsonl of pretraining.
        samples: prompt → what the run wrote after it at its end.
    """

    name: str
    settings: Mapping[str, str]
    parameters: int
    bits: Mapping[str, Bits]
    pairs: Mapping[str, tuple[float, Interval]]
    timescales: Sequence[Sequence[float]]
    metrics: Sequence[Mapping[str, Any]]
    samples: Mapping[str, str]

    @property
    def tokens(self) -> int:
        """Tokens that pretraining has read."""
        return int(self.metrics[-1]["tokens"]) if self.metrics else 0

    @property
    def minutes(self) -> float:
        """Minutes of pretraining."""
        return float(self.metrics[-1]["seconds"]) / 60 if self.metrics else 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Mean speed of pretraining."""
        return self.tokens / (60 * self.minutes) if self.minutes else None


@dataclass(frozen=True)
class Measured:
    """What a run's model does on the common text.

    Args:
        losses: of each source.
        pairs: as `measure_pairs` gives them.
        timescales: [layer][head] in tokens.
        parameters: of the model.
    """

    losses: Sequence[Losses]
    pairs: Mapping[str, Any]
    timescales: Sequence[Sequence[float]]
    parameters: int


def measure_run(subject: Subject, data: DataConfig, texts: Texts, pairs: int, seed: int) -> Measured:
    """Reads the common text and scores minimal pairs. Raises UserError where the weights are broken."""
    remembered: list[list[float]] = []
    if isinstance(subject.model, SioConvForCausalLM):
        remembered = timescales(subject.model, subject.tokenizer, some_of_each(texts))  # type: ignore[arg-type]
    return Measured(
        losses=read_texts(subject, data, texts),
        pairs=measure_pairs(subject, pairs, seed),
        timescales=remembered,
        parameters=subject.model.num_parameters(),
    )


def bits_beside(own: Sequence[Losses], first: Sequence[Losses], seed: int) -> dict[str, Bits]:
    """Bits per byte of each language (without templated sources) and source, beside those of the first run.

    Both have read the same documents in the same order, each with its own tokenizer.
    """
    chosen: dict[str, list[int]] = {}
    for i, each in enumerate(own):
        if not each.templated and each.group != each.name:
            chosen.setdefault(each.group, []).append(i)
    groups = chosen | {each.name: [i] for i, each in enumerate(own)}
    return {name: _bits([own[i] for i in group], [first[i] for i in group], seed) for name, group in groups.items()}


def _bits(own: Sequence[Losses], first: Sequence[Losses], seed: int) -> Bits:
    size = sum(int(each.bytes.sum()) for each in own)
    changes = [mine.bits - theirs.bits for mine, theirs in zip(own, first, strict=True)]
    return Bits(
        bpb=float(sum(each.bits.sum() for each in own)) / size,
        interval=bootstrap([(each.bits, each.bytes) for each in own], seed),
        change=float(sum(np.sum(change) for change in changes)) / size,
        change_interval=bootstrap([(change, each.bytes) for change, each in zip(changes, own, strict=True)], seed),
    )


def accuracies(pairs: Mapping[str, Any]) -> dict[str, tuple[float, Interval]]:
    """Of `measure_pairs`, what is shown: language → accuracy and interval."""
    return {language: (found["accuracy"], found["interval"]) for language, found in pairs.items()}
