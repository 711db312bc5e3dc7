"""Which tools accept the model? `python -m tests.compat --help`.

Every row is a real check: results of a tool are compared with those of plain forward passes, or a known value. It ends
with 1 if a row is no, with 2 if a package for a row isn't installed, else with 0.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sioconv.files import atomic_write
from sioconv.hardware import describe_machine, describe_versions
from sioconv.progress import say

DEMO = Path("runs/demo/model")
TOOLS = ("accelerate", "trl", "peft", "lm_eval", "fastapi", "openai")
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.compat",
        description="Which tools accept the model: a table of yes and no, each by a check that compares results.",
        epilog="example: python -m tests.compat --model runs/demo/model --json compat.json",
    )
    parser.add_argument(
        "--model", type=Path, help=f"a model folder (default: {DEMO} if it is there, else a random one)"
    )
    parser.add_argument("--json", type=Path, help="also write the results into this file")
    parser.add_argument("--only", nargs="+", default=[], help="only rows whose tool or name has one of these words")
    options = parser.parse_args(words)
    if options.model is not None and not (options.model / "config.json").is_file():
        parser.error(f"--model is {options.model}: no config.json there: give a model folder")
    return options


@contextlib.contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Sends what this process and its libraries write on the terminal to a file."""
    with log.open("ab") as file:
        kept = [(stream, os.dup(stream)) for stream in (1, 2)]
        sys.stdout.flush()
        for stream, _ in kept:
            os.dup2(file.fileno(), stream)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, copy in kept:
                os.dup2(copy, stream)
                os.close(copy)


def _check(row: Any, subject: Any, log: Path) -> dict[str, Any]:
    """The line of a row: result, what was measured or what went wrong, seconds."""
    start, error = time.monotonic(), ""
    if row.missing:
        result, detail = "not installed", f"{', '.join(row.missing)}: pip install 'sioconv[{row.extra}]'"
    else:
        try:
            with _quiet(log):
                result, detail = "yes", row.run(subject)
        except Exception as problem:  # whatever a tool raises is its answer
            result, detail = "no", f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
            error = traceback.format_exc()
    seconds = round(time.monotonic() - start, 1)
    return {
        "tool": row.group,
        "row": row.name,
        "result": result,
        "detail": detail,
        "seconds": seconds,
        "traceback": error,
    }


def _table(lines: list[dict[str, Any]], model: str, versions: dict[str, str]) -> Table:
    """The lines with their colours; the versions below."""
    caption = ", ".join(f"{name} {number}" for name, number in versions.items())
    table = Table(title=f"{model}", caption=caption, title_justify="left", caption_justify="left")
    for name in ("tool", "row", "works", "measured", "seconds"):
        table.add_column(name, justify="right" if name == "seconds" else "left", no_wrap=name == "works")
    colours = {"yes": "[green]yes", "no": "[red]no", "not installed": "[yellow]not installed"}
    for line in lines:
        detail = line["detail"].replace("[", r"\[")
        table.add_row(line["tool"], line["row"], colours[line["result"]], detail, f"{line['seconds']:.1f}")
    return table


def main(words: list[str] | None = None) -> int:
    """Runs the rows and prints the table; 1 if one is no, 2 if one can't run, else 0."""
    options = _arguments(words)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # Read by these libraries when they are imported.
    from tests.compat.rows import ROWS
    from tests.compat.subject import Subject, random_folder

    chosen = [
        row for row in ROWS if not options.only or any(word in f"{row.group} {row.name}" for word in options.only)
    ]
    if not chosen:
        say(f"--only {' '.join(options.only)}: no row has one of these words in its tool or name")
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        scratch, log = Path(temporary), Path(temporary) / "log"
        model = options.model or (DEMO if DEMO.is_dir() else None)
        with _quiet(log):
            folder = random_folder(scratch / "random", conv_width=2) if model is None else model.resolve()
        lines = []
        for i, row in enumerate(chosen):
            place = scratch / f"row{i}"
            place.mkdir()
            lines.append(_check(row, Subject(folder, place), log))
            say(f"{i + 1}/{len(chosen)} {row.group}, {row.name}: {lines[-1]['result']} ({lines[-1]['seconds']} s)")
    versions = describe_versions()
    for tool in TOOLS:
        with contextlib.suppress(PackageNotFoundError):
            versions[tool] = version(tool)
    name = "a random model" if model is None else str(model)
    Console(width=None if sys.stdout.isatty() else 200).print(_table(lines, name, versions))
    for line in lines:
        if line["traceback"]:
            say(f"{line['tool']}, {line['row']}:\n{line['traceback']}")
    if options.json is not None:
        found = {"model": name, "machine": describe_machine(), "versions": versions, "rows": lines}
        with atomic_write(options.json) as file:
            file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    results = {line["result"] for line in lines}
    return 1 if "no" in results else 2 if "not installed" in results else 0


if __name__ == "__main__":
    sys.exit(main())
