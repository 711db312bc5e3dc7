"""An evaluation as a page: HTML that fits a telephone, Markdown, and the figures as JSON."""

import json
from pathlib import Path
from typing import Any

from sioconv.errors import UserError
from sioconv.evaluate.parts.tables import tables_of
from sioconv.evaluate.report import render
from sioconv.files import atomic_folder

FIGURES = "evaluation.json"


def check_page_folder(folder: Path) -> None:
    """Raises UserError where the folder holds something else than an earlier evaluation, which would be lost."""
    if folder.exists() and not (folder / FIGURES).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and holds no evaluation: give the name of a new folder")


def write_evaluation(folder: Path, result: dict[str, Any]) -> None:
    """Writes what `evaluate_model` found into `folder`, whole or not at all: index.html, report.md, evaluation.json.

    Raises UserError where the folder holds something else, or can't be written.
    """
    check_page_folder(folder)
    tables = tables_of(result)
    with atomic_folder(folder) as new:
        for file, template in (("index.html", "evaluation_page.html"), ("report.md", "evaluation_page.md")):
            page = render(template, result=result, tables=tables)
            (new / file).write_text(page, encoding="utf-8", newline="\n")
        text = json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
        (new / FIGURES).write_bytes(text.encode(errors="backslashreplace"))
