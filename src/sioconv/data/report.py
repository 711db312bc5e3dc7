"""The account of a source's rows: read, left out and kept, as numbers (`statistics.json`) and a page (`report.md`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sioconv.checksums import read_sealed, write_sealed
from sioconv.data.tally import REASONS_SAID, Counted, Tally, as_json, examples_of
from sioconv.errors import UserError
from sioconv.files import atomic_write
from sioconv.language import translated
from sioconv.terminal import one_line

STATISTICS, REPORT = "statistics.json", "report.md"
TITLES = {
    "read": "Reading",
    "length": "Length",
    "repetition": "Repetition",
    "quality": "Quality",
    "decontaminate": "Overlap with evaluation text",
    "duplicates": "Exact duplicates",
    "near_duplicates": "Near-duplicates",
}


def account_of(
    name: str,
    tallies: Sequence[Tally],
    repeated_ids: Counted | None,
    documents: Mapping[str, int],
    files: Tally | None = None,
) -> dict[str, Any]:
    """The statistics of a source.

    Args:
        name: the source's name.
        tallies: of reading, then of each step.
        repeated_ids: documents whose id has come before; None where ids aren't looked at.
        documents: documents that became shards, by split.
        files: what was found where the source is, and isn't read.
    """
    return {
        "source": name,
        "rows": tallies[0].seen,
        "bad_rows": tallies[0].bad,
        "steps": [as_json(tally) for tally in tallies],
        "repeated_ids": None if repeated_ids is None else asdict(repeated_ids),
        "documents": dict(documents),
        "files_left_out": as_json(files or Tally("files"))["left_out"],
    }


def write_account(out: Path, statistics: Mapping[str, Any]) -> None:
    """Writes both files into the source's folder."""
    write_sealed(out / STATISTICS, statistics, indent=1)
    write_account_page(out, statistics)


def write_account_page(out: Path, statistics: Mapping[str, Any]) -> None:
    """Writes what is to be read of the statistics, unless it is there as it should be."""
    text = ("\n".join(_lines(statistics)) + "\n").encode()
    try:
        if (out / REPORT).read_bytes() == text:
            return
    except OSError:  # missing, or something else is there: writing tells
        pass
    with atomic_write(out / REPORT) as temporary:
        temporary.write_bytes(text)


def read_statistics(out: Path) -> dict[str, Any] | None:
    """What `write_account` has written; None where there is nothing, or nothing that can be read."""
    try:
        return read_sealed(out / STATISTICS)
    except (OSError, ValueError):
        return None


def refuse_bad_rows(statistics: Mapping[str, Any], strict: bool, most: float) -> None:
    """Raises UserError where a source has more unusable rows than it may."""
    rows, bad, name = statistics["rows"], statistics["bad_rows"], statistics["source"]
    if bad == 0 or (bad <= most * rows and not strict):
        return
    example = first_bad(statistics)
    advice = "mend them, or leave out --strict" if strict else "mend them, or raise data.max_bad_rows"
    raise UserError(f"bad rows in {name}: {bad:,} of {rows:,} can't be used, such as {example}: {advice}")


def first_bad(statistics: Mapping[str, Any]) -> str:
    """File, line and problem of the first row that can't be used, as far as there are examples."""
    reading = statistics["steps"][0]["left_out"].values()
    examples = [example for counted in reading for example in counted["examples"] if example[1]]
    return ": ".join(examples[0]) if examples else "?"


def why_nothing_is_left(statistics: Mapping[str, Any]) -> str:
    """Why no document became training text, and what to do."""
    if statistics["documents"]["heldout"]:
        return "all of it is held out: add text or lower data.heldout"
    largest = max(statistics["steps"], key=lambda step: sum(part["count"] for part in step["left_out"].values()))
    if not largest["left_out"]:
        return "there is nothing in it: add text"
    if largest["name"] == "read":
        return f"none of its {statistics['rows']:,} rows can be used: {_of_each_reason(largest['left_out'])}: mend them"
    # What a step of the cleaning shows beside a place is the text, not the reason.
    reasons = ", ".join(f"{reason} ({counted['count']:,})" for reason, counted in largest["left_out"].items())
    return f"the step {largest['name']} left out the most: {reasons}: change its settings"


def _of_each_reason(left_out: Mapping[str, Mapping[str, Any]]) -> str:
    return examples_of({reason: Counted(**values) for reason, values in left_out.items()})


def summary(statistics: Mapping[str, Any], out: Path) -> str | None:
    """One line on what was kept and what wasn't; None where there is nothing to say."""
    kept, ids = sum(statistics["documents"].values()), statistics["repeated_ids"]
    beside = statistics["steps"][0].get("beside")
    if kept == statistics["rows"] and not (ids and ids["count"]) and not statistics["files_left_out"] and not beside:
        return None
    line = translated(f"data {statistics['source']}: {kept:,} of {statistics['rows']:,} rows became documents")
    if bad := statistics["bad_rows"]:
        line += translated(f"; {bad:,} can't be used, such as {first_bad(statistics)}")
    if ids and ids["count"]:
        line += translated(f"; {ids['count']:,} have an id that came before")
    if files := statistics["files_left_out"]:
        line += translated(f"; files left out: {_of_each_reason(files)}")
    if beside:
        names = sorted(beside, key=lambda name: -beside[name]["count"])
        said = ", ".join(f"{one_line(name)} ({beside[name]['count']:,} rows)" for name in names[:REASONS_SAID])
        said += f" and {len(names) - REASONS_SAID} more" * (len(names) > REASONS_SAID)
        line += translated(
            f"; text beside the turns isn't learned: {said}: put it into a turn, or name it in ignore_columns"
        )
    return f"{line} → {out / REPORT}"


def side_without_documents(statistics: Mapping[str, Any], heldout: float) -> str | None:
    """A line for a source of which nothing is held out although something should be; None for others."""
    documents = statistics["documents"]
    if not heldout or documents["heldout"]:
        return None
    return (
        f"data {statistics['source']}: none of its {documents['train']:,} documents is held out (data.heldout is "
        f"{heldout:g}), so nothing is measured on it: add text or raise data.heldout"
    )


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {values['source']}\n"
    yield "| step | came in | left out | share |\n|---|---:|---:|---:|"
    for step in values["steps"]:
        count = sum(counted["count"] for counted in step["left_out"].values())
        share = f"{count / step['seen']:.2%}" if step["seen"] else "–"
        yield f"| {TITLES[step['name']]} | {step['seen']:,} | {count:,} | {share} |"
    yield "\n" + ", ".join(f"{count:,} documents in {split}" for split, count in values["documents"].items()) + "."
    if left_out := values.get("files_left_out"):  # which statistics of older versions don't have
        yield "\n## Files that aren't read"
        yield from _reasons(left_out)
    for step in values["steps"]:
        if step["left_out"]:
            yield f"\n## {TITLES[step['name']]}"
            yield from _reasons(step["left_out"])
    if parts := values["steps"][0].get("parts"):
        yield "\n## Parts left out of documents that are kept"
        yield from _reasons(parts)
    if beside := values["steps"][0].get("beside"):
        yield "\n## Text beside the turns, which isn't learned"
        yield from _reasons(beside)
    if values["repeated_ids"] and values["repeated_ids"]["count"]:
        yield "\n## Ids that came before"
        yield "\nThe documents are kept."
        yield from _reasons({"repeated id": values["repeated_ids"]})


def _reasons(left_out: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for reason, counted in sorted(left_out.items(), key=lambda item: -item[1]["count"]):
        yield f"\n{counted['count']:,} × {one_line(reason)}\n"
        for where, what in counted["examples"]:
            said = one_line(" ".join(what.split())).replace("`", "'")
            yield f"- `{one_line(where)}`" + (f": {said}" if said else "")
