"""docs/cli.md says what the commands say of themselves."""

from pathlib import Path

import pytest

from sioconv.cli.page import WIDTH, page

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_verbs_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", WIDTH)
    said = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert said == page(), "make it anew: python -m sioconv.cli.page docs/cli.md"
