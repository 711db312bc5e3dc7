"""The programs of the tutorial and of the mathematics run from first to last and print what the pages say."""

import contextlib
import io
import re
import textwrap
from pathlib import Path

import pytest
import torch

from tests.pages import ROOT, sections

PAGES = ["mathematics.md", "tutorial.md"]
# What a test that takes seconds sets in place of the page's numbers. What is printed from there on isn't compared.
FEWER = {"STEPS": 2, "TUNE_STEPS": 2, "LONGEST": 2}
NUMBER = r"[-\d.,e]+"
INTERVAL = re.compile(rf" *\((?:(?P<low>{NUMBER}) to (?P<high>{NUMBER})|below (?P<limit>{NUMBER}))\)$")


def number(text: str) -> float:
    return float(text.replace(",", ""))


def within(said: str, printed: str) -> bool:
    """Whether a printed line is what the page says: the same, or the same words and a number in the page's interval."""
    interval = INTERVAL.search(said)
    if not interval:
        return said.strip() == printed.strip()
    words, value = said[: interval.start()].rsplit(" ", 1)
    others, found = printed.strip().rsplit(" ", 1)
    least = number(interval["low"]) if interval["low"] else float("-inf")
    most = number(interval["high"] or interval["limit"])
    return words.strip() == others and all(least <= number(text) <= most for text in (value, found))


def run(page: Path, fewer: bool) -> list[tuple[str, str]]:
    """Runs a page's blocks in order, in one namespace; what the page says of each block's output, and the output."""
    code = [block for section in sections(page) for block in section.code]
    names: dict[str, object] = {"__name__": "page", "input": lambda *_: ""}
    compared = []
    scaled = False
    for (language, text), (after, said) in zip(code, [*code[1:], ("", "")], strict=True):
        if language != "python":
            continue
        assert len(text.splitlines()) <= 100
        for name, value in FEWER.items() if fewer else ():
            text, count = re.subn(rf"^{name} = [\d_]+$", f"{name} = {value}", text, flags=re.MULTILINE)
            scaled |= bool(count)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(text, page.name, "exec"), names)
        if after == "text" and not scaled:
            compared.append((said, output.getvalue()))
    return compared


@pytest.fixture(autouse=True)
def defaults():
    """torch's settings, which the pages change."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


def check(page: Path, fewer: bool) -> None:
    compared = run(page, fewer)
    assert compared
    for said, printed in compared:
        lines, found = textwrap.dedent(said).strip().splitlines(), printed.strip().splitlines()
        wrong = [(a, b) for a, b in zip(lines, found, strict=True) if not a.startswith("…") and not within(a, b)]
        assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_a_pages_programs_print_what_it_says(page: str) -> None:
    check(ROOT / "docs" / page, fewer=True)


@pytest.mark.slow
def test_the_tutorials_training_ends_where_it_says() -> None:
    check(ROOT / "docs" / "tutorial.md", fewer=False)


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_print_the_same(page: str) -> None:
    shown = [
        [text for section in sections(ROOT / "docs" / name) for language, text in section.code if language == "text"]
        for name in (page, page.replace(".md", ".ja.md"))
    ]
    assert shown[0] == shown[1]


def test_a_line_is_compared_by_its_interval() -> None:
    assert within("loss: 2.0  (1.5 to 2.5)", "loss: 2.4") and not within("loss: 2.0  (1.5 to 2.5)", "loss: 2.6")
    assert within("off: 1e-15  (below 1e-12)", "off: 0e+00") and not within("off: 1e-15  (below 1e-12)", "of: 0e+00")
    assert within("ids: 82", "ids: 82") and not within("ids: 82", "ids: 83")
