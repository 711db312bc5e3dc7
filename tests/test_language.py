"""The language that the program speaks: the Japanese catalogue is whole, and only our own sentences are translated."""

import ast
import gettext
import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import pytest
from babel.messages.pofile import read_po
from hypothesis import given
from hypothesis import strategies as st

from sioconv.cli.main import VERBS, main, usage
from sioconv.cli.main import run as command
from sioconv.errors import UserError
from sioconv.language import (
    CATALOGUES,
    LONGEST,
    NAME,
    VARIABLE,
    Catalogue,
    catalogue,
    choose_language,
    columns,
    hung,
    language,
    translated,
    wrapped,
)
from sioconv.recipe.schema import load_recipe

FILES = CATALOGUES / "ja" / "LC_MESSAGES"
# Words in a row that no Japanese line of help has; names of options, formulas and examples aren't such.
ENGLISH = re.compile(r"\b(?:the|of|is|are|and|with|from|for|that|which) [a-z]+ [a-z]+\b")


@pytest.fixture(scope="module")
def extraction() -> ModuleType:
    """scripts/messages.py."""
    path = Path(__file__).parents[1] / "scripts" / "messages.py"
    spec = importlib.util.spec_from_file_location("messages", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def values(message: str) -> list[str]:
    return sorted({found[1] for found in NAME.finditer(message) if found[1]})


def test_every_sentence_that_a_user_sees_is_translated(extraction: ModuleType) -> None:
    """`python scripts/messages.py` brings new ones into the .po, where they must be translated."""
    there = extraction.read(FILES / "sioconv.po")
    needed = extraction.messages()
    assert [message for message in needed if not there.get(message)] == []
    assert [message for message in there if message not in needed] == []


def test_no_translation_is_a_guess_or_loses_a_value() -> None:
    with (FILES / "sioconv.po").open("rb") as file:
        catalogue = read_po(file)
    assert len(catalogue) > 500
    for message in catalogue:
        if message.id:
            assert message.string and not message.fuzzy, message.id
            assert values(str(message.id)) == values(str(message.string)), message.id
            assert str(message.string).count("{{") == str(message.id).count("{{"), message.id


def test_what_is_read_is_what_translators_write(extraction: ModuleType) -> None:
    with (FILES / "sioconv.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for message, translation in extraction.read(FILES / "sioconv.po").items():
        assert compiled.gettext(message) == translation


def test_a_text_too_long_to_be_looked_up_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "ja")
    message = "no recipe {}: give a YAML file, or one of the package: a, b"
    assert translated(message.format("x")) != message.format("x")
    long = message.format("x: " * LONGEST)
    assert translated(long) == long


def test_a_sentence_is_known_by_its_values_places(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "pretrain: runs/mine/base is there already; since then the base model has changed"
    assert translated(line) == line
    monkeypatch.setenv(VARIABLE, "ja")
    assert translated(line) == "pretrain: runs/mine/base はもうあります。その後、the base model が変わりました"
    assert translated("what nobody has written") == "what nobody has written"
    assert translated("questions before tuning") == "学習の前の質問"


def test_an_error_is_found_with_what_becomes_a_part_of_it(extraction: ModuleType) -> None:
    """So that an error that nobody has translated fails the test above."""
    code = (
        "WHY = 'it is nobody knows what'\n"
        "def missing(path):\n    return f'there is nothing at {path}'\n"
        "def check(path, advice):\n"
        "    problem = 'odd and old' if path else WHY\n"
        "    raise UserError(f'no bread: {path}: {problem}: {missing(path)}: {advice}')\n"
        "check('a', advice='go to the baker')\n"
    )
    found = {message for _, message in extraction.Errors({"bread.py": ast.parse(code)}).found}
    assert found == {
        "no bread: {path}: {problem}: {missing}: {advice}", "odd and old", "it is nobody knows what",
        "there is nothing at {path}", "go to the baker",
    }  # fmt: skip


def test_an_error_is_translated_with_its_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = {
        (
            "chat",
            "nowhere",
        ): f"Hub の ID(owner/name)を与えてください。{tmp_path}(相対パスの始まり)に nowhere がありません",
        ("pretrain", "demo.yaml", "--data.sources.prose_en.weight=-1"): (
            "レシピ: data.sources.prose_en.weight: -1.0 は負の数か、数ではありません"
        ),
        (
            "import",
            "none.txt",
            "out.jsonl",
        ): "そのようなファイルやフォルダはありません: パスとその権限を確かめてください",
    }
    monkeypatch.setenv(VARIABLE, "ja")
    for words, expected in lines.items():
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        assert ended.value.code == 2
        assert capsys.readouterr().err.rstrip().endswith(expected)
    problem = "bad row: a.jsonl:3: not JSON (Expecting ',' delimiter: line 1 column 5 (char 4)): expected an object "
    assert translated(problem + 'with a non-empty string "text"').startswith("悪い行: a.jsonl:3: JSON ではありません(")
    with pytest.raises(UserError, match="no recipe none: give a YAML file"):  # the exception itself stays English
        load_recipe(["none"])


def test_a_users_words_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source may be called as one of our words."""
    monkeypatch.setenv(VARIABLE, "ja")
    for word in ("text", "source", "answer", "start", "right", "before"):
        assert word in translated(f"data {word}: encodings guessed: cp932")


def test_the_longest_text_decides() -> None:
    known = Catalogue(
        {"{a}: {b}": "短 {b}／{a}", "{a}: no {b} in {{x}}": "長 {b} {{x}} {a}", "plain {{y}}": "素 {{y}}"}
    )
    assert known.translate("f: no k in {x}") == "長 k {x} f"
    assert known.translate("f: k") == "短 k／f"
    assert known.translate("plain {y}") == "素 {y}"


def test_a_point_within_a_number_parts_nothing() -> None:
    assert catalogue("ja").translate("0.5 min training") == "学習 0.5 分"
    assert catalogue("ja").translate("12.0 min install") == "インストール 12.0 分"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "ja_JP.UTF-8"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "ja_JP.eucJP"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", VARIABLE: "en"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_the_locale_decides_where_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in (VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language() == expected


def test_the_option_stands_anywhere_and_is_heard_by_what_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "en")
    assert choose_language(["chat", "--lang", "ja", "m"]) == ["chat", "m"]
    assert os.environ[VARIABLE] == "ja"
    assert choose_language(["--lang=en", "chat"]) == ["chat"]
    assert language() == "en"
    assert choose_language(["generate", "m", "--", "--lang", "ja"]) == ["generate", "m", "--", "--lang", "ja"]
    for wrong in (["--lang", "fr"], ["--lang"]):
        with pytest.raises(UserError, match=r"--lang: '.*' is none that is spoken here: give ja or en"):
            command(wrong)


@pytest.mark.parametrize("verb", ["import", "tune", "chat", "generate"])
def test_japanese_help_has_no_english_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv(VARIABLE, "en")
    english = VERBS[verb].help()
    assert english.startswith(VERBS[verb].purpose)
    command([verb, "--help", "--lang", "ja"])
    shown = capsys.readouterr().out
    assert "使い方: sioconv" in shown and "usage" not in shown
    assert not ENGLISH.findall(shown.replace("Who is it", ""))
    options = shown.partition("オプション")[2].splitlines()
    assert all(columns(line) <= 82 for line in options if re.search("[ぁ-ん]", line))
    monkeypatch.setenv(VARIABLE, "en")
    assert VERBS[verb].help() == english


def test_the_list_of_verbs_is_japanese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "ja")
    assert all(re.search("[ぁ-ん一-鿿ァ-ヶ]", line) for line in usage().splitlines() if line)


@given(st.text("あ漢、。 ab", max_size=60), st.integers(8, 40))
def test_lines_are_as_wide_as_the_terminal_and_nothing_is_lost(text: str, width: int) -> None:
    lines = list(wrapped(text, width))
    assert "".join("".join(lines).split()) == "".join(text.split())
    longest = max((columns(word) for word in re.findall(r"[!-~]+", text)), default=0)
    marks = max((2 * len(run) for run in re.findall(r"[、。]+", text)), default=0)
    assert all(columns(line) <= max(width, longest) + marks for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize(
    "line",
    [
        "  sioconv import FILE… OUT.jsonl  " + "トーク、表、本を JSON Lines に。" * 6,
        "  T4                  8       0.2   1,821,527         –  communication decides what is possible here",
        "sioconv: " + "a rather long word-filled message, " * 5,
        "/memory       " + "what the conversation takes in memory, and what the last reply had to read",
    ],
)
def test_a_line_that_doesnt_fit_goes_on_below_its_column(line: str, width: int) -> None:
    lines = list(hung(line, width))
    assert max(map(columns, lines)) <= width
    assert "".join(lines).replace(" ", "") == line.replace(" ", "")
    assert all(part.startswith("  ") for part in lines[1:])
    assert not [part for part in lines[1:] if part.strip()[0] in "、。"]
    assert list(hung("short  line", width)) == ["short  line"]
