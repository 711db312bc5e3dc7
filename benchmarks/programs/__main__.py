"""What comes of the same minutes of training with each program: `python -m benchmarks.programs --help`."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.programs import ours, with_litgpt, with_nanochat
from benchmarks.programs.process import TOLERANCE, Result, Task
from benchmarks.programs.text import HELDOUT, TRAIN, read_documents, split_documents
from sioconv.errors import UserError
from sioconv.files import atomic_write
from sioconv.hardware import describe_machine
from sioconv.progress import say

DESCRIPTION = """\
Trains with sioconv, litgpt and nanochat on the same text, on this CPU, for the same minutes, each with its own command,
and compares bits per byte on the same held-out documents. Models have about 17 M parameters and 8,192 tokens; windows
have 512 tokens, steps 8,192; what size, text and time don't fix is each program's default, or said in the JSON.

The minutes are those of training alone. litgpt and nanochat know no limit of time: a short run finds how many steps
it takes. Each also compiles its model first, which the last column but those of the bits has: the whole command.

The others have environments of their own, because they pin what we can't have; without them they are left out:

  python -m venv .litgpt
  .litgpt/bin/pip install torch==2.13.0
  .litgpt/bin/pip install litgpt==0.5.13 litdata==0.2.59
  .litgpt/bin/pip uninstall -y torchvision        (only if it was made for another torch; nothing here needs it)

  git clone https://github.com/karpathy/nanochat
  python -m venv .nanochat
  .nanochat/bin/pip install torch==2.13.0
  .nanochat/bin/pip install numpy psutil pyarrow rustbpe tiktoken requests filelock wandb==0.21.3

Both compile and need a C++ compiler. The text is train.jsonl and heldout.jsonl in the folder --text, a line
{"text": "…", "language": "ja"} a document; --documents makes the two from files of documents.
"""


def _file_of_language(text: str) -> tuple[str, Path]:
    language, _, file = text.partition("=")
    if not language.isalnum() or language == "all" or not Path(file).is_file():
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected LANGUAGE=FILE with a file that is there, as ja=text.jsonl"
        )
    return language, Path(file)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 10_000:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of minutes above 0")
    return minutes


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.programs",
        description=DESCRIPTION,
        epilog="example: python -m benchmarks.programs --text text --documents ja=ja.jsonl.gz en=en.jsonl.gz "
        "--litgpt .litgpt/bin/python --nanochat nanochat .nanochat/bin/python --json programs.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--text", type=Path, required=True, help="folder of train.jsonl and heldout.jsonl")
    parser.add_argument(
        "--documents", type=_file_of_language, nargs="+", metavar="LANGUAGE=FILE", default=[],
        help="make the two from these (JSON lines, may be .gz)",
    )  # fmt: skip
    parser.add_argument("--minutes", type=_minutes, default=5.0, help="of training (default %(default)g)")
    parser.add_argument("--litgpt", type=Path, metavar="PYTHON", help="of litgpt's environment")
    parser.add_argument("--nanochat", type=Path, nargs=2, metavar=("FOLDER", "PYTHON"), help="repository, environment")
    parser.add_argument("--work", type=Path, help="keep runs and logs in this folder, which must be new")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(words)
    for python in filter(None, (options.litgpt, (options.nanochat or [None, None])[1])):
        if not python.is_file():
            parser.error(f"{python} is not there: give the python of the environment, as .litgpt/bin/python")
    if options.nanochat and not (options.nanochat[0] / "scripts/base_train.py").is_file():
        parser.error(f"{options.nanochat[0]} has no scripts/base_train.py: give the folder of nanochat's repository")
    if options.work and options.work.exists():
        parser.error(f"--work {options.work} is there already: give the name of a new folder")
    return options


def compare(task: Task, litgpt: Path | None, nanochat: tuple[Path, Path] | None) -> tuple[list[Result], dict[str, str]]:
    """Trains with each program in turn.

    Args:
        task: what is the same for all.
        litgpt: the Python of its environment; None leaves it out.
        nanochat: its repository and the Python of its environment; None leaves it out.

    Returns:
        The results; and by name, why programs are left out.
    """
    results, left_out = [ours.measure(task)], {}
    # Not resolved: that would lead past the environment to the Python that it was made from.
    peers: dict[str, Callable[[], Result] | str] = {
        with_litgpt.NAME: "give --litgpt PYTHON",
        with_nanochat.NAME: "give --nanochat FOLDER PYTHON",
    }
    if litgpt:
        tokenizer = ours.run_folder(task) / "tokenizer"
        peers[with_litgpt.NAME] = partial(with_litgpt.measure, task, litgpt.absolute(), tokenizer)
    if nanochat:
        peers[with_nanochat.NAME] = partial(with_nanochat.measure, task, *(path.absolute() for path in nanochat))
    for name, measure in peers.items():
        try:
            if isinstance(measure, str):
                raise UserError(measure)
            results.append(measure())
        except UserError as error:  # the others' figures stay good
            left_out[name] = str(error)
            say(f"{name} is left out: {error}")
    return results, left_out


def _show(results: list[Result], minutes: float) -> None:
    table = Table(title=f"{minutes:g} minutes of training, bits per byte of held-out documents")
    table.add_column("program")
    languages = list(results[0].bits_per_byte)
    for heading in ("parameters", "tokens", "tokens/s", "minutes", "whole command", *languages):
        table.add_column(heading, justify="right")
    for result in results:
        off = abs(result.seconds / 60 / minutes - 1) > TOLERANCE
        table.add_row(
            f"{result.name} {result.versions[result.name]}",
            f"{result.parameters / 1e6:.1f} M",
            f"{result.tokens:,}",
            f"{result.tokens / result.seconds:,.0f}",
            f"{result.seconds / 60:.2f}{' (!)' if off else ''}",
            f"{result.wall_seconds / 60:.2f}",
            *(f"{result.bits_per_byte[language]:.3f}" for language in languages),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _sizes(folder: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Documents and bytes of each file and language."""
    sizes: dict[str, dict[str, dict[str, int]]] = {}
    for name in (TRAIN, HELDOUT):
        for document in read_documents(folder / name):
            row = sizes.setdefault(name, {}).setdefault(document.language or "all", {"documents": 0, "bytes": 0})
            row["documents"] += 1
            row["bytes"] += document.size
    return sizes


def main(words: list[str] | None = None) -> int:
    """Split, train, evaluate, print, write; 2 where something must be changed first."""
    options = _arguments(words)
    try:
        with ExitStack() as stack:
            if options.documents:
                split_documents(dict(options.documents), options.text)
            text: dict[str, Any] = _sizes(options.text)
            work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            task = Task(options.text.resolve(), work.resolve(), options.minutes)
            results, left_out = compare(task, options.litgpt, options.nanochat)
    except UserError as error:
        say(str(error))
        return 2
    _show(results, options.minutes)
    if options.json:
        report = {
            "machine": describe_machine(),
            "minutes": task.minutes,
            "vocabulary": task.vocabulary,
            "sequence_length": task.sequence_length,
            "tokens_per_step": task.tokens_per_step,
            "text": text,
            "programs": [asdict(result) for result in results],
            "left_out": left_out,
        }
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
