import math

import numpy as np
import pytest

from sioconv.data.config import DataConfig, SourceConfig
from sioconv.errors import UserError
from sioconv.evaluate.bits import bits_per_byte
from sioconv.evaluate.parts.text import (
    Losses,
    measure_bits,
    measure_frequency,
    measure_positions,
    read_texts,
)
from sioconv.evaluate.subject import Subject

JA, EN = ["川は山から海へ流れる。", "雨。", "海の水は空へ昇る。"], ["The river runs.", "Rain brings it back again."]
DATA = DataConfig({
    "talk_ja": SourceConfig("a", language="ja"), "talk_en": SourceConfig("b", language="en"),
    "facts_ja": SourceConfig("c", language="ja", templated=True),
})  # fmt: skip
TEXTS = {"talk_ja": JA, "talk_en": EN, "facts_ja": ["川。"]}


def made(nats: list[list[float]], ids: list[list[int]] | None = None, group: str = "ja") -> Losses:
    """Losses that were made up, a byte a token."""
    tokens = ids or [list(range(len(each))) for each in nats]
    return Losses(
        f"some_{group}", group, "some", False, np.array([len(each) - 1 for each in nats]),
        [np.array(each, np.int32) for each in tokens], [np.array(each, np.float32) for each in nats],
    )  # fmt: skip


def test_sources_languages_and_domains_add_up(subject: Subject) -> None:
    found = measure_bits(read_texts(subject, DATA, TEXTS), 0)
    for name, documents in TEXTS.items():
        assert found["sources"][name]["bytes"] == sum(len(text.encode()) for text in documents)
    if subject.window is None:
        own = bits_per_byte(subject.model, subject.tokenizer, JA)  # type: ignore[arg-type]
        assert found["sources"]["talk_ja"]["bpb"] == pytest.approx(own.value, rel=1e-6)
        assert found["sources"]["talk_ja"]["tokens"] == own.tokens
    assert found["languages"]["ja"] == found["sources"]["talk_ja"]  # without what is made from facts
    ja, en, both = found["languages"]["ja"], found["languages"]["en"], found["domains"]["talk"]
    assert both["bytes"] == ja["bytes"] + en["bytes"] and set(found["domains"]) == {"talk"}
    mean = (ja["bpb"] * ja["bytes"] + en["bpb"] * en["bytes"]) / both["bytes"]
    assert both["bpb"] == pytest.approx(mean)
    low, high = ja["interval"]
    assert low <= ja["bpb"] <= high and found["sources"]["facts_ja"]["interval"] is None


def test_a_text_that_was_given_has_no_language(ours: Subject) -> None:
    found = measure_bits(read_texts(ours, DataConfig({"a.txt": SourceConfig("a.txt")}), {"a.txt": JA}), 0)
    assert set(found["sources"]) == {"a.txt"} and found["languages"] == found["domains"] == {}


def test_a_position_counts_the_tokens_before() -> None:
    losses = made([[0.0, *[1.0] * 15, *[3.0] * 10], [0.0, 2.0]])
    [first, second] = measure_positions([losses])["ja"]
    assert (first["from"], first["tokens"], first["nats"]) == (1, 16, pytest.approx(17 / 16))
    assert (second["from"], second["tokens"], second["nats"]) == (16, 10, 3.0)


def test_a_frequency_is_counted_in_the_text_itself() -> None:
    losses = made([[0.0, 5.0, 1.0, 1.0, 4.0]], [[9, 1, 2, 2, 9]])
    rare, common = measure_frequency([losses])["ja"]
    assert (rare["from"], rare["tokens"], rare["nats"]) == (1, 2, 4.5)  # the first token of a text isn't counted
    assert (common["from"], common["share"], common["nats"]) == (2, 0.5, 1.0)


def test_broken_weights_are_said(ours: Subject) -> None:
    weight = ours.model.get_output_embeddings().weight.data  # type: ignore[no-untyped-call]
    kept = weight[3].clone()
    try:
        weight[3] = math.nan
        with pytest.raises(UserError, match="its weights are broken"):
            read_texts(ours, DATA, TEXTS)
    finally:
        weight[3] = kept


def test_a_tokenizer_that_changes_the_text_is_said(stranger: Subject, capsys: pytest.CaptureFixture[str]) -> None:
    from tokenizers import normalizers

    backend = stranger.tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    read_texts(stranger, DATA, {"talk_en": EN})
    assert "warning" not in capsys.readouterr().err
    backend.normalizer = normalizers.Lowercase()
    stranger.tokenizer.add_tokens(["never"])  # our copy of the encoder is made anew
    try:
        read_texts(stranger, DATA, {"talk_en": EN[:1]})
    finally:
        backend.normalizer = None
    assert "warning: talk_en: 1 of 1 documents don't come back" in capsys.readouterr().err
