"""Does a model use what it read long ago? The same tokens after more and less of their own context, and after copies.

Both are measured on held-out text by masking: a span is predicted after what comes before it, and only the span counts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sioconv.evaluate.bits import document_nats
from sioconv.evaluate.intervals import bootstrap
from sioconv.evaluate.subject import Subject
from sioconv.progress import track

SPAN, SPANS, LEAST_SPANS = 64, 24, 4
CONTEXTS = (16, 64, 256, 1024, 4096)  # tokens before a span
COPIED, COPIES = 32, 16
DISTANCES = (0, 64, 256, 1024, 4096, 8192)  # tokens between a span and its copy
LEAST_WINDOWS = {"context": CONTEXTS[0] + SPAN, "copying": DISTANCES[0] + 2 * COPIED}  # that each can be measured in

Tokens = NDArray[np.int32]


def measure_context(subject: Subject, documents: Mapping[str, Sequence[Tokens]], seed: int) -> dict[str, Any]:
    """Mean loss of spans of 64 tokens after their last 16, 64, 256, … tokens of context; the spans are the same ones.

    The longest context is the longest that at least four spans have, and the model can read at once. A group without
    such spans is left out.

    Args:
        subject: the model.
        documents: of each language or text, the tokens of its documents.
        seed: of the choice of spans.

    Returns:
        By group `{"spans", "contexts": [{"tokens", "nats", "gain", "interval"}]}`: the gain over the shortest context
        in nats a token, with an interval over spans.
    """
    found = {}
    for name, group in documents.items():
        reach = _reach(subject, group)
        if reach:
            spans = _spans(group, reach, np.random.default_rng(seed))
            found[name] = {"spans": len(spans), "contexts": _by_context(subject, spans, reach, name, seed)}
    return found


def _reach(subject: Subject, documents: Sequence[Tokens]) -> int:
    """The longest of `CONTEXTS` that enough spans have; 0 where none has."""
    window = subject.window
    fitting = [length for length in CONTEXTS if window is None or length + SPAN <= window]
    wide = [
        length for length in fitting if sum((len(ids) - length) // SPAN for ids in documents if len(ids) > length)
        >= LEAST_SPANS
    ]  # fmt: skip
    return max(wide, default=0)


def _spans(documents: Sequence[Tokens], reach: int, random: np.random.Generator) -> list[Tokens]:
    """[reach + SPAN] tokens each: a span behind the context before it."""
    places = [
        (number, start)
        for number, ids in enumerate(documents)
        for start in range(reach, len(ids) - SPAN + 1, SPAN)
    ]  # fmt: skip
    chosen = random.choice(len(places), size=min(SPANS, len(places)), replace=False)
    return [
        documents[number][start - reach : start + SPAN]
        for number, start in (places[i] for i in sorted(chosen.tolist()))
    ]


def _by_context(subject: Subject, spans: Sequence[Tokens], reach: int, name: str, seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    shortest: NDArray[np.float64] | None = None
    lengths = [length for length in CONTEXTS if length <= reach]
    for length in track(lengths, f"context, {name}"):
        nats = span_nats(subject, [(ids[reach - length : reach], ids[reach:]) for ids in spans])
        shortest = nats if shortest is None else shortest
        sizes = np.full(len(nats), SPAN)
        gain = shortest - nats
        rows.append({
            "tokens": length, "nats": float(nats.sum() / sizes.sum()), "gain": float(gain.sum() / sizes.sum()),
            "interval": bootstrap([(gain, sizes)], seed),
        })  # fmt: skip
    return rows


def measure_copying(subject: Subject, documents: Mapping[str, Sequence[Tokens]], seed: int) -> dict[str, Any]:
    """How much better a span of 32 tokens is predicted when it was read before, 0 to 8,192 tokens ago.

    Between the two stands other text. Beside it the same is read with another span in the first one's place: what is
    left of the difference is memory, not position. 8,192 is 32 times a window of 256 tokens.

    Returns:
        `{"spans", "distances": [{"tokens", "nats", "without", "gain", "interval"}]}`, the gain in nats a token; a model
        without a memory beyond its window has the distances that its window holds. No distances where there is too
        little text.
    """
    text = np.concatenate([ids for group in documents.values() for ids in group] or [np.zeros(0, np.int32)])
    window, rows = subject.window, []
    fitting = [n for n in DISTANCES if (window is None or n + 2 * COPIED <= window) and n + 4 * COPIED <= len(text)]
    for distance in track(fitting, "copying"):
        random = np.random.default_rng(seed)
        starts = random.integers(len(text) - distance - 3 * COPIED + 1, size=COPIES)
        copies, others = [], []
        for start in starts.tolist():
            first, between = text[start : start + COPIED], text[start + COPIED : start + COPIED + distance]
            rest = np.concatenate([text[:start], text[start + COPIED + distance :]])
            place = int(random.integers(len(rest) - COPIED + 1))
            copies.append((np.concatenate([first, between]), first))
            others.append((np.concatenate([rest[place : place + COPIED], between]), first))
        with_it, without = span_nats(subject, copies), span_nats(subject, others)
        sizes = np.full(COPIES, COPIED)
        rows.append({
            "tokens": distance, "nats": float(with_it.sum() / sizes.sum()),
            "without": float(without.sum() / sizes.sum()), "gain": float((without - with_it).sum() / sizes.sum()),
            "interval": bootstrap([(without - with_it, sizes)], seed),
        })  # fmt: skip
    return {"spans": COPIES, "distances": rows}


def span_nats(subject: Subject, pairs: Sequence[tuple[Tokens, Tokens]]) -> NDArray[np.float64]:
    """−ln p of each span after its context, the first token before that. Raises UserError where it isn't finite."""
    documents = [[subject.first, *context.tolist(), *span.tolist()] for context, span in pairs]
    masks = [[0] * (1 + len(context)) + [1] * len(span) for context, span in pairs]
    found = np.zeros(len(pairs))
    for i, nats in document_nats(subject.model, documents, masks):
        found[i] = nats
    subject.check(found)
    return found
