"""The report of a run: one HTML file, Markdown with its pictures, and a summary as JSON."""

import base64
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sioconv.evaluate.figures import Answer, ReportFigures, shares, summarise
from sioconv.evaluate.parts.tables import tables_of
from sioconv.evaluate.pictures import loss_picture, timescale_picture
from sioconv.files import atomic_folder
from sioconv.language import language, translated

# What is said of one answer, and of a share of many.
MARKS = {
    "ended": ("ended by itself", "{share} end by themselves"),
    "in_language": ("in the right language", "{share} are in the right language"),
    "no_repeat": ("repeats no 8-gram", "{share} repeat no 8-gram"),
    "right": ("right", "{share} are right"),
}
SHOWN = 60  # characters of an answer that is no good
JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")


def write_report(run: Path, figures: ReportFigures) -> dict[str, Any]:
    """Writes `report/` of a run, whole or not at all: index.html, report.md with its pictures, summary.json.

    Returns:
        The content of summary.json.

    Raises:
        UserError: the folder can't be written.
    """
    summary = summarise(figures)
    pictures = {}
    for narrow, suffix in ((False, ""), (True, "-narrow")):
        if figures.metrics:
            pictures[f"loss{suffix}"] = loss_picture(figures.metrics, narrow)
        if figures.timescales:
            pictures[f"timescales{suffix}"] = timescale_picture(figures.timescales, figures.window, narrow)
    with atomic_folder(run / "report") as folder:
        for name, data in pictures.items():
            if name.endswith("-narrow"):
                continue
            (folder / f"{name}.svg").write_bytes(data)
        embedded = {name: data_uri(data) for name, data in pictures.items()}
        beside = {name: f"{name}.svg" for name in pictures if not name.endswith("-narrow")}
        for file, template, links in (("index.html", "report.html", embedded), ("report.md", "report.md", beside)):
            page = render(
                template, figures=figures, pictures=links, marks=MARKS, scale=_scale(figures),
                strip=_strip(figures.samples), answers=_answer_tables(figures), speed=figures.tokens_per_second,
                tables=tables_of(figures.evaluation), tuned_tokens=figures.last("finetune", "tokens"),
            )  # fmt: skip
            (folder / file).write_text(page, encoding="utf-8", newline="\n")
        write_json(folder / "summary.json", summary)
    return summary


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes a page's figures, for people to read too."""
    text = json.dumps(values, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    # What UTF-8 can't hold, half a surrogate pair, becomes the escape that JSON knows it by.
    path.write_bytes(text.encode(errors="backslashreplace"))


def data_uri(svg: bytes) -> str:
    """The address of a picture that is within its page."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def printable(text: str) -> str:
    """`text` with U+FFFD for control characters, direction overrides and lone surrogates, which no page may hold."""
    return UNPRINTABLE.sub("\ufffd", text)


def language_tag(text: str) -> str:
    """`ja` where the text holds kana or kanji, else `en`: it decides the font and the line breaks."""
    return "ja" if JAPANESE.search(text) else "en"


def escape_markdown(value: Any) -> Any:
    """Text that Markdown and the HTML in it show as it is, on one line: fit for a table's cell."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = printable(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN.sub(r"\\\1", text).replace("\n", "<br>").replace("\t", " ")


def render(template: str, **values: Any) -> str:
    """A page of `templates/`, which gets `values` under their names."""
    is_html = template.endswith(".html")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sioconv.evaluate"),
        autoescape=is_html,
        finalize=_finalize_html if is_html else escape_markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "number": _number, "count": _count, "size": _size, "percent": _percent, "tag": language_tag,
        "short": _short,
    }  # fmt: skip
    environment.filters |= filters
    environment.globals |= {"language": language(), "_": _sentence, "word": translated}
    return environment.get_template(template).render(values)


def _finalize_html(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _strip(samples: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Prompt → what the model wrote after it, moment by moment."""
    prompts: dict[str, list[dict[str, Any]]] = {}
    for row in samples:
        rows = prompts.setdefault(row["prompt"], [])
        # Tuning begins with the model that pretraining has ended with, and would show the same line again.
        if not (rows and row["label"] == "start" and rows[-1]["text"] == row["text"]):
            rows.append(row)
    return prompts


def _answer_tables(figures: ReportFigures) -> list[tuple[str, str, Sequence[Answer], dict[str, Any]]]:
    if figures.chat is None:
        return []
    tables = (
        (_sentence("Seen questions"), _sentence("The tuning conversations hold them."), figures.chat.seen),
        (_sentence("Unseen questions"), _sentence("The tuning conversations don't hold them."), figures.chat.unseen),
    )
    if any(answer.why == "held-out question" for answer in figures.chat.unseen):
        tables = tables[::-1]  # what is the user's own comes first
    return [(title, note, answers, shares(answers)) for title, note, answers in tables if answers]


def _scale(figures: ReportFigures) -> float:
    """The longest bar's bits per byte."""
    values = [bits.base for bits in figures.sources.values()]
    values += [bits.tuned for bits in figures.sources.values() if bits.tuned is not None]
    values += [value for marks in figures.yardsticks.values() for value in (marks.xz_primed, marks.ngram7)]
    return max((value for value in values if math.isfinite(value)), default=1.0)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _count(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def _sentence(message: str) -> Markup:
    """A sentence of the templates' own in the user's language; values that are put into it are escaped."""
    return Markup(translated(message))


def _short(answer: Answer) -> str:
    """What was answered; the beginning alone where the answer repeats itself or didn't end."""
    bad = len(answer.text) > SHOWN and not (answer.ended and answer.no_repeat)
    return f"{answer.text[:SHOWN]}…" if bad else answer.text


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _size(value: int) -> str:
    """Bytes in a unit that suits them."""
    amount = float(value)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:,.0f} {unit}" if unit == "bytes" or amount >= 100 else f"{amount:,.1f} {unit}"
