"""The card: README.md in English and Japanese, with the metadata that the Hub reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from markupsafe import Markup

from sioconv.evaluate.report import escape_markdown
from sioconv.publish.facts import Facts
from sioconv.publish.states import Conversation

TAGS = ["sioconv", "recurrent", "linear-recurrence", "custom_code"]
DIGITS = 4
NOTES = "bits per byte of UTF-8 text that was held out of training, lower is better"


def metadata(facts: Facts, has_licence_file: bool) -> ModelCardData:
    """The card's metadata; `has_licence_file` says whether the licence's text is in the folder."""
    other = facts.licence == "other"
    return ModelCardData(
        language=facts.languages,
        license=facts.licence,
        license_name=facts.licence_name.lower().replace(" ", "-") if other else None,
        license_link="LICENSE" if other and has_licence_file else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=TAGS,
        datasets=facts.datasets or None,
        base_model=facts.base_model,
        model_name=facts.name,
        eval_results=_results(facts) or None,
    )


def _results(facts: Facts) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Language modelling",
            dataset_type="heldout",
            dataset_name=f"held-out text: {name}",
            dataset_config=name,
            dataset_split="heldout",
            metric_type="bits_per_byte",
            metric_name="bits per byte",
            metric_value=round(value, DIGITS),
        )
        for name, value in facts.bits.items()
    ]


def benchmark_results(facts: Facts, dataset: str) -> list[dict[str, Any]]:
    """The content of a file in `.eval_results/`: bits per byte of each source, as the task of that name."""
    entries = [
        EvalResultEntry(dataset_id=dataset, task_id=name, value=round(value, DIGITS), notes=NOTES)
        for name, value in facts.bits.items()
    ]
    return eval_result_entries_to_yaml(entries)


def card(
    facts: Facts,
    repo: str,
    plots: Sequence[str],
    personas: Sequence[str],
    conversations: Mapping[str, Conversation],
    variants: Sequence[str],
    has_licence_file: bool,
) -> str:
    """The text of README.md.

    Args:
        facts: about the model.
        repo: what an example loads: OWNER/NAME, or the folder's name.
        plots, personas, conversations, variants: what else is in the folder.
        has_licence_file: whether LICENSE is.
    """
    summary = facts.summary or {}
    values = {
        "facts": facts, "repo": repo, "plots": plots, "personas": personas,
        "conversations": list(conversations.values()), "variants": variants,
        "has_licence_file": has_licence_file, "summary": summary, "questions": (summary.get("chat") or {}),
        "continuations": summary.get("continuations") or {},
        "tokens": sum(each.get("tokens", 0) for each in facts.progress.values()) or summary.get("tokens"),
    }  # fmt: skip
    return render("card.md", metadata(facts, has_licence_file), facts.languages, values)


def render(template: str, data: ModelCardData, languages: Sequence[str], values: Mapping[str, Any]) -> str:
    """The text of a card: its metadata, and a page of `templates/`, which gets `values` under their names."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sioconv.publish"),
        finalize=escape_markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"count": _count, "code": _code, "percent": _percent, "bits": _bits}
    names = {
        "languages_ja": "と".join(LANGUAGES_JA.get(each, each) for each in languages),
        "languages_en": " and ".join(LANGUAGES_EN.get(each, each) for each in languages),
    }
    body = environment.get_template(template).render(**names, **values)
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


LANGUAGES_JA = {"ja": "日本語", "en": "英語"}
LANGUAGES_EN = {"ja": "Japanese", "en": "English"}


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _bits(value: float) -> Markup:
    return Markup(f"{value:.3f}")


def _percent(value: float) -> Markup:
    return Markup(f"{100 * value:.0f} %")


def _code(value: str) -> Markup:
    """Text in a block of code, where nothing is escaped; it can't end the block."""
    return Markup(value.replace("`", "'").replace('"', "'").replace("\\", "/"))
