"""The tokenizer's report: bytes per token, unknown text, and whether decoding gives the text back."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from sioconv.checksums import read_sealed, write_sealed
from sioconv.data.amounts import batches, text_size
from sioconv.data.tokenizer.peers import measure_peers
from sioconv.data.tokenizer.sample import Sample
from sioconv.data.tokenizer.tokenizer import encode_texts
from sioconv.files import atomic_write
from sioconv.progress import track
from sioconv.terminal import one_line

JSON_FILE, TABLE_FILE = "tokenizer_report.json", "tokenizer_report.md"
BATCH_BYTES = 1_000_000
LONGEST = 20
SHOWN = 60  # characters of a text that doesn't come back
UNCERTAIN = [
    "ＡＢＣ",
    "ｶﾞ",
    "Ⅷ",
    "①",
    "e\u0301",
    "か\u3099",
    "ABC",
    "İ",
    "ſ",
]  # what normalisations and lowercasing change


def write_tokenizer_report(
    tokenizer: PreTrainedTokenizerFast, samples: Mapping[str, Sample], compare: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Measures a tokenizer and writes the figures into a folder, as JSON and as a table in Markdown.

    Args:
        tokenizer: what is measured.
        samples: text of each source. Sizes are measured on the held-out text where there is any, so that a tokenizer
            isn't measured on what it was trained on; that every text comes back is checked on all of it.
        compare: other tokenizers to measure on the same text: see `measure_peers`.
        folder: gets `tokenizer_report.json` and `tokenizer_report.md`.

    Returns:
        What the JSON file holds: `vocabulary`, `policy`, `sources`, `languages`, `seen` (tokens of the vocabulary that
        occur), `longest`, `broken` (texts that don't come back, the first few) and `peers`.
    """
    report = _measure(tokenizer, samples)
    measured: dict[str, list[str]] = {}
    for sample in samples.values():
        if not sample.templated:
            measured.setdefault(sample.language, []).extend(sample.heldout or sample.train)
    report["peers"] = measure_peers(tokenizer, measured, compare) if compare else {}
    write_sealed(folder / JSON_FILE, report, indent=1)
    with atomic_write(folder / TABLE_FILE) as temporary:
        temporary.write_text(table(report), encoding="utf-8", newline="\n")
    return report


def read_report(folder: Path) -> dict[str, Any] | None:
    """What `write_tokenizer_report` has returned; None where either file is missing or isn't what was written."""
    try:
        report = read_sealed(folder / JSON_FILE)
        return report if table(report).encode() == (folder / TABLE_FILE).read_bytes() else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _measure(tokenizer: PreTrainedTokenizerFast, samples: Mapping[str, Sample]) -> dict[str, Any]:
    unknown = _unknown_id(tokenizer)
    seen: set[int] = set()
    broken: list[dict[str, str]] = []
    sources: dict[str, dict[str, Any]] = {}
    for name, sample in track(samples.items(), "tokenizer report", len(samples)):
        figures = {"bytes": 0, "characters": 0, "tokens": 0, "unknown": 0, "texts": 0, "broken": 0}
        for texts, counted in ((sample.train, not sample.heldout), (sample.heldout, True)):
            for batch in batches(texts, BATCH_BYTES, text_size):
                encoded = encode_texts(tokenizer, batch)
                decoded = tokenizer.backend_tokenizer.decode_batch(encoded, skip_special_tokens=False)
                for text, ids, back in zip(batch, encoded, decoded, strict=True):
                    seen.update(ids)
                    figures["texts"] += 1
                    if text != back:
                        figures["broken"] += 1
                        broken.append({"source": name, **_difference(text, back)})
                    if counted:
                        figures["bytes"] += len(text.encode())
                        figures["characters"] += len(text)
                        figures["tokens"] += len(ids)
                        figures["unknown"] += 0 if unknown is None else ids.count(unknown)
        split = "heldout" if sample.heldout else "train"
        sources[name] = {"language": sample.language, "measured_on": split, **_with_rate(figures)}
    languages = {
        language: _with_rate(_sum(sources[name] for name in samples if _counts(samples[name], language)))
        for language in dict.fromkeys(sample.language for sample in samples.values() if not sample.templated)
    }
    return {
        "vocabulary": len(tokenizer),
        "seen": len(seen),
        "policy": policy(tokenizer),
        "sources": sources,
        "languages": languages,
        "longest": _longest(tokenizer),
        "broken": broken[:LONGEST],
    }


def _unknown_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The token that stands for what a tokenizer doesn't know, if there is one."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    named = model.get("unk_token")
    found: int | None = model.get("unk_id") if named is None else tokenizer.get_vocab().get(named)
    return found


def policy(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """How digits, spaces and ends of lines are cut, and whether text is changed, told by what the tokens look like."""
    words = tokenizer.backend_tokenizer.decode_batch([[number] for number in range(len(tokenizer))])
    digits = max((len(word.strip()) for word in words if word.strip().isdecimal()), default=0)
    spaces = max((len(word) for word in words if word and not word.strip(" ")), default=0)
    lines = max((len(word) for word in words if word and not word.strip("\r\n")), default=0)
    glued = any(re.match(r" \w", word) for word in words)
    changed = [text for text in UNCERTAIN if tokenizer.decode(encode_texts(tokenizer, [text])[0]) != text]
    return {
        "digits": "one by one" if digits <= 1 else f"up to {digits} in a token",
        "spaces": f"up to {spaces} in a token; "
        + ("one goes with the word behind it" if glued else "apart from words"),
        "ends of lines": f"up to {lines} in a token",
        "changes": ", ".join(changed) if changed else "nothing: no normalisation, no lowercasing",
    }


def table(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# The tokenizer on this recipe's text",
        "",
        f"{report['vocabulary']:,} tokens, of which {report['seen']:,} occur in the sample.",
        "",
        "| source | language | bytes | bytes per token | unknown tokens | texts that don't come back |",
        "|---|---|---:|---:|---:|---:|",
    ]
    rows = [*report["sources"].items(), *((f"**all {name}**", one) for name, one in report["languages"].items())]
    for name, one in rows:
        lines.append(
            f"| {name} | {one.get('language', '')} | {one['bytes']:,} | {_rate(one['bytes_per_token'])} | "
            f"{one['unknown']:,} | {one['broken']:,} of {one['texts']:,} |"
        )
    if report["peers"]:
        languages = list(report["languages"])
        lines += ["", "Bytes per token on the same text:", ""]
        lines += [f"| tokenizer | vocabulary | {' | '.join(languages)} |", f"|---|---:|{'---:|' * len(languages)}"]
        for name, peer in report["peers"].items():
            if "problem" in peer:
                lines.append(f"| {name} | {peer['problem']} |{' |' * len(languages)}")
            else:
                rates = " | ".join(_rate(peer["bytes_per_token"].get(language)) for language in languages)
                lines.append(f"| {name} | {peer['vocabulary']:,} | {rates} |")
    lines += ["", *(f"- {name}: {value}" for name, value in report["policy"].items())]
    lines += ["- longest tokens: " + " ".join(f"`{_visible(token)}`" for token in report["longest"])]
    for one in report["broken"][:3]:
        lines.append(f"- doesn't come back ({one['source']}): `{_visible(one['text'])}` → `{_visible(one['back'])}`")
    return "\n".join(lines) + "\n"


def _counts(sample: Sample, language: str) -> bool:
    return sample.language == language and not sample.templated


def _with_rate(figures: Mapping[str, Any]) -> dict[str, Any]:
    rate = figures["bytes"] / figures["tokens"] if figures["tokens"] else None
    return {**figures, "bytes_per_token": rate}


def _sum(sources: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    listed = list(sources)
    return {
        key: sum(one[key] for one in listed) for key in ("bytes", "characters", "tokens", "unknown", "texts", "broken")
    }


def _difference(text: str, back: str) -> dict[str, str]:
    """Where two texts part, with a little of each from there on."""
    place = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
    return {"text": text[max(0, place - 10) :][:SHOWN], "back": back[max(0, place - 10) :][:SHOWN]}


def _longest(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    ordinary = [number for number in range(len(tokenizer)) if number not in tokenizer.added_tokens_decoder]
    words = tokenizer.backend_tokenizer.decode_batch([[number] for number in ordinary])
    return sorted((word for word in words if "\ufffd" not in word), key=lambda word: -len(word.encode()))[:LONGEST]


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _visible(text: str) -> str:
    return one_line(text).replace("`", "'").replace("|", "¦")
