"""An evaluation as a page: HTML that fits a telephone, Markdown, and the figures as JSON."""

from pathlib import Path
from typing import Any

from sioconv.errors import UserError
from sioconv.evaluate.parts.tables import tables_of
from sioconv.evaluate.report import render, write_json
from sioconv.files import atomic_folder, work_folder


def check_page_folder(folder: Path, kind: str = "evaluation") -> None:
    """Raises UserError where the folder can't be written, or holds something else than an earlier page of the kind."""
    if folder.exists() and not (folder / f"{kind}.json").is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and holds no {kind}: give the name of a new folder")
    whole = folder.absolute()
    first = next(path for path in reversed([whole, *whole.parents]) if path == whole or not path.exists())
    with work_folder(first):  # what is there already can be replaced where something can be made beside it
        pass


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
        write_json(new / "evaluation.json", result)
