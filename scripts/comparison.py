"""Copies tables of other pages into the READMEs and docs/comparison.md: `python scripts/comparison.py`.

A page that shows a measured table of another names that page and the beginning of the table's first line in a comment
before the copy, so that a figure is written down by hand in one place only.
"""

import re
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "README.ja.md", "docs/comparison.md", "docs/comparison.ja.md")]
END = "<!-- The end of this table -->"
COPY = re.compile(
    r"(?P<head><!-- Copied from (?P<page>\S+): (?P<first>\|.*) -->\n)"
    rf"(?P<table>(?:\|.*\n)*)(?={END}\n)"
)


def table_of(page: Path, first: str) -> str:
    """The first table of a page that begins with these words. Raises ValueError where there is none."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith(first)), None)
    if start is None:
        raise ValueError(f"{page.name} has no table that begins with {first}")
    rows = takewhile(lambda line: line.startswith("|"), lines[start:])
    return "".join(f"{line}\n" for line in rows)


def with_tables(page: Path) -> tuple[str, int]:
    """A page's text with its copies made anew, and how many there are."""

    def copied(found: "re.Match[str]") -> str:
        return found["head"] + table_of(ROOT / "docs" / found["page"], found["first"])

    return COPY.subn(copied, page.read_text(encoding="utf-8"))


def main() -> None:
    for page in PAGES:
        text, count = with_tables(page)
        page.write_text(text, encoding="utf-8")
        print(f"{page.relative_to(ROOT)}: {count} tables")


if __name__ == "__main__":
    main()
