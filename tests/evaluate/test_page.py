"""An evaluation's page and tables from given figures."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sioconv.errors import UserError
from sioconv.evaluate.page import check_page_folder, write_evaluation
from sioconv.evaluate.parts.tables import tables_of

BITS = {"bpb": 1.25, "interval": (1.2, 1.3), "bytes": 12_345, "documents": 30, "tokens": 4000}
PAIRS = {"accuracy": 0.75, "interval": (0.6, 0.9), "pairs": 20}
WRITTEN = {"repetition": 0.1, "distinct_1": 0.5, "distinct_2": 0.8, "distinct_3": None, "broken": 0.0, "unclosed": 0.25}
HOSTILE = "<script>|悪い"
FOUND: dict[str, Any] = {
    "sources": {HOSTILE: BITS, "one": {**BITS, "interval": None}}, "languages": {"ja": BITS}, "domains": {},
    "positions": {"ja": [{"from": 1, "tokens": 10, "nats": 3.5}]},
    "frequency": {"ja": [{"from": 10, "tokens": 10, "share": 0.5, "nats": 3.5}]},
    "context": {"ja": {"spans": 4, "contexts": [{"tokens": 16, "nats": 3.0, "gain": 0.0, "interval": (0.0, 0.0)}]}},
    "copying": {"spans": 16, "distances": [
        {"tokens": 8192, "nats": 2.0, "without": 3.0, "gain": 1.0, "interval": (0.5, 1.5)}]},
    "pairs": {"ja": {**PAIRS, "chance": 0.5, "phenomena": {"particle_object": PAIRS}}},
    "writing": {"ja": {"texts": 4, "model": {**WRITTEN, "ended": 0.5}, "human": WRITTEN}},
    "speed": {
        "read_tokens": 1024, "read_per_second": 5000.0, "written_tokens": 64, "written_per_second": 300.0,
        "state_bytes": {"1": 4096, "1024": None}, "peak_bytes": 2**30, "device": "cpu (2 threads)", "dtype": "float32",
    },
    "tasks": {"rivers": {"metrics": {"acc": {"value": 0.5, "stderr": 0.1}, "ppl": {"value": 9.0, "stderr": None}},
                         "chance": 0.25, "documents": 8, "shots": 3}},
    "pfgen": {"score": 0.4, "fluency": 0.5, "truthfulness": 0.1, "helpfulness": 0.2, "length": 99.0, "questions": 50,
              "trials": 2},
}  # fmt: skip
RESULT = {
    **FOUND, "model": HOSTILE, "parameters": 5_000_000, "state_bytes": 4096, "window": None, "seed": 0,
    "precision": "float32", "machine": {"cores": "2"}, "versions": {"torch": "2"},
}  # fmt: skip


def test_every_part_has_a_table_whose_rows_are_whole() -> None:
    tables = {table.title: table for table in tables_of(FOUND)}
    assert len(tables) == 10
    for table in tables.values():
        assert all(len(row) == len(table.columns) and all(map(str, row)) for row in table.rows)
    assert tables["Bits per byte"].rows[0] == ["ja", "1.2500", "1.2000 – 1.3000", "12,345", "30"]
    assert tables["Minimal pairs"].rows[1] == ["ja: particle object", "75.0%", "60.0% – 90.0%", "20"]
    assert tables["Tasks of lm-evaluation-harness"].rows[1][2:5] == ["9.0000", "–", "–"]  # no chance of a perplexity
    assert tables["Speed and memory"].rows[-1] == ["most memory", "1,024.0 MiB"]


def test_what_was_not_measured_has_none() -> None:
    assert tables_of({}) == [] and [table.title for table in tables_of({"pairs": FOUND["pairs"]})] == ["Minimal pairs"]


class Tags(HTMLParser):
    """Counts tags, and keeps what the page says."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.metas: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "meta":
            self.metas.append(dict(attrs))
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fits_a_telephone(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "page", RESULT)
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and "<script>" not in page and HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in page
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in tags.metas
    assert page.count('<div class="wide">') == page.count("<table>") == 11  # which scroll by themselves
    markdown = (tmp_path / "page" / "report.md").read_text(encoding="utf-8")
    assert all(f"### {table.title}" in markdown for table in tables_of(FOUND)) and "<script>" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| ja: particle object")]
    assert rows == ["| ja: particle object | 75.0% | 60.0% – 90.0% | 20 |"]
    values = json.loads((tmp_path / "page" / "evaluation.json").read_text(encoding="utf-8"))
    assert values == json.loads(json.dumps(RESULT))


def test_a_telephone_shows_every_column(tmp_path: Path, browser: Any) -> None:
    sources = {f"{kind}_en": {**BITS, "bytes": 158_191, "documents": 1234} for kind in ("dictionary", "sentences")}
    write_evaluation(tmp_path / "page", {**RESULT, "sources": sources})
    shown = browser.new_page(viewport={"width": 390, "height": 800})
    shown.goto((tmp_path / "page" / "index.html").as_uri())
    cut = """tables => tables.filter(table => table.scrollWidth > table.clientWidth).map(table => table.innerText)"""
    assert shown.locator(".wide").count() > 5
    assert shown.locator(".wide").evaluate_all(cut) == []
    shown.close()


def test_a_page_without_text_has_what_was_measured(tmp_path: Path) -> None:
    rest = {key: value for key, value in RESULT.items() if key not in ("sources", "languages", "domains")}
    write_evaluation(tmp_path / "page", rest)
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "Minimal pairs" in page and "Bits per byte" not in page


def test_a_folder_with_something_else_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text", encoding="utf-8")
    with pytest.raises(UserError, match="holds no evaluation"):
        write_evaluation(tmp_path / "mine", RESULT)
    with pytest.raises(UserError, match="holds no evaluation"):
        check_page_folder(tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    for _ in range(2):  # the second replaces the first
        write_evaluation(tmp_path / "page", RESULT)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is Linux's")
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not allowed to write: /proc/page"):
        check_page_folder(Path("/proc/page/of/mine"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file is in the way"):
        check_page_folder(tmp_path / "file" / "page")
    check_page_folder(tmp_path / "a" / "b" / "page")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
