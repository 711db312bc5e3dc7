"""The figures of an evaluation as tables: the terminal, Markdown and HTML show the same ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sioconv.language import translated

# What of a model's texts is shown beside a person's.
WRITING = {
    "repetition": "4-grams that stood before",
    "distinct_1": "distinct 1-grams",
    "distinct_2": "distinct 2-grams",
    "distinct_3": "distinct 3-grams",
    "broken": "texts with U+FFFD",
    "unclosed": "texts with an unclosed bracket",
    "ended": "texts that end by themselves",
}


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        title: its heading.
        note: what its figures mean, in a sentence or two.
        columns: names; the first column is words, the others are figures.
        rows: cells as they are shown.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables_of(found: Mapping[str, Any]) -> list[Table]:
    """A table for each part that `measure` has measured, in their order and in the user's language."""
    makers: dict[str, Callable[[Any], Iterator[Table]]] = {
        "positions": _positions, "frequency": _frequency, "context": _context, "copying": _copying, "pairs": _pairs,
        "writing": _writing, "speed": _speed, "tasks": _tasks, "pfgen": _pfgen,
    }  # fmt: skip
    tables = [*_bits(found)] if found.get("sources") else []
    for key, make in makers.items():
        if found.get(key):
            tables += [table for table in make(found[key]) if table.rows]
    return [_in_language(table) for table in tables]


def _in_language(table: Table) -> Table:
    """The table with our words in the user's language; names in its rows stay as they are."""
    columns = [translated(column) for column in table.columns]
    return replace(table, title=translated(table.title), note=translated(table.note), columns=columns)


def _bits(found: Mapping[str, Any]) -> Iterator[Table]:
    rows = [
        [name, f"{bits['bpb']:.4f}", _interval(bits["interval"], 4), f"{bits['bytes']:,}", f"{bits['documents']:,}"]
        for part in ("languages", "domains", "sources")
        for name, bits in found[part].items()
    ]
    yield Table(
        "Bits per byte",
        "Lower is better; 95 % intervals over documents. Languages and domains come before their sources.",
        ("text", "bits per byte", "95 %", "bytes", "documents"),
        rows,
    )


def _positions(groups: Mapping[str, Any]) -> Iterator[Table]:
    yield Table(
        "Loss by position",
        "Nats a token, by how many tokens of the document were read before. Documents of other lengths stand in other "
        "rows, so that a row below another says nothing of memory: the table on context does.",
        ("text", "tokens before", "nats a token", "tokens"),
        [
            [name, f"{row['from']:,}+", f"{row['nats']:.3f}", f"{row['tokens']:,}"]
            for name, group in groups.items()
            for row in group
        ],
    )


def _frequency(groups: Mapping[str, Any]) -> Iterator[Table]:
    yield Table(
        "Loss by frequency",
        "Nats a token, by how often the token stands in this text.",
        ("text", "times", "nats a token", "share of tokens"),
        [
            [name, f"{row['from']:,}+", f"{row['nats']:.3f}", f"{row['share']:.1%}"]
            for name, group in groups.items()
            for row in group
        ],
    )


def _context(groups: Mapping[str, Any]) -> Iterator[Table]:
    yield Table(
        "What context is worth",
        "The same spans of 64 tokens after so many of the tokens before them; the gain is over the shortest context.",
        ("text", "context", "nats a token", "gain", "95 %"),
        [
            [name, f"{row['tokens']:,}", f"{row['nats']:.3f}", f"{row['gain']:+.3f}", _interval(row["interval"], 3)]
            for name, group in groups.items()
            for row in group["contexts"]
        ],
    )


def _copying(found: Mapping[str, Any]) -> Iterator[Table]:
    yield Table(
        "Copying from memory",
        "Spans of 32 tokens that were read before, so many tokens ago; beside them without the first reading.",
        ("tokens between", "nats a token", "without", "gain", "95 %"),
        [
            [
                f"{row['tokens']:,}", f"{row['nats']:.3f}", f"{row['without']:.3f}", f"{row['gain']:+.3f}",
                _interval(row["interval"], 3),
            ]
            for row in found["distances"]
        ],
    )  # fmt: skip


def _pairs(languages: Mapping[str, Any]) -> Iterator[Table]:
    rows = []
    for name, found in languages.items():
        rows.append([name, *_accuracy(found)])
        rows += [[f"{name}: {each.replace('_', ' ')}", *_accuracy(row)] for each, row in found["phenomena"].items()]
    yield Table(
        "Minimal pairs",
        "How often the grammatical sentence of two is the likelier one. Chance is 50 %.",
        ("phenomenon", "right", "95 %", "pairs"),
        rows,
    )


def _accuracy(row: Mapping[str, Any]) -> list[str]:
    low, high = row["interval"]
    return [f"{row['accuracy']:.1%}", f"{low:.1%} – {high:.1%}", f"{row['pairs']:,}"]


def _writing(groups: Mapping[str, Any]) -> Iterator[Table]:
    yield Table(
        "What it writes",
        "Beginnings of held-out documents, continued; beside them what a person wrote there, as long.",
        ("text", "model", "person"),
        [
            [f"{name}: {translated(words)}", _share(group["model"].get(key)), _share(group["human"].get(key))]
            for name, group in groups.items()
            for key, words in WRITING.items()
        ],
    )


def _speed(found: Mapping[str, Any]) -> Iterator[Table]:
    rows = [
        [translated(f"reading {found['read_tokens']:,} tokens"), _rate(found["read_per_second"])],
        [translated(f"writing {found['written_tokens']:,} tokens"), _rate(found["written_per_second"])],
        *([translated(f"state after {n} tokens"), _bytes(size)] for n, size in found["state_bytes"].items()),
        [translated("most memory"), _bytes(found["peak_bytes"])],
    ]
    where = f"{found['device']}, {found['dtype']}"
    yield Table("Speed and memory", f"One text at a time; {where}. Other work slows it down.", ("what", "figure"), rows)


def _tasks(tasks: Mapping[str, Any]) -> Iterator[Table]:
    yield Table(
        "Tasks of lm-evaluation-harness",
        "Chance is what guessing among the given answers would have.",
        ("task", "metric", "value", "± error", "chance", "documents", "shots"),
        [
            [
                name, metric, f"{value['value']:.4f}", "–" if value["stderr"] is None else f"{value['stderr']:.4f}",
                "–" if task["chance"] is None or not metric.startswith("acc") else f"{task['chance']:.4f}",
                f"{task['documents']:,}", str(task["shots"]),
            ]
            for name, task in tasks.items()
            for metric, value in task["metrics"].items()
        ],
    )  # fmt: skip


def _pfgen(found: Mapping[str, Any]) -> Iterator[Table]:
    keys = ("score", "fluency", "truthfulness", "helpfulness", "length")
    yield Table(
        "pfgen-bench",
        f"By its own program; {found['questions']} questions, {found['trials']} answers to each; 1 is a person's.",
        ("what", "figure"),
        [[key, f"{found[key]:.4g}"] for key in keys],
    )


def _interval(ends: Sequence[float] | None, digits: int) -> str:
    return "–" if ends is None else f"{ends[0]:.{digits}f} – {ends[1]:.{digits}f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _bytes(size: int | None) -> str:
    if size is None:
        return translated("unknown")
    return translated(f"{size:,} bytes") if size < 10**6 else f"{size / 2**20:,.1f} MiB"


def _rate(speed: float) -> str:
    return translated(f"{speed:,.0f} tokens a second")
