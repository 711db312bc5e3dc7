"""A Japanese page says what the English one says: the same headings, commands and code, figures, tables and links."""

import json
import re
from pathlib import Path

import pytest

from scripts import demo_figures
from tests.pages import CODE, JAPANESE, PAGES, Section, sections

# What the verbs say of themselves is made by sioconv.cli.page, in lines of their own in each language.
WRITTEN = [page for page in PAGES if page.name.endswith(".ja.md") and page.name != "cli.ja.md"]
PAIRS = [(page.with_name(page.name.replace(".ja.md", ".md")), page) for page in WRITTEN]
COMMENT = re.compile(r"(^|\s+)#(?!!).*", re.MULTILINE)


def of_each_section(english: Path, japanese: Path) -> list[tuple[Section, Section]]:
    return list(zip(sections(english), sections(japanese), strict=True))


pairs = pytest.mark.parametrize(("english", "japanese"), PAIRS, ids=lambda page: page.name)


def test_pages_that_both_groups_of_readers_need_are_pairs() -> None:
    names = {"data.md", "generation.md", "model.md", "reliability.md", "scan.md", "story.md", "tools.md"}
    assert {page.name for page, _ in PAIRS} >= names | {"CONTRIBUTING.md", "README.md", "training.md"}
    assert [english.name for english, _ in PAIRS if not english.is_file()] == []


@pairs
def test_a_pair_has_the_same_headings(english: Path, japanese: Path) -> None:
    levels, others = ([section.level for section in sections(page)] for page in (english, japanese))
    titles = [section.title for section in sections(japanese)]
    assert levels == others, titles


def same_code(ours: str, theirs: str) -> bool:
    """Comments are in the page's language, as is what a map says behind two spaces; nothing else of a line is."""
    ours, theirs = (COMMENT.sub("", line).strip() for line in (ours, theirs))
    if JAPANESE.search(theirs) and "  " in theirs:
        ours, theirs = (line.partition("  ")[0] for line in (ours, theirs))
    return ours.split() == theirs.split()


@pairs
def test_a_pair_shows_the_same_code(english: Path, japanese: Path) -> None:
    for ours, theirs in of_each_section(english, japanese):
        assert [language for language, _ in theirs.code] == [language for language, _ in ours.code], theirs.title
        for (_, block), (_, translated) in zip(ours.code, theirs.code, strict=True):
            for line, other in zip(block.splitlines(), translated.splitlines(), strict=True):
                assert same_code(line, other), f"{theirs.title}: {other}"


@pairs
def test_a_pair_names_the_same_commands_keys_and_files(english: Path, japanese: Path) -> None:
    for ours, theirs in of_each_section(english, japanese):
        assert theirs.inline_code == ours.inline_code, theirs.title


@pairs
def test_a_pair_has_the_same_figures(english: Path, japanese: Path) -> None:
    """A number from 0 to 20 may be a word in one of the languages."""
    for ours, theirs in of_each_section(english, japanese):
        a, b = ours.figures, theirs.figures
        for figure in sorted(a.keys() | b.keys()):
            least, most = a[figure] - theirs.words(figure), a[figure] + ours.words(figure)
            assert least <= b[figure] <= most, f"{theirs.title}: {figure} stands {a[figure]} times, and {b[figure]}"


@pairs
def test_a_pair_has_the_same_tables(english: Path, japanese: Path) -> None:
    """Cells of figures alone are equal."""
    for ours, theirs in of_each_section(english, japanese):
        assert [len(row) for row in theirs.tables] == [len(row) for row in ours.tables], theirs.title
        for row, other in zip(ours.tables, theirs.tables, strict=True):
            for cell, translated in zip(row, other, strict=True):
                figures = any(map(str.isdigit, CODE.sub("", translated))) and not JAPANESE.search(translated)
                assert not figures or translated == cell, theirs.title


@pairs
def test_a_pair_leads_to_the_same_pages(english: Path, japanese: Path) -> None:
    for ours, theirs in of_each_section(english, japanese):
        links, others = (
            {link.partition("#")[0].replace(".ja.", ".") for link in part.links} - {english.name}
            for part in (ours, theirs)
        )
        assert others == links, theirs.title


@pairs
def test_a_japanese_page_leads_to_japanese_pages_where_there_are_some(english: Path, japanese: Path) -> None:
    links = {link.partition("#")[0] for section in sections(japanese) for link in section.links} - {english.name}
    translated = [link for link in links if (japanese.parent / link.replace(".md", ".ja.md")).is_file()]
    assert [link for link in translated if link.endswith(".md") and not link.endswith(".ja.md")] == []


@pytest.mark.parametrize("page", demo_figures.PAGES)
def test_the_figures_of_the_demo_come_from_one_file(page: str) -> None:
    """`python scripts/demo_figures.py` brings the pages in step."""
    figures = json.loads(demo_figures.FIGURES.read_text(encoding="utf-8"))
    words = demo_figures.figures_in_words(figures, page)
    assert demo_figures.BEGIN + words + demo_figures.END in (demo_figures.ROOT / page).read_text(encoding="utf-8")


def test_the_figures_of_a_new_run_are_taken_from_its_report() -> None:
    bits = {"ja": 1.25149, "en": 1.7906, "sources": {"sentences_ja": 1.0}}
    answers = {"questions": 20, "ended": 1.0, "right": 0.55}
    summary = {
        "name": "demo", "bpb": bits, "bpb_tuned": bits, "parameters": 5_133_664, "tokens": 4_949_999,
        "yardsticks": {name: {"xz_primed": 1.7421, "ngram7": 1.54876} for name in ("ja", "en")},
        "chat": {"seen": {**answers, "right": 1.0}, "unseen": answers}, "minutes": {"install": 1.5, "total": 8.25},
    }  # fmt: skip
    figures = demo_figures.of_summary(summary, cores=4, commit="0123abc")
    assert figures["measured"]["commit"] == "0123abc" and figures["bpb"] == {"ja": 1.25149, "en": 1.7906}
    english, japanese = (demo_figures.figures_in_words(figures, page) for page in ("README.md", "README.ja.md"))
    assert "4 CPU cores it took 6.8 minutes" in english and "| Japanese | 1.251 | 1.251 | 1.742 | 1.549 |" in english
    assert "4.9 million tokens, all of 20 seen questions and\n55 % of 20" in english
    assert "| 日本語 | 1.251 | 1.251 | 1.742 | 1.549 |" in japanese
    assert "490 万トークン。\n学習した質問 20 問のすべて、学習していない質問 20 問の 55 % に" in japanese
