"""Held-out text and conversations, and how well a model predicts them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sioconv.data.amounts import at_most
from sioconv.data.chat import encode_batch
from sioconv.data.cleaning.splits import read_split
from sioconv.data.config import DataConfig
from sioconv.evaluate.bits import bits_per_byte, document_nats
from sioconv.evaluate.figures import TextBits, Yardsticks
from sioconv.evaluate.yardsticks import measure_yardsticks
from sioconv.progress import track

Texts = dict[str, list[str]]
SOME = 4  # documents of each source, where not all are needed


def heldout_texts(data: DataConfig, max_bytes: int | None = None) -> Texts:
    """The held-out documents of each source of text, at most `max_bytes` of each (whole documents, at least one)."""
    sources = {name: source for name, source in data.sources.items() if source.kind == "text"}
    return {
        name: at_most((row.text or "" for row in read_split(source, "heldout", data.heldout)), max_bytes)
        for name, source in sources.items()
    }


def heldout_conversations(data: DataConfig, limit: int | None = None) -> list[list[dict[str, str]]]:
    """The held-out conversations of the user's own sources, at most `limit` of each; without them those of all."""
    found: dict[bool, list[list[dict[str, str]]]] = {True: [], False: []}
    for source in data.sources.values():
        if source.kind == "chat":
            rows = read_split(source, "heldout", source.heldout_or(data.heldout))
            found[source.origin in ("files", "hub")] += [row.messages or [] for row in islice(rows, limit)]
    return found[True] or found[False]


def mean_bits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, data: DataConfig, texts: Texts, what: str
) -> float:
    """Bits per byte over all texts; arguments as for `measure_text`."""
    return total(list(measure_text(model, tokenizer, data, texts, what).values())).base


def some_of_each(texts: Texts) -> list[str]:
    """The first documents of each source: enough to see how the gates behave."""
    return [text for documents in texts.values() for text in documents[:SOME]]


def measure_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, data: DataConfig, texts: Texts, what: str
) -> dict[str, TextBits]:
    """Bits per byte of each source that has held-out text; `what` names the model on the progress bar."""
    found = {}
    for name, documents in track(texts.items(), f"bits per byte, {what}", len(texts)):
        if documents:
            bits = bits_per_byte(model, tokenizer, documents)
            source = data.sources[name]
            found[name] = TextBits(source.language, source.templated, bits.bytes, bits.value)
    return found


def with_tuned(base: Mapping[str, TextBits], tuned: Mapping[str, TextBits]) -> dict[str, TextBits]:
    """`base` with the figures of the tuned model beside it."""
    return {name: replace(bits, tuned=tuned[name].base) for name, bits in base.items()}


def language_totals(sources: Mapping[str, TextBits]) -> dict[str, TextBits]:
    """All bits of a language over all its bytes; templated sources are left out."""
    groups: dict[str, list[TextBits]] = {}
    for bits in sources.values():
        if not bits.templated:
            groups.setdefault(bits.language, []).append(bits)
    return {language: total(group) for language, group in groups.items()}


def measure_language_yardsticks(data: DataConfig, texts: Texts, max_bytes: int) -> dict[str, Yardsticks]:
    """The yardsticks of each language on the same held-out documents as `language_totals`.

    They learn from at most `max_bytes` of the language's training text, templated sources left out.
    """
    kept = {
        name: data.sources[name] for name, documents in texts.items() if documents and not data.sources[name].templated
    }
    languages = dict.fromkeys(source.language for source in kept.values())
    found = {}
    for language in track(languages, "yardsticks (xz, byte 7-gram)", len(languages)):
        names = [name for name, source in kept.items() if source.language == language]
        training = (row.text or "" for name in names for row in read_split(data.sources[name], "train", data.heldout))
        heldout = [document for name in names for document in texts[name]]
        found[language] = measure_yardsticks(at_most(training, max_bytes), heldout)
    return found


def assistant_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Sequence[Mapping[str, str]]]
) -> float | None:
    """Mean loss in nats of what the assistant says, its end-of-turn tokens included; None where it says nothing.

    Each conversation starts from the model's initial state.
    """
    encoded = encode_batch(tokenizer, conversations)
    count = sum(sum(mask) for _, mask in encoded)
    if not count:
        return None
    losses = document_nats(model, [ids for ids, _ in encoded], [mask for _, mask in encoded])
    return sum(nats for _, nats in losses) / count


def total(group: Sequence[TextBits]) -> TextBits:
    """All bits of several texts over all their bytes, under the first one's language."""
    size = sum(bits.bytes for bits in group)
    base = sum(bits.base * bits.bytes for bits in group) / size
    tuned = None
    if all(bits.tuned is not None for bits in group):
        tuned = sum((bits.tuned or 0.0) * bits.bytes for bits in group) / size
    return TextBits(group[0].language, False, size, base, tuned)
