"""`sioconv evaluate` and `sioconv report`."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sioconv.cli.options import device_option, json_option, model_options
from sioconv.cli.verb import OptionVerb
from sioconv.errors import UserError
from sioconv.language import translated
from sioconv.terminal import show, show_json, tell

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from sioconv.evaluate.parts.settings import Settings


def report_options(parser: "ArgumentParser") -> None:
    """Adds the options of `report`."""
    parser.add_argument("run", type=str, help="the run's folder")
    json_option(parser, "print the summary as JSON")


def report(arguments: "Namespace") -> None:
    """Measures a run and writes its report. Raises UserError where there is no run."""
    from sioconv.recipe.schema import load_recipe

    run = Path(arguments.run)
    from sioconv.run.folder import check_run

    check_run(run)
    recipe = load_recipe([str(run / "recipe.yaml")])
    from sioconv.evaluate.figures import summarise
    from sioconv.run import stages

    figures = stages.report(recipe, run)
    if arguments.json:
        show_json(summarise(figures))
    else:
        tell(f"report → {run / 'report' / 'index.html'}")


def evaluate_options(parser: "ArgumentParser") -> None:
    """Adds the options of `evaluate`."""
    from sioconv.evaluate.parts.settings import PARTS, Settings

    usual = Settings()
    add = parser.add_argument
    model_options(parser)
    add("--text", type=str | None, default=None, help="text or JSON lines; by default held-out text: of the run that "
        "MODEL belongs to, else of the package")  # fmt: skip
    add("--run", type=str | None, default=None, help="a run's folder: measure on its held-out text")
    add("--bytes", type=int | None, default=None, help="most bytes read from one source; by default all")
    add("--parts", type=str | None, default=None, help=f"what is measured: {', '.join(PARTS)}, with commas between; by "
        "default all of it, or only what --tasks and --pfgen ask for")  # fmt: skip
    add("--pairs", type=int, default=usual.pairs, help="minimal pairs of each phenomenon")
    add("--samples", type=int, default=usual.samples, help="texts that it writes")
    add("--max_new_tokens", type=int, default=usual.max_new_tokens, help="longest of them")
    add("--tasks", type=str | None, default=None, help="tasks of lm-evaluation-harness, with commas between, such as "
        "jcommonsenseqa,hellaswag")  # fmt: skip
    add("--include", type=str | None, default=None, help="a folder with tasks of your own as YAML")
    add("--limit", type=int | None, default=None, help="most documents of each task")
    add("--shots", type=int | None, default=None, help="examples before each question; by default what the task says")
    add("--pfgen", type=str | None, default=None, help="a clone of github.com/pfnet-research/pfgen-bench; its program "
        "is run")  # fmt: skip
    add("--trials", type=int, default=usual.trials, help="answers to each question of pfgen-bench")
    add("--seed", type=int, default=usual.seed, help="of all that is drawn")
    add("--report", type=str | None, default=None, help="a new folder for a page: index.html, report.md, "
        "evaluation.json")  # fmt: skip
    add("--precision", type=str, default="fp32", help="of weights and products: fp32, bf16 or fp16")
    add("--threads", type=int | None, default=None, help="CPU threads")
    device_option(parser)
    json_option(parser)


def evaluate(arguments: "Namespace") -> None:
    """Measures a model. Raises UserError where the model or the text can't be read, or a part can't be measured."""
    settings = _settings(arguments)
    page = None if arguments.report is None else Path(arguments.report)
    if arguments.bytes is not None and arguments.bytes < 1:
        raise UserError(f"bytes out of range: {arguments.bytes}: give a number from 1 up")
    if arguments.text is not None and arguments.run is not None:
        raise UserError("--text and --run name two texts: give one of them")
    if page is not None:
        from sioconv.evaluate.page import check_page_folder

        check_page_folder(page)
    from sioconv.run.measure import evaluate as measure
    from sioconv.train.config import set_threads

    set_threads(arguments.threads)

    result = measure(
        arguments.model, arguments.text, arguments.device, arguments.state, settings, arguments.run, arguments.bytes,
        arguments.precision,
    )  # fmt: skip
    if page is not None:
        from sioconv.evaluate.page import write_evaluation
        from sioconv.progress import say

        write_evaluation(page, result)
        say(f"page → {page / 'index.html'}")
    if arguments.json:
        show_json(result)
    else:
        show(_as_text(result), end="")


def _settings(arguments: "Namespace") -> "Settings":
    from sioconv.evaluate.parts.settings import PARTS, Settings

    tasks, parts = _words(arguments.tasks), _words(arguments.parts)
    alone = tasks or arguments.pfgen is not None
    if not alone and not parts and arguments.parts is not None:
        raise UserError(f"--parts names nothing: choose from {', '.join(PARTS)}")
    settings = Settings(
        parts=parts if parts or alone else PARTS, seed=arguments.seed, pairs=arguments.pairs,
        samples=arguments.samples, max_new_tokens=arguments.max_new_tokens, tasks=tasks, include=arguments.include,
        limit=arguments.limit, shots=arguments.shots, pfgen=arguments.pfgen, trials=arguments.trials,
    )  # fmt: skip
    _check_tasks(arguments, tasks)
    return settings


def _check_tasks(arguments: "Namespace", tasks: tuple[str, ...]) -> None:
    """Raises UserError where options about tasks name none, or a folder that isn't there."""
    if arguments.tasks is not None and not tasks:
        raise UserError("--tasks names nothing: give names of tasks, with commas between")
    for name in ("include", "limit", "shots"):
        if getattr(arguments, name) is not None and not tasks:
            raise UserError(f"--{name} is about --tasks, of which none are named: name some, or leave it out")
    if arguments.include is not None and not Path(arguments.include).is_dir():
        raise UserError(f"--include: no folder {arguments.include}: give the one that your tasks' YAML files are in")


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _as_text(result: dict[str, Any]) -> str:
    """The tables of a result, one below the other; as wide as the terminal, or 120 signs where there is none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sioconv.evaluate.parts.tables import tables_of

    console = Console(file=io.StringIO(), width=None if sys.stdout.isatty() else 120, color_system=None)
    console.print(Text(f"{result['model']}: " + translated(f"{result['parameters']:,} parameters")))
    for table in tables_of(result):
        shown = Table(box=None, pad_edge=False)
        for number, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if number else "left")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(Text(f"\n{table.title}. {table.note}"), shown)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


REPORT = OptionVerb(
    "report",
    "RUN",
    "measure a run and write its report",
    "Measures a run and writes its report/.",
    "sioconv report runs/demo",
    report_options,
    report,
)
EVALUATE = OptionVerb(
    "evaluate",
    "MODEL",
    "measure a model on text, grammar, memory, writing, tasks",
    "Measures a model: bits per byte, use of context, minimal pairs, copying, writing, speed; tasks where they are\n"
    "named. Any causal language model of transformers can be MODEL, and is measured in the same way.",
    "sioconv evaluate runs/demo/model --parts text,pairs",
    evaluate_options,
    evaluate,
)
