from collections.abc import Sequence

import numpy as np
import pytest
from torch import Tensor, nn

from sioconv.evaluate.parts import context
from sioconv.evaluate.parts.context import measure_context, measure_copying, span_nats
from sioconv.evaluate.subject import Subject

Tokens = np.ndarray


def tokens(length: int, seed: int) -> Tokens:
    return np.random.default_rng(seed).integers(260, 320, size=length).astype(np.int32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SPAN", 8), ("CONTEXTS", (4, 16, 64)), ("COPIED", 6), ("DISTANCES", (0, 10, 100))):
        monkeypatch.setattr(context, name, value)


def test_the_same_spans_after_more_and_more_context(subject: Subject) -> None:
    documents = [tokens(120, 1), tokens(20, 2)]
    found = measure_context(subject, {"ja": documents, "short": [tokens(10, 3)]}, 0)
    assert set(found) == {"ja"}
    rows = found["ja"]["contexts"]
    # 64 + 8 tokens don't fit into the stranger's window.
    assert [row["tokens"] for row in rows] == ([4, 16, 64] if subject.window is None else [4, 16])
    assert rows[0]["gain"] == 0 and all(row["nats"] + row["gain"] == pytest.approx(rows[0]["nats"]) for row in rows)
    longest = rows[-1]["tokens"]
    spans = [each[start - longest : start + 8] for each in documents for start in range(longest, len(each) - 7, 8)]
    expected = span_nats(subject, [(each[:longest], each[longest:]) for each in spans]).sum() / (8 * len(spans))
    assert rows[-1]["nats"] == pytest.approx(expected, rel=1e-4)


def test_copies_and_what_stands_in_their_place_are_as_long(ours: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[tuple[Tokens, Tokens]]] = []
    plain = context.span_nats
    monkeypatch.setattr(context, "span_nats", lambda subject, pairs: seen.append(pairs) or plain(subject, pairs))
    text = tokens(400, 4)
    found = measure_copying(ours, {"ja": [text[:150], text[150:]]}, 0)
    assert [row["tokens"] for row in found["distances"]] == [0, 10, 100]
    for copies, others in zip(seen[::2], seen[1::2], strict=True):
        for (with_it, span), (without, same) in zip(copies, others, strict=True):
            assert np.array_equal(with_it[:6], span) and np.array_equal(span, same)
            assert len(with_it) == len(without) and np.array_equal(with_it[6:], without[6:])
            assert not np.array_equal(without[:6], span)


def test_a_model_that_remembers_copies_gains(ours: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the head's losses: a token that was read before costs nothing."""

    def nats(
        _: nn.Module, documents: Sequence[Sequence[int]], masks: Sequence[Sequence[int]]
    ) -> list[tuple[int, float]]:
        return [
            (i, float(sum(mask and ids[t] not in ids[:t] for t, mask in enumerate(masks[i]))))
            for i, ids in enumerate(documents)
        ]

    monkeypatch.setattr(context, "document_nats", nats)
    text = np.arange(400, dtype=np.int32)  # no token stands twice
    rows = measure_copying(ours, {"ja": [text]}, 0)["distances"]
    assert [(row["nats"], row["without"], row["gain"]) for row in rows] == [(0, 1, 1)] * 3
    assert all(row["interval"] == (1, 1) for row in rows)


def test_too_little_text_has_no_distances(ours: Subject) -> None:
    assert measure_copying(ours, {}, 0)["distances"] == []
    assert [row["tokens"] for row in measure_copying(ours, {"ja": [tokens(40, 1)]}, 0)["distances"]] == [0, 10]


def test_only_the_span_counts(ours: Subject) -> None:
    sizes: list[Tensor] = []
    head = ours.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    hook = head.register_forward_hook(lambda _, __, output: sizes.append(output))
    span_nats(ours, [(tokens(20, 1), tokens(8, 2))])
    hook.remove()
    assert [len(each) for each in sizes] == [8]
