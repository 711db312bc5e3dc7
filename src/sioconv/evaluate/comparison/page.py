"""The comparison as a page in English and Japanese, with its pictures, and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sioconv.evaluate.comparison.figures import RunFigures
from sioconv.evaluate.comparison.pictures import curves, remembered
from sioconv.evaluate.comparison.words import PAGES, WORDS
from sioconv.evaluate.figures import finite
from sioconv.evaluate.page import check_page_folder
from sioconv.evaluate.report import data_uri, render, write_json
from sioconv.files import atomic_folder

KIND = "comparison"
LEFT_OUT = ("metrics",)  # of the JSON: the runs' own files hold it


@dataclass(frozen=True)
class Doubt:
    """Why a run's figures may be better than they should be.

    Args:
        kind: of `WORDS`: `other_heldout` or `more_text`.
        run: its name.
        source: what else it has read.
    """

    kind: str
    run: str
    source: str = ""

    def said(self, first: str, language: str = "en") -> str:
        """In a sentence; `first` is the run that the others are compared with."""
        return WORDS[language][self.kind].format(run=self.run, source=self.source, first=first)


def summarise(runs: Sequence[RunFigures], doubts: Sequence[Doubt]) -> dict[str, Any]:
    """What comparison.json holds: every figure; one that isn't finite is null there."""
    rows = [
        {key: value for key, value in asdict(run).items() if key not in LEFT_OUT}
        | {"tokens": run.tokens, "minutes": run.minutes, "tokens_per_second": run.tokens_per_second}
        for run in runs
    ]
    values: dict[str, Any] = finite({"runs": rows, "warnings": [doubt.said(runs[0].name) for doubt in doubts]})
    return values


def write_comparison(folder: Path, runs: Sequence[RunFigures], doubts: Sequence[Doubt]) -> dict[str, Any]:
    """Writes index.html, index.ja.html, the pictures and comparison.json into `folder`, whole or not at all.

    Returns:
        The content of comparison.json.

    Raises:
        UserError: the folder holds something else, or can't be written.
    """
    check_page_folder(folder, KIND)
    summary = summarise(runs, doubts)
    pictures = {"curves": curves(runs), "curves_narrow": curves(runs, narrow=True)}
    if any(run.timescales for run in runs):
        pictures |= {"timescales": remembered(runs), "timescales_narrow": remembered(runs, narrow=True)}
    embedded = {name: data_uri(forms["svg"]) for name, forms in pictures.items()}
    prompts = [prompt for prompt in runs[0].samples if all(prompt in run.samples for run in runs)]
    differ = any(bits.change_interval is not None for run in runs[1:] for bits in run.bits.values())
    with atomic_folder(folder) as new:
        for name, forms in pictures.items():
            if not name.endswith("_narrow"):
                for form, data in forms.items():
                    (new / f"{name}.{form}").write_bytes(data)
        for language, file in PAGES.items():
            words = {key: text.replace("{first}", runs[0].name) for key, text in WORDS[language].items()}
            warnings = [doubt.said(runs[0].name, language) for doubt in doubts]
            other = PAGES["ja" if language == "en" else "en"]
            page = render(
                "comparison.html", language=language, other=other, words=words, runs=runs, pictures=embedded,
                prompts=prompts, warnings=warnings, differ=differ,
            )  # fmt: skip
            (new / file).write_text(page, encoding="utf-8", newline="\n")
        write_json(new / f"{KIND}.json", summary)
    return summary
