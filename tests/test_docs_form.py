"""Pages that can be read in any editor, and whose links lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, anchor, sections

WIDTH = 120
SOURCE = ROOT / "src" / "sioconv"
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@each_page
def test_lines_are_short(page: Path) -> None:
    """Rows of tables and addresses can't be wrapped."""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
    long = [number for number, line in lines if len(line) > WIDTH and not re.search(r"^ *\||https?://\S{60}", line)]
    assert long == [], f"{page.name}: lines of more than {WIDTH} characters"


@each_page
def test_links_lead_to_a_file_and_to_a_heading(page: Path) -> None:
    links = [link for section in sections(page) for link in section.links]
    for link in links:
        if re.match(r"\w+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not heading or heading in {anchor(part.title) for part in sections(target)}, f"{page.name}: {link}"


def test_the_map_has_every_folder_of_the_source() -> None:
    [house] = [text for section in sections(ROOT / "CONTRIBUTING.md") for _, text in section.code if "ops/cpu/" in text]
    folders = {
        f"{folder.relative_to(SOURCE).as_posix()}/"
        for folder in SOURCE.rglob("*")
        if folder.is_dir() and [*folder.glob("*.py")]
    }
    named = set(re.findall(r"^  (\S+/) ", house, re.MULTILINE))
    assert named - folders == {"recipe/presets/"} and folders <= named


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md", "docs/training.md", "docs/reliability.md"])
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:src|tests|benchmarks|scripts|docs)/[\w./-]+)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
