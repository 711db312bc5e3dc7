"""The report from given figures: whole pages, nothing from outside, no text of a model that becomes markup."""

import base64
import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sioconv.evaluate.figures import (
    Answer,
    Chat,
    Minutes,
    ReportFigures,
    Sizes,
    TextBits,
    Yardsticks,
    finite,
    shares_by_kind,
    summarise,
)
from sioconv.evaluate.report import escape_markdown, language_tag, printable, write_report

HOSTILE = "<script>alert('悪い')</script>\n|*[x](javascript:1)`\x00\ud800"
VOID = {"source", "meta", "img", "br", "link", "hr", "input"}


def an_answer(why: str = "reading", *, right: bool = True, text: str = "みやぎけんと読みます。") -> Answer:
    return Answer("「宮城県」は何と読みますか？", "みやぎけん", text, why, True, True, True, right)


def metrics_of(stage: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for step in range(1, 30):
        common = {"stage": stage, "step": step, "tokens": 4096 * step, "seconds": 0.5 * step}
        empty = {"lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 8192.0}
        rows.append(common | empty | {"split": "train", "source": None, "loss": 8 / step + 2, "bpb": None})
        if step % 10 == 0:
            rows += [
                common | empty | {"split": "heldout", "source": name, "loss": 4.0, "bpb": 1.2 + i / 5 + 1 / step}
                for i, name in enumerate(("sentences_ja", "日本語", "prose_en"))
            ]
    return rows


def full_figures() -> ReportFigures:
    bits = TextBits("ja", False, 41_000, 1.297, 1.405)
    return ReportFigures(
        name="みやぎ",
        sizes=Sizes(5_812_345, 4_096),
        sources={"sentences_ja": bits, "gazetteer_ja": TextBits("ja", True, 30_000, 1.25, 1.3)},
        languages={"ja": bits, "en": TextBits("en", False, 68_000, 1.84, 2.0)},
        yardsticks={"ja": Yardsticks(1.56, 1.63, 2_800_000)},
        chat=Chat(2.5, 1.5, [an_answer(), an_answer("name", right=False, text=HOSTILE)], [an_answer("unseen place")]),
        continuations={"宮城県(": "みやぎけん)は、\n日本の県である。", "The ": HOSTILE},
        timescales=[[1.5, 3.0, 20.0, 400.0], [2.0, 8.0, 8.0, 1e6]],
        metrics=[*metrics_of("pretrain"), *metrics_of("finetune")],
        samples=[
            {"stage": "pretrain", "step": step, "tokens": 4096 * step, "seconds": 30.0, "label": label,
             "prompt": prompt, "text": text}
            for step, label, text in ((0, "start", HOSTILE), (10, "30 s", "みやぎけん)は、"), (20, "end", "県である。"))
            for prompt in ("宮城県(", "The ")
        ],
        minutes=Minutes(1.5, 6.0, 9.25),
        machine={"processor": "A processor", "cores": "2"},
        versions={"torch": "2.13.0"},
    )  # fmt: skip


class Page(HTMLParser):
    """Checks that tags are nested and closed; collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    def text(self) -> str:
        return "".join(self.words)

    def attributes(self, name: str) -> list[str | None]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "みやぎ"
    write_report(run, full_figures())
    return run / "report"


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "index.html").read_text(encoding="utf-8"))


def test_html_needs_no_other_file(page: Page) -> None:
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2
    for image in images:
        assert image["alt"]
        kind, data = (image["src"] or "").split(",")
        assert kind == "data:image/svg+xml;base64"
        assert ET.fromstring(base64.b64decode(data)).tag.endswith("svg")
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)
    assert not page.attributes("href")


def test_html_shows_hostile_text_as_text(report: Path, page: Page) -> None:
    raw = (report / "index.html").read_bytes()
    assert b"<script" not in raw and b"\x00" not in raw
    assert page.text().count("<script>alert('悪い')</script>\n|*[x](javascript:1)`\ufffd\ufffd") == 4


def hostile_figures() -> ReportFigures:
    """Markup in every text that a user, a file, a model or a machine gives, each with a word of its own."""

    def bad(word: str) -> str:
        return f"--></style></title>\"'<script>{word}()</script>[{word}](javascript:{word})"

    full = full_figures()
    bits = TextBits(bad("language"), True, 41_000, 1.297, 1.405)
    answer = Answer(bad("question"), bad("expected"), bad("answer"), bad("why"), True, True, True, False)
    texts = {key: bad(key) for key in ("stage", "label", "prompt", "text")}
    return replace(
        full,
        name=bad("run"),
        sources={bad("source"): bits},
        languages={bad("language"): bits},
        yardsticks={bad("language"): Yardsticks(1.56, 1.63, 2_800_000)},
        chat=Chat(2.5, 1.5, [answer], [answer]),
        continuations={bad("beginning"): bad("end")},
        metrics=[{**row, "stage": bad("stage"), "source": row["source"] and bad("source")} for row in full.metrics],
        samples=[{**row, **texts} for row in full.samples],
        machine={bad("part"): bad("processor")},
        versions={bad("package"): bad("version")},
    )


def test_every_text_in_a_report_is_shown_as_text(tmp_path: Path) -> None:
    write_report(tmp_path, hostile_figures())
    html = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    page, text = Page(html), (tmp_path / "report/report.md").read_text(encoding="utf-8")
    assert "script" not in {tag for tag, _ in page.tags} and "<script" not in html + text
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    shown = page.text()
    for word in (
        "language", "source", "question", "expected", "answer", "why", "stage", "label", "prompt", "text", "run",
        "beginning", "end", "part", "processor", "package", "version",
    ):  # fmt: skip
        assert f"<script>{word}()</script>" in shown, word
        assert f"\\[{word}\\]\\(javascript:{word}\\)" in text, word
    for picture in ("loss.svg", "timescales.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ET.parse(tmp_path / "report" / picture).iter()}
        assert tags.isdisjoint({"script", "a", "foreignObject"}), picture


def test_html_says_what_language_a_text_is_in(page: Page) -> None:
    assert {"ja", "en"} == set(page.attributes("lang"))
    japanese = [attributes for tag, attributes in page.tags if tag == "blockquote"]
    assert [attributes["lang"] for attributes in japanese] == ["ja", "ja"]


def test_html_holds_every_part(page: Page) -> None:
    text = page.text()
    for part in ("1.297", "1.405", "1.560", "1.630", "templated", "5,812,345", "4.0 KiB", "22.2 MiB",
                 "118,784", "8,192", "start", "30 s", "end", "Seen questions", "Unseen questions", "50% are right",
                 "100% are right", "✗", "2.500 nats", "1.500 after", "A processor", "2.13.0", "9.2"):  # fmt: skip
        assert part in text, part


def test_markdown_has_its_pictures_beside_it(report: Path) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    for name in ("loss.svg", "timescales.svg"):
        assert f"]({name})" in text
        assert ET.parse(report / name).getroot().tag.endswith("svg")


def test_markdown_tables_are_whole_and_hold_no_markup_of_the_model(report: Path) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    assert "<script" not in text and "](javascript" not in text and "\x00" not in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.lstrip().startswith("|")]
    assert len(blocks) == 8
    for block in blocks:
        columns = {line.replace(r"\|", "").count("|") for line in block if line}
        assert len(columns) == 1, block
        assert set(block[1]) <= set("|-: ")


def test_summary_has_the_keys_that_others_read(report: Path) -> None:
    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))
    assert summary["bpb"] == {"ja": 1.297, "en": 1.84, "sources": {"sentences_ja": 1.297, "gazetteer_ja": 1.25}}
    assert summary["bpb_tuned"]["ja"] == 1.405 and summary["bpb_tuned"]["en"] == 2.0
    assert summary["yardsticks"]["ja"] == {"xz_primed": 1.56, "ngram7": 1.63, "train_bytes": 2_800_000}
    chat = summary["chat"]
    assert (chat["loss_before"], chat["loss_after"]) == (2.5, 1.5)
    assert chat["seen"]["questions"] == 2 and chat["seen"]["right"] == 0.5 and chat["seen"]["ended"] == 1
    assert chat["seen"]["by"]["name"] == {"questions": 1, "ended": 1, "in_language": 1, "no_repeat": 1, "right": 0}
    assert chat["unseen"]["by"]["unseen place"]["right"] == 1
    assert (summary["parameters"], summary["state_bytes"]) == (5_812_345, 4_096)
    assert (summary["tokens"], summary["tokens_per_second"]) == (118_784, 8192)
    assert summary["minutes"] == {"install": 1.5, "train": 6.0, "total": 9.25}


def test_a_run_without_conversations_or_metrics_has_a_report(tmp_path: Path) -> None:
    figures = ReportFigures(name="a", sizes=Sizes(10, 20), languages={"ja": TextBits("ja", False, 1, math.nan)})
    summary = write_report(tmp_path, figures)
    assert summary["bpb"]["ja"] is None
    assert summary["chat"]["loss_before"] is None and summary["chat"]["seen"] == {"questions": 0, "by": {}}
    assert summary["tokens"] == 0 and summary["tokens_per_second"] is None
    assert Page((tmp_path / "report/index.html").read_text(encoding="utf-8")).text().count("Conversation") == 0
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["index.html", "report.md", "summary.json"]


def test_a_report_takes_the_place_of_an_older_one_whole(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report/old.svg").write_text("old")
    write_report(tmp_path, full_figures())
    assert not (tmp_path / "report/old.svg").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_report_that_fails_leaves_the_older_one(tmp_path: Path) -> None:
    write_report(tmp_path, full_figures())
    before = (tmp_path / "report/summary.json").read_bytes()
    with pytest.raises(TypeError):
        write_report(tmp_path, ReportFigures(name="a", sizes=Sizes("many", 1)))  # type: ignore[arg-type]
    assert (tmp_path / "report/summary.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_the_same_figures_give_the_same_files(report: Path, tmp_path: Path) -> None:
    write_report(tmp_path, full_figures())
    for path in report.iterdir():
        assert (tmp_path / "report" / path.name).read_bytes() == path.read_bytes(), path.name


def test_shares_of_no_answers() -> None:
    assert shares_by_kind([]) == {"questions": 0, "by": {}}


def test_finite_keeps_all_but_what_json_lacks() -> None:
    assert finite({"a": [1.5, math.inf, {"b": math.nan}], "c": (1,)}) == {"a": [1.5, None, {"b": None}], "c": [1]}
    assert json.dumps(summarise(full_figures()), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "tag"), [("宮城", "ja"), ("ミヤギ", "ja"), ("Miyagi", "en"), ("", "en"), ("a県", "ja"), ("é", "en")]
)
def test_language_tag(text: str, tag: str) -> None:
    assert language_tag(text) == tag


def test_unprintable_characters_are_replaced_and_others_kept() -> None:
    assert printable("a\x00b\u202ec\ud800d\x7f\r") == "a\ufffdb\ufffdc\ufffdd\ufffd\ufffd"
    assert printable("a\tb\n宮城🌊\U000e0100") == "a\tb\n宮城🌊\U000e0100"


def test_markdown_escapes() -> None:
    assert escape_markdown("a|b\n*c* <d> `e`") == r"a\|b<br>\*c\* &lt;d&gt; \`e\`"
    assert escape_markdown(1.5) == 1.5


def test_questions_of_the_users_own_come_first_and_arent_judged(tmp_path: Path) -> None:
    own = replace(an_answer("held-out question", right=False), judged=False)
    write_report(tmp_path, replace(full_figures(), chat=Chat(2.5, 1.5, [an_answer()], [own])))
    for name in ("index.html", "report.md"):
        page = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert page.index("Unseen questions") < page.index("Seen questions")
        assert "– are right" not in page.replace("\\", "") and page.count("are right") == 1
