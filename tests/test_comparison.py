"""Tables that a page copies from another are those of the other."""

from pathlib import Path

import pytest

from scripts import comparison


@pytest.mark.parametrize("page", comparison.PAGES, ids=lambda page: page.name)
def test_a_copied_table_is_the_one_that_was_measured(page: Path) -> None:
    text, count = comparison.with_tables(page)
    marks = page.read_text(encoding="utf-8").count("<!-- Copied from ")
    assert count == marks >= 2 and page.read_text(encoding="utf-8").count(comparison.END) == marks
    assert page.read_text(encoding="utf-8") == text, "bring it in step: python scripts/comparison.py"


def test_a_table_that_is_gone_is_named() -> None:
    with pytest.raises(ValueError, match=r"training\.md has no table that begins with \| nothing"):
        comparison.table_of(comparison.ROOT / "docs" / "training.md", "| nothing")
