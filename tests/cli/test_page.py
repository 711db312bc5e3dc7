"""docs/cli.md and docs/cli.ja.md say what the commands say of themselves."""

from pathlib import Path

import pytest

from sioconv.cli.page import WIDTH, pages
from sioconv.language import VARIABLE
from tests.pages import JAPANESE

DOCS = Path(__file__).parents[2] / "docs"


def test_the_pages_are_what_the_verbs_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", WIDTH)
    monkeypatch.setenv(VARIABLE, "en")  # put back at the end
    made = pages(DOCS / "cli.md")
    assert [path.name for path in made] == ["cli.md", "cli.ja.md"]
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, "make them anew: python -m sioconv.cli.page docs/cli.md"
    english, japanese = (len(JAPANESE.findall(text)) for text in made.values())
    assert japanese > 5000 > 50 * english
