"""The documentation's site: built without a warning, whole in both languages, with nothing loaded from elsewhere."""

import html
import json
import re
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

MISSING = [name for name in ("mkdocs", "material", "mkdocs_static_i18n", "mkdocstrings") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the extra `docs` isn't installed: no {', '.join(MISSING)}")
ROOT = Path(__file__).parents[1]


class Page(HTMLParser):
    """What a page of the site leads to, what it loads, and the names of its places."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.loads: list[str] = []
        self.names: set[str] = set()
        self.language = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.names |= {values[name] for name in ("id", "name") if name in values}
        self.language = values.get("lang", "") if tag == "html" else self.language
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif "src" in values or (tag == "link" and "href" in values):
            self.loads.append(values.get("src") or values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scripts.site.__main__ import build

    out = tmp_path_factory.mktemp("docs") / "site"
    assert build(out) == 0, "MkDocs has a warning: it stands above"
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_there_in_both_languages(site: Path, pages: dict[Path, Page]) -> None:
    sources = [path for path in (ROOT / "docs").rglob("*.md") if not path.name.endswith(".ja.md")]
    for source in sources:
        name = source.relative_to(ROOT / "docs").with_suffix(".html")
        english, japanese = pages[site / name], pages[site / "ja" / name]
        assert (english.language, japanese.language) == ("en", "ja")
        assert f"ja/{name.as_posix()}" in english.links and f"../{name.as_posix()}" in japanese.links
        if source.with_suffix(".ja.md").is_file():
            title = source.with_suffix(".ja.md").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            [shown] = re.findall("<title>(.+)</title>", (site / "ja" / name).read_text(encoding="utf-8"))
            assert title in html.unescape(shown)


def test_every_link_leads_to_a_file_and_a_place(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or link.startswith(("/", "data:")) or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            place = unquote(parts.fragment)
            if not target.is_file() or (place and target in pages and place not in pages[target].names):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    loads = {load for page in pages.values() for load in page.loads}
    assert [load for load in loads if urlsplit(load).scheme not in ("", "data") or load.startswith("//")] == []


def test_both_languages_can_be_searched(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert index["config"]["lang"] == ["en", "ja"]
    found = {
        word: {entry["location"] for entry in index["docs"] if word in entry["text"]} for word in ("forget", "漸化式")
    }
    assert any(place.startswith("model.html") for place in found["forget"])
    assert any(place.startswith("ja/model.html") for place in found["漸化式"])
    assert [*site.rglob("lunr.ja.min.js")] and [*site.rglob("tinyseg.js")]


def test_a_formula_is_drawn_by_the_browser_and_japanese_lines_are_joined() -> None:
    from markdown import markdown

    from scripts.site.markdown import block

    text = markdown("記憶は\n一行 $`c_t = a_t c_{t-1}`$ で", extensions=["scripts.site.markdown"])
    assert "記憶は一行 <math" in text and "<msub><mi>c</mi>" in text and "`" not in text
    assert 'display="block"' in block("a\n= b")


def test_links_lead_to_the_repository_where_its_address_is_known(tmp_path: Path) -> None:
    from scripts.site.pages import Staging

    Staging(tmp_path / "docs", "https://example.org/sioconv/blob/main").write()
    text = (tmp_path / "docs" / "api.ja.md").read_text(encoding="utf-8")
    assert "](https://example.org/sioconv/blob/main/src/sioconv/ops/scan.py)" in text and "](scan.md)" in text
    assert not (tmp_path / "docs" / "files").exists() and "[English]" not in text
    assert "](contributing.md)" in (tmp_path / "docs" / "index.md").read_text(encoding="utf-8")
