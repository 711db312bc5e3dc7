"""sioconv.data.cleaning.cleaner, quality, decontaminate: junk planted in real text is found, and real text is kept."""

import json
import random
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sioconv.data.cleaning.cleaner import Cleaner, normalise
from sioconv.data.cleaning.config import Cleaning, Decontaminate, Length, Normalise, Quality, Repetition
from sioconv.data.cleaning.splits import read_split
from sioconv.data.config import SourceConfig
from sioconv.data.documents import Row
from sioconv.data.sources.source import read_rows
from sioconv.errors import UserError

ALL = Cleaning(normalise=Normalise(), length=Length(50), repetition=Repetition(), quality=Quality())
JAPANESE, ENGLISH = ("manuals_ja", "sentences_ja"), ("prose_en", "sentences_en")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def bundled(*names: str) -> list[str]:
    return [row.text or "" for name in names for row in read_rows(SourceConfig(f"bundled:{name}"))]


def kept(cleaning: Cleaning, language: str, texts: list[str]) -> tuple[list[str], dict[str, int]]:
    """What is left of the texts, and how many each reason took."""
    cleaner = Cleaner(cleaning, language)
    left = [cleaner.clean(Row(str(number), text=text)) for number, text in enumerate(texts)]
    reasons = {reason: part.count for tally in cleaner.tallies for reason, part in tally.left_out.items()}
    return [row.text or "" for row in left if row is not None], reasons


# ---------------------------------------------------------------------------------------------- junk in real text

R = random.Random(0)


def page(text: str) -> str:
    """A web page's source."""
    items = "".join(f'<li class="nav-item"><a href="/page/{n}">{text[n : n + 4]}</a></li>\n' for n in range(20))
    return (
        f'<html><head><style>\n.a {{ color: red; }}\n</style></head><body>\n<ul id="menu">\n{items}</ul></body></html>'
    )


def wikitext(text: str) -> str:
    """A table of a wiki's source."""
    rows = "\n".join(f"|-\n| [[{text[n : n + 3]}]] || {{{{Flag|{n}}}}} || '''{R.randrange(999)}'''" for n in range(15))
    return f'{{| class="wikitable"\n{rows}\n|}}'


JUNK_EVERYWHERE: dict[str, Callable[[str], str]] = {
    "web page": page,
    "wikitext": wikitext,
    "script": lambda text: "\n".join(f"  var a{n} = document.getElementById('{text[n]}');" for n in range(20)),
    "too short": lambda text: text[:20],
    "one line again and again": lambda text: "\n".join([text[:30].replace("\n", " ")] * 9 + [text[30:60]]),
    "one phrase again and again": lambda text: (text[:25].replace("\n", " ") + "。") * 20,
    "one character": lambda text: text[:60] + "ー" * 40,
    "symbols": lambda text: "".join(R.choice("★☆■□◆◇→←↑↓♪♫①②│┃━") + letter for letter in text[:80]),
    "numbers": lambda _: " ".join(str(R.randrange(10**6)) for _ in range(60)),
    "a list of names": lambda text: " / ".join(re.findall(r"\w{2,6}", text * 9)[:150]),
}
JUNK_IN_JAPANESE: dict[str, Callable[[str], str]] = {
    "English": lambda _: R.choice(bundled("sentences_en")[:50]),
    "hardly any kana": lambda _: (
        "".join(R.choice("中文维基百科是自由的全书我们在北京学习汉语历史") for _ in range(120)) + "。"
    ),
    "mojibake": lambda text: text[:80].encode().decode("latin-1"),
}


def planted(texts: list[str], junk: dict[str, Callable[[str], str]]) -> list[str]:
    """Junk of every kind, made from each of some texts."""
    return [make(text) for text in R.sample(texts, 30) for make in junk.values()]


@pytest.mark.parametrize(
    ("names", "language", "junk"),
    [
        (JAPANESE, "ja", JUNK_EVERYWHERE | JUNK_IN_JAPANESE),
        (ENGLISH, "en", JUNK_EVERYWHERE),
    ],
)
def test_planted_junk_is_found_and_real_text_kept(
    names: tuple[str, ...], language: str, junk: dict[str, Callable[[str], str]]
) -> None:
    good = bundled(*names)
    left, reasons = kept(ALL, language, good)
    assert len(left) >= 0.99 * len(good), reasons
    bad = planted([text for text in good if len(text) > 150], junk)
    left, reasons = kept(ALL, language, bad)
    assert len(left) <= 0.05 * len(bad), [text[:80] for text in left]
    assert len(reasons) >= 7


# ------------------------------------------------------------------------------------------------- normalisation


def test_normalisation() -> None:
    text = "Ａ級㍍ｶﾞ\r\ne\u0301\x85İ\u200b①\x00\tx"
    assert normalise(text, Normalise("NFC")) == "Ａ級㍍ｶﾞ\né\nİ①\tx"
    assert normalise(text, Normalise("NFKC")) == "A級メートルガ\né\nİ1\tx"


@given(st.text(), st.sampled_from(["NFC", "NFKC"]))
def test_normalisation_is_done_once_and_keeps_case(text: str, form: str) -> None:
    step = Normalise("NFC" if form == "NFC" else "NFKC")
    once = normalise(text, step)
    assert normalise(once, step) == once
    assert "\r" not in once
    assert all(
        unicodedata.is_normalized(step.form, part) for part in re.split("[\uf900-\ufaff\U0002f800-\U0002fa1f]", once)
    )
    ascii_letters = [letter for letter in text if letter in LETTERS + LETTERS.upper()]
    assert list(normalise("".join(ascii_letters), step)) == ascii_letters


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("line one\x0bline two\x0cpage two\x1cpart\x1dpart\x1epart", "line one\nline two\npage two\npart\npart\npart"),
        ("one\u2028two\u2029three\x85four\rfive", "one\ntwo\nthree\nfour\nfive"),
        ("one\x1ftwo\x00\x01three\x92four\x7f five", "one two three four five"),
        ("\x00one\x00\n\x1btwo\x08", "one\ntwo"),
        ("exam\xadple Bei\xad\nspiel", "example Bei-\nspiel"),
        ("川\u200bへ foo\u200bbar a\ufeffb\u2060c", "川へ foobar abc"),
        ("ไทย\u200bไทย\u200b ភាសា\u200bខ្មែរ", "ไทย\u200bไทย ភាសា\u200bខ្មែរ"),
        ("one\xa0two\u3000three\u202ffour", "one\xa0two\u3000three\u202ffour"),
        ("👨\u200d👩\u200d👧 می\u200cخواهم", "👨\u200d👩\u200d👧 می\u200cخواهم"),
    ],
)
def test_normalisation_glues_no_words(text: str, cleaned: str) -> None:
    assert normalise(text, Normalise()) == cleaned


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_kanji_of_names_stay_as_they_are_written(form: str) -> None:
    step = Normalise("NFC" if form == "NFC" else "NFKC")
    # 神, 塚, 﨑, 海, 朗, variants of Unicode's supplement, and a form chosen by a selector.
    names = "\ufa19\ufa10\ufa11\ufa45\uf929\U0002f81aか\u845b\U000e0100\u795e\ufe00"
    assert normalise(names, step) == names
    assert normalise("\ufa19か\u3099\ufa10", step) == "\ufa19が\ufa10"


# ------------------------------------------------------------------------------------------------ single steps


def test_length() -> None:
    texts = ["123", " 1234 \n", "12345", "123456"]
    assert kept(Cleaning(length=Length(4, 7)), "ja", [*texts, "1" * 8])[0] == texts[1:]
    assert kept(Cleaning(length=Length(0)), "ja", [""])[0] == [""]


def test_repetition_does_not_grow_with_length() -> None:
    novel = "\n".join(bundled("prose_en"))
    assert kept(Cleaning(repetition=Repetition()), "en", [novel]) == ([novel], {})


def test_comments_that_never_end_are_read_in_one_pass() -> None:
    """Where each looked for its end, these took ten seconds."""
    text = "これは文章である。" * 20_000
    assert kept(Cleaning(quality=Quality()), "ja", [text + "<!--" * 20_000])[0]
    assert kept(Cleaning(quality=Quality()), "ja", ["<!-- " + text + " -->" + "これは文章である。"])[1] == {
        "markup or code": 1
    }


def test_a_script_for_each_language() -> None:
    texts = {
        "ja": "これは日本語の文章である。",
        "zh": "这是一个中文句子。",
        "ko": "이것은 한국어 문장입니다.",
        "ru": "Это русское предложение.",
        "en": "This is an English sentence.",
    }
    for language, text in texts.items():
        others = [other for name, other in texts.items() if name != language]
        left, _ = kept(Cleaning(quality=Quality()), language, [text, *others])
        # Korean may hold Chinese characters, and so may Japanese; the latter is told apart by its kana.
        assert left[0] == text and (left == [text] or language in ("zh", "ko"))


def test_dropped_documents_are_counted_with_examples() -> None:
    cleaner = Cleaner(ALL, "ja")
    assert cleaner.clean(Row("a:1", text="短い。\n" + "文")) is None
    [length, repetition, quality] = cleaner.tallies
    assert (length.name, length.seen, repetition.seen, quality.seen) == ("length", 1, 0, 0)
    assert length.left_out["too short"].examples == [["a:1", "短い。 文"]]


def test_conversations_pass() -> None:
    row = Row("a:1", messages=[{"role": "user", "content": "x"}])
    assert Cleaner(ALL, "ja").clean(row) is row


def test_both_splits_see_cleaned_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = [f"Ｎｏ．{number}{'。' * (number % 2)}" for number in range(100)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts) + "broken\n")
    source = SourceConfig(str(path), cleaning=Cleaning(normalise=Normalise("NFKC"), length=Length(6)))
    both = [row.text or "" for split in ("train", "heldout") for row in read_split(source, split, 0.3)]
    expected = [unicodedata.normalize("NFKC", text) for text in texts]
    assert sorted(both) == sorted(text for text in expected if len(text) >= 6)


# ----------------------------------------------------------------------------------------------- decontamination


@pytest.mark.parametrize(("names", "language"), [(JAPANESE, "ja"), (ENGLISH, "en")])
def test_documents_that_hold_evaluation_text_are_found(tmp_path: Path, names: tuple[str, ...], language: str) -> None:
    texts = bundled(*names)
    held, rest = texts[::10], [text for number, text in enumerate(texts) if number % 10]
    path = tmp_path / "evaluation.jsonl"
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in held))
    cleaning = Cleaning(decontaminate=Decontaminate(str(path), text_column="question"))
    left, reasons = kept(cleaning, language, rest)
    assert len(left) >= 0.99 * len(rest), reasons
    # In another document, with other spaces, punctuation and case.
    leaks = [R.choice(rest)[:300] + "\n" + held_text[:400].upper().replace("。", "．\n") for held_text in held]
    left, _ = kept(cleaning, language, leaks)
    assert len(left) <= 0.05 * len(leaks)
    assert kept(cleaning, language, held)[0] == []


def test_short_evaluation_texts(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.jsonl"
    path.write_text(json.dumps({"text": "日本で一番高い山は富士山"}))
    document = "問題。日本で一番 高い山は、富士山である。" + "ほかの文章。" * 100
    with pytest.raises(UserError, match="nothing to look for"):
        kept(Cleaning(decontaminate=Decontaminate(str(path))), "ja", [document])
    assert kept(Cleaning(decontaminate=Decontaminate(str(path), ngram=10)), "ja", [document, "富士山"])[0] == ["富士山"]
    with pytest.raises(UserError, match="no text found"):
        Cleaner(Cleaning(decontaminate=Decontaminate(str(tmp_path / "no"))), "ja")
