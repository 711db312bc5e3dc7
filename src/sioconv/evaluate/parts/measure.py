"""All parts of an evaluation, one after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sioconv.data.config import DataConfig
from sioconv.evaluate.heldout import Texts
from sioconv.evaluate.parts.context import LEAST_WINDOWS, measure_context, measure_copying
from sioconv.evaluate.parts.pairs import check_pairs, measure_pairs
from sioconv.evaluate.parts.settings import Settings
from sioconv.evaluate.parts.speed import measure_speed
from sioconv.evaluate.parts.text import group_of, measure_bits, measure_frequency, measure_positions, read_texts
from sioconv.evaluate.parts.writing import measure_writing
from sioconv.evaluate.subject import Subject
from sioconv.progress import say


def measure(subject: Subject, data: DataConfig, texts: Texts, settings: Settings) -> dict[str, Any]:
    """What `settings` ask for, as plain data.

    Args:
        subject: the model.
        data: the sources of `texts`.
        texts: documents of each source; empty where no part reads any.
        settings: which parts, and how much of them.

    Returns:
        A key for each part; `text` becomes `sources`, `languages`, `domains`, `positions` and `frequency`. See
        docs/evaluation.md.

    Raises:
        UserError: a part can't be measured; see each of them.
    """
    check(settings)
    found: dict[str, Any] = {}
    if "text" in settings.parts:
        losses = read_texts(subject, data, texts)
        found |= measure_bits(losses, settings.seed)
        found |= {"positions": measure_positions(losses), "frequency": measure_frequency(losses)}
    documents = _by_group(data, texts)
    if {"context", "copying"}.intersection(settings.parts):
        tokens = {
            name: [np.array(ids[1:], np.int32) for ids in subject.encode(group)] for name, group in documents.items()
        }
        if "context" in settings.parts:
            found["context"] = measure_context(subject, tokens, settings.seed)
        if "copying" in settings.parts:
            found["copying"] = measure_copying(subject, tokens, settings.seed)
        for part, shown in (("context", found.get("context")), ("copying", found.get("copying", {}).get("distances"))):
            if part in settings.parts and not shown:
                _tell_why_not(part, subject)
    if "pairs" in settings.parts:
        found["pairs"] = measure_pairs(subject, settings.pairs, settings.seed)
    if "writing" in settings.parts:
        found["writing"] = measure_writing(subject, documents, settings.samples, settings.max_new_tokens, settings.seed)
        if not found["writing"]:
            say("writing: the text is too short to measure it on")
    if "speed" in settings.parts:
        found["speed"] = measure_speed(subject, settings.seed)
    if settings.tasks:
        from sioconv.evaluate.parts.harness import measure_tasks

        found["tasks"] = measure_tasks(
            subject, settings.tasks, settings.include, settings.limit, settings.shots, settings.seed
        )
    if settings.pfgen is not None:
        from sioconv.evaluate.parts.pfgen import measure_pfgen

        found["pfgen"] = measure_pfgen(subject, settings.pfgen, settings.trials)
    return found


def check(settings: Settings) -> None:
    """Raises UserError where a part can't be measured for want of its data: before the others take minutes."""
    if "pairs" in settings.parts:
        check_pairs(settings.pairs, settings.seed)
    if settings.tasks:
        from sioconv.evaluate.parts.harness import check_tasks  # brings lm-evaluation-harness, which is an extra

        check_tasks(settings.tasks, settings.include)
    if settings.pfgen is not None:
        from sioconv.evaluate.parts.pfgen import prompts_of

        prompts_of(settings.pfgen, settings.trials)


def _tell_why_not(part: str, subject: Subject) -> None:
    """Says why `context` or `copying` has no figures."""
    window = subject.window
    if window is not None and window < LEAST_WINDOWS[part]:
        say(f"{part}: the model reads {window:,} tokens at once, which are too few to measure it on")
    else:
        say(f"{part}: the text is too short to measure it on")


def _by_group(data: DataConfig, texts: Texts) -> Mapping[str, Sequence[str]]:
    """The documents of each language or given text; templated ones are left out where there are others."""
    natural = {name: documents for name, documents in texts.items() if documents and not data.sources[name].templated}
    groups: dict[str, list[str]] = {}
    for name, documents in (natural or texts).items():
        if documents:
            groups.setdefault(group_of(name, data.sources[name]), []).extend(documents)
    return groups
