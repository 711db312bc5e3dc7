"""Bits per byte by source and language, and the assistant's loss, against sums done one by one."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sioconv.data.chat import encode
from sioconv.data.cleaning.splits import read_split
from sioconv.data.config import DataConfig, SourceConfig
from sioconv.data.documents import Row, split_of
from sioconv.evaluate.bits import bits_per_byte
from sioconv.evaluate.figures import TextBits
from sioconv.evaluate.heldout import (
    assistant_loss,
    heldout_conversations,
    heldout_texts,
    language_totals,
    measure_language_yardsticks,
    measure_text,
    with_tuned,
)
from sioconv.evaluate.yardsticks import measure_yardsticks
from sioconv.model import SioConvForCausalLM

Pair = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]
TALK = [
    {"role": "user", "content": "お元気ですか？"},
    {"role": "assistant", "content": "元気です。"},
    {"role": "user", "content": "宮城県は？"},
    {"role": "assistant", "content": "東北地方にあります。"},
]


def documents(language: str) -> list[str]:
    sentence = "{}番目の川は海へ流れる。" if language == "ja" else "River number {} runs to the sea."
    return [" ".join(sentence.format(n * 7 + i) for i in range(3)) for n in range(60)]


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Two Japanese sources, one of them templated, an English one, and one of conversations; 0.3 held out."""
    for name in ("ja", "en"):
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in documents(name)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "facts.jsonl").write_text(
        "\n".join(json.dumps({"text": f"Fact {n}."}) for n in range(40)), encoding="utf-8"
    )
    talks = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}] for n in range(30)]
    (tmp_path / "talks.jsonl").write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
    sources = {name: SourceConfig(str(tmp_path / f"{name}.jsonl"), language=name) for name in ("ja", "en")}
    sources["facts"] = SourceConfig(str(tmp_path / "facts.jsonl"), language="ja", templated=True)
    sources["talks"] = SourceConfig(str(tmp_path / "talks.jsonl"), kind="chat")
    return DataConfig(sources, heldout=0.3)


def test_a_source_may_have_a_share_of_its_own(data: DataConfig) -> None:
    shares = {"ja": 0.0, "en": None, "facts": 0.9, "talks": 0.0}
    own = replace(data, sources={name: replace(source, heldout=shares[name]) for name, source in data.sources.items()})
    expected, found = heldout_texts(data), heldout_texts(own)
    assert found["ja"] == [] and found["en"] == expected["en"] and len(found["facts"]) > 30
    assert heldout_conversations(own) == [] != heldout_conversations(data)
    every = [row.text for row in read_split(own.sources["ja"], "train", own.heldout)]
    assert every == documents("ja")


def test_heldout_texts_are_the_held_out_documents_of_text_sources(data: DataConfig) -> None:
    texts = heldout_texts(data)
    assert list(texts) == ["ja", "en", "facts"]
    expected = [text for text in documents("ja") if split_of(Row("", text), 0.3) == "heldout"]
    assert texts["ja"] == expected
    assert 5 < len(expected) < 40


def test_heldout_texts_are_cut_at_whole_documents(data: DataConfig) -> None:
    everything = heldout_texts(data)["ja"]
    size = len(everything[0].encode())
    assert heldout_texts(data, 1)["ja"] == everything[:1]  # at least one
    assert heldout_texts(data, size)["ja"] == everything[:1]
    assert heldout_texts(data, size + len(everything[1].encode()))["ja"] == everything[:2]


def test_heldout_conversations_may_be_limited(data: DataConfig) -> None:
    conversations = heldout_conversations(data)
    assert all(split_of(Row("", messages=messages), 0.3) == "heldout" for messages in conversations)
    assert len(conversations) > 3
    assert heldout_conversations(data, 2) == conversations[:2]


def test_sources_and_languages_add_up(data: DataConfig, tiny_model: Pair) -> None:
    model, tokenizer = tiny_model
    data.sources["more"] = SourceConfig(data.sources["en"].path, language="ja")
    texts = heldout_texts(data)
    sources = measure_text(model, tokenizer, data, texts, "tiny")
    assert {name: bits.bytes for name, bits in sources.items()} == {
        name: sum(len(text.encode()) for text in found) for name, found in texts.items()
    }
    together = bits_per_byte(model, tokenizer, [*texts["ja"], *texts["more"]])
    totals = language_totals(sources)
    assert list(totals) == ["ja", "en"]
    assert totals["ja"].base == pytest.approx(together.value, rel=1e-5)
    assert totals["ja"].bytes == together.bytes
    assert totals["en"].base == pytest.approx(sources["en"].base) and sources["facts"].templated


def test_a_source_without_held_out_text_is_left_out(data: DataConfig, tiny_model: Pair) -> None:
    sources = measure_text(*tiny_model, data, {"ja": [], "en": ["text"]}, "tiny")
    assert list(sources) == ["en"]


def test_tuned_totals_need_every_source() -> None:
    base = {"a": TextBits("ja", False, 100, 1.0), "b": TextBits("ja", False, 300, 2.0)}
    tuned = with_tuned(base, {"a": TextBits("ja", False, 100, 3.0), "b": TextBits("ja", False, 300, 4.0)})
    assert language_totals(tuned) == {"ja": TextBits("ja", False, 400, 1.75, 3.75)}
    assert language_totals({"a": tuned["a"], "b": base["b"]})["ja"].tuned is None


def test_yardsticks_read_what_the_model_reads(data: DataConfig) -> None:
    texts = heldout_texts(data)
    found = measure_language_yardsticks(data, texts, 10**6)
    train = [text for text in documents("ja") if text not in texts["ja"]]
    assert found["ja"] == measure_yardsticks(train, texts["ja"])  # no templated text
    assert list(found) == ["ja", "en"]
    assert measure_language_yardsticks(data, texts, 200)["ja"].train_bytes <= 200


def test_assistant_loss_is_the_mean_over_the_assistants_tokens(tiny_model: Pair) -> None:
    model, tokenizer = tiny_model
    talks = [TALK, TALK[:2], [{"role": "user", "content": "alone"}]]
    nats, count = 0.0, 0
    for talk in talks:
        ids, mask = encode(tokenizer, talk)
        with torch.no_grad():
            log_p = model(torch.tensor([ids])).logits.double().log_softmax(-1)[0]
        for t in range(1, len(ids)):
            nats -= mask[t] * float(log_p[t - 1, ids[t]])
        count += sum(mask)
    assert assistant_loss(model, tokenizer, talks) == pytest.approx(nats / count, rel=1e-5)


def test_assistant_loss_of_nothing_said(tiny_model: Pair) -> None:
    assert assistant_loss(*tiny_model, []) is None
    assert assistant_loss(*tiny_model, [TALK[:1]]) is None


def test_bits_are_finite_on_text_that_spells_special_tokens(data: DataConfig, tiny_model: Pair) -> None:
    sources = measure_text(*tiny_model, data, {"ja": ["<|eos|><|assistant|>"]}, "tiny")
    assert math.isfinite(sources["ja"].base) and sources["ja"].bytes == len("<|eos|><|assistant|>")
