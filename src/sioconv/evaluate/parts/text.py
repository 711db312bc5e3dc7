"""How well a model predicts text: bits per byte of sources, languages and domains; by position; by frequency."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sioconv.data.amounts import text_size
from sioconv.data.config import DataConfig, SourceConfig
from sioconv.evaluate.bits import token_nats
from sioconv.evaluate.heldout import Texts
from sioconv.evaluate.intervals import bootstrap
from sioconv.evaluate.subject import Subject
from sioconv.progress import say, track

POSITIONS = (1, 16, 64, 256, 1024, 4096, 16384)  # tokens that were read before, where a group of them begins
COUNTS = (1, 2, 10, 100, 1000)  # how often a token stands in the text, where a group of them begins
PIECE = 64  # documents that are read before the next are encoded


@dataclass(frozen=True)
class Losses:
    """A source's documents as the model read them.

    Args:
        name: the source's.
        group: the language, or the name of a text that was given.
        domain: what kind of text it is: the name without its language.
        templated: made from facts; it isn't part of its language's total.
        bytes: UTF-8 bytes of each document.
        ids: of each document, its token ids.
        nats: of each document, −ln p of each of these.
    """

    name: str
    group: str
    domain: str
    templated: bool
    bytes: NDArray[np.int64]
    ids: Sequence[NDArray[np.int32]]
    nats: Sequence[NDArray[np.float32]]

    @property
    def bits(self) -> NDArray[np.float64]:
        """Of each document."""
        return np.array([each.sum(dtype=np.float64) for each in self.nats]) / math.log(2)


def read_texts(subject: Subject, data: DataConfig, texts: Texts) -> list[Losses]:
    """Reads all documents of all sources, each by itself.

    Raises UserError where a probability isn't finite: the weights are broken.
    """
    found = []
    for name, documents in texts.items():
        if documents:
            source = data.sources[name]
            group = group_of(name, source)
            sizes = np.array([text_size(document) for document in documents], np.int64)
            ids, nats = _read(subject, name, documents)
            domain = name.removesuffix(f"_{group}")
            found.append(Losses(name, group, domain, source.templated, sizes, ids, nats))
    return found


def group_of(name: str, source: SourceConfig) -> str:
    """A source's language; of a text that somebody named, whose language nobody knows, the name."""
    return name if name == source.path else source.language


def _read(
    subject: Subject, name: str, documents: Sequence[str]
) -> tuple[list[NDArray[np.int32]], list[NDArray[np.float32]]]:
    ids = [np.array(each, np.int32) for each in subject.encode(documents)]
    _tell_losses(subject, name, documents, ids)
    nats = [np.zeros(0, np.float32)] * len(ids)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # rows of like lengths are read together
    pieces = [order[start : start + PIECE] for start in range(0, len(order), PIECE)]
    read = (
        (piece[i], each) for piece in pieces for i, each in token_nats(subject.model, [ids[i].tolist() for i in piece])
    )
    for i, each in track(read, f"{name} (tokens)", sum(map(len, ids)), lambda pair: len(pair[1])):
        subject.check(each, f" on {name}")
        nats[i] = each
    return ids, nats


def _tell_losses(subject: Subject, name: str, documents: Sequence[str], ids: Iterable[NDArray[np.int32]]) -> None:
    """Says where tokens don't give the text back, whose bits per byte are then of another text."""
    decode = subject.tokenizer.decode
    changed = 0
    for document, each in zip(documents, ids, strict=True):
        text = str(decode(each[1:].tolist(), clean_up_tokenization_spaces=False))
        changed += document not in (text, text.removeprefix(" "))
    if changed:
        say(
            f"warning: {name}: {changed:,} of {len(documents):,} documents don't come back from the tokenizer as they "
            "were (it rewrites or drops characters): their bits per byte are of that other text"
        )


def measure_bits(losses: Sequence[Losses], seed: int) -> dict[str, Any]:
    """Bits per byte with intervals over documents: of each source, each language, each domain.

    A language's total leaves out templated sources; languages are empty for a text that was given. A domain's total is
    shown where it has more than one source.
    """
    whole = [each for each in losses if not each.templated]
    languages = _grouped([each for each in whole if each.group != each.name], "group")
    domains = {name: group for name, group in _grouped(losses, "domain").items() if len(group) > 1}
    return {
        "sources": {each.name: _bits([each], seed) for each in losses},
        "languages": {name: _bits(group, seed) for name, group in languages.items()},
        "domains": {name: _bits(group, seed) for name, group in domains.items()},
    }


def _bits(group: Sequence[Losses], seed: int) -> dict[str, Any]:
    bits, size = sum(each.bits.sum() for each in group), int(sum(each.bytes.sum() for each in group))
    return {
        "bpb": float(bits / size),
        "interval": bootstrap([(each.bits, each.bytes) for each in group], seed),
        "bytes": size,
        "documents": sum(len(each.ids) for each in group),
        "tokens": sum(len(ids) - 1 for each in group for ids in each.ids),
    }


def measure_positions(losses: Sequence[Losses]) -> dict[str, Any]:
    """Mean loss by how many tokens of the document were read before; templated sources are left out."""
    return {name: _by_position(group) for name, group in _natural(losses).items()}


def _by_position(group: Sequence[Losses]) -> list[dict[str, Any]]:
    rows = []
    for start, stop in zip(POSITIONS, [*POSITIONS[1:], None], strict=True):
        parts = [nats[start:stop] for each in group for nats in each.nats if len(nats) > start]
        if parts:
            values = np.concatenate(parts)
            rows.append({"from": start, "tokens": len(values), "nats": float(values.mean(dtype=np.float64))})
    return rows


def measure_frequency(losses: Sequence[Losses]) -> dict[str, Any]:
    """Mean loss by how often a token stands in the text that is measured; templated sources are left out."""
    return {name: _by_frequency(group) for name, group in _natural(losses).items()}


def _by_frequency(group: Sequence[Losses]) -> list[dict[str, Any]]:
    ids = np.concatenate([ids[1:] for each in group for ids in each.ids])
    nats = np.concatenate([nats[1:] for each in group for nats in each.nats])
    counts = np.bincount(ids)[ids]
    rows = []
    for start, stop in zip(COUNTS, [*COUNTS[1:], math.inf], strict=True):
        chosen = (counts >= start) & (counts < stop)
        if chosen.any():
            mean = float(nats[chosen].mean(dtype=np.float64))
            rows.append({"from": start, "tokens": int(chosen.sum()), "share": float(chosen.mean()), "nats": mean})
    return rows


def _natural(losses: Sequence[Losses]) -> dict[str, list[Losses]]:
    return _grouped([each for each in losses if not each.templated], "group")


def _grouped(losses: Iterable[Losses], key: str) -> dict[str, list[Losses]]:
    groups: dict[str, list[Losses]] = {}
    for each in losses:
        groups.setdefault(getattr(each, key), []).append(each)
    return groups
