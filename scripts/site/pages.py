"""The pages as MkDocs takes them: links for the site, lists with the indent that its Markdown wants.

The pages in docs/ are written for GitHub, where a link leads to any file of the repository. A site has its own pages
only: a link to another file leads to the repository's address where one is known, else to a copy in the site.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = Path("files")  # the site's folder of copies
# Pages that lie outside docs/, and where they are on the site.
OUTSIDE = {"README": "index", "CONTRIBUTING": "contributing", "CHANGELOG": "changelog", "SECURITY": "security"}

FENCE = re.compile(r"^( *)(```+)")
HEADING = re.compile(r"^#{1,6} +(.+)")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)|`+[^`]*`+")
OTHER_LANGUAGE = re.compile(r"^\[(?:日本語|English)\]\([^)]+\)$")  # the site has a switch instead


def anchor(title: str, _: str = "-") -> str:
    """The name that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def headings(page: Path) -> list[str]:
    """The anchors of a page's headings, in order."""
    text = re.sub(r"^( *)```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [anchor(found[1]) for line in text.splitlines() if (found := HEADING.match(line))]


def place_of(path: Path) -> Path | None:
    """Where a file of the repository lies among the site's pages; None where it has no place."""
    inside = path.relative_to(ROOT)
    if inside.parts[0] == "docs":
        return inside.relative_to("docs")
    name, _, suffixes = inside.name.partition(".")
    return Path(f"{OUTSIDE[name]}.{suffixes}") if len(inside.parts) == 1 and name in OUTSIDE else None


class Staging:
    """A folder of pages for MkDocs, made from the repository's.

    Args:
        folder: where they are written; made anew.
        repository: the address of the repository's files, `https://…/blob/main`, or None.
    """

    def __init__(self, folder: Path, repository: str | None = None) -> None:
        self.folder, self.repository = folder, repository

    def write(self) -> None:
        """Writes every page and picture, and what they lead to."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(ROOT / "docs", self.folder)
        outside = [path for name in OUTSIDE for path in sorted(ROOT.glob(f"{name}*.md")) if name != "README"]
        for page in [*sorted((ROOT / "docs").rglob("*.md")), *outside]:
            place = place_of(page)
            assert place is not None
            target = self.folder / place
            target.write_text("".join(f"{line}\n" for line in self._lines(page, place)), encoding="utf-8")

    def _lines(self, page: Path, place: Path) -> Iterator[str]:
        """A page's lines for the site. What belongs to an item of a list has an indent of 4, not of 2 or 3.

        A heading below a Japanese page's title has the English name too: pages that are in English only lead to it.
        """
        english = page.with_name(page.name.replace(".ja.md", ".md"))
        names = iter(headings(english) if english != page else [])
        fence, more = None, 0
        for line in page.read_text(encoding="utf-8").splitlines():
            mark = FENCE.match(line)
            if fence is None:
                indent = len(line) - len(line.lstrip(" "))
                more = 4 - indent if indent in (2, 3) else 0
                if OTHER_LANGUAGE.match(line):
                    continue
                if HEADING.match(line) and (name := next(names, "")) and not line.startswith("# "):
                    yield from (f'<div id="{name}"></div>', "")
                if not mark:
                    line = LINK.sub(lambda found: self._link(found, page, place), line)
            yield " " * more + line if line.strip() else line
            if fence is None and mark:
                fence = mark[0]
            elif fence is not None and line.rstrip() == fence:
                fence = None

    def _link(self, found: "re.Match[str]", page: Path, place: Path) -> str:
        """A link to a page of the same language, to another file, or as it was (code, addresses, headings)."""
        words, path, heading = found.groups(default="")
        if not path or re.match(r"\w+:", path):
            return found[0]
        target = (page.parent / path).resolve()
        there = place_of(target)
        if there is not None:
            there = there.with_name(there.name.replace(".ja.", "."))  # a picture too: the site takes the language's
        elif self.repository:
            return f"[{words}]({self.repository}/{target.relative_to(ROOT).as_posix()})"
        elif target.is_dir():
            return words
        else:
            there = FILES / target.relative_to(ROOT)
            there = there.with_suffix(".txt") if there.suffix == ".md" else there  # a copy, not a page
            (self.folder / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, self.folder / there)
        return f"[{words}]({os.path.relpath(there, place.parent).replace(os.sep, '/')}{heading})"
