"""`sioconv demo`: the whole way from bundled text to a model that talks, and a look at what came out."""

import math
import os
import shutil
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sioconv.data.sources.identity import check_name
from sioconv.errors import UserError
from sioconv.evaluate.figures import Minutes, ReportFigures
from sioconv.language import translated
from sioconv.progress import say
from sioconv.recipe.files import first_difference
from sioconv.recipe.schema import Recipe, as_values, load_recipe, saved_values
from sioconv.run import stages
from sioconv.run.folder import only_one
from sioconv.terminal import visible, write_out

SHOWN_ANSWERS = 8


def run_demo(recipe_name: str, minutes: float | None, name: str) -> tuple[Recipe, ReportFigures]:
    """Runs every stage of a recipe; what it was, and the figures of its report.

    Args:
        recipe_name: the recipe.
        minutes: training time of both stages together, shared out as in the recipe; None takes the recipe's.
        name: what the model is called.

    Raises:
        UserError: the recipe, its architecture, the name or the disk can't be used.
    """
    start = time.monotonic()
    recipe = adapt(load_recipe([recipe_name]), minutes, name)
    stages.only_sioconv(recipe, "demo", f"take `sioconv pretrain {recipe_name}`")
    set_aside(recipe)
    if recipe.finetune.data.sources:
        stages.finetune(recipe)  # which pretrains before
    else:
        stages.pretrain(recipe)
    installed = os.environ.get("SIOCONV_INSTALL_SECONDS")
    install = float(installed) / 60 if installed else None
    total = (time.monotonic() - start) / 60 + (install or 0.0)
    return recipe, stages.report(recipe, recipe.folder, Minutes(install=install, total=total))


def adapt(recipe: Recipe, minutes: float | None, name: str) -> Recipe:
    """The recipe with another training time and with the model's name in its identity turns.

    Raises UserError for a name that isn't one, and for a training time that isn't one or that the recipe doesn't have.
    """
    check_name(name)
    for source in recipe.finetune.data.sources.values():
        if source.origin == "identity":
            source.path = f"identity:{name}"
    if minutes is not None:
        if not 0 < minutes < math.inf:
            raise UserError(f"demo: --minutes: {minutes} is not a positive number")
        stated = (recipe.train.minutes or 0) + (recipe.finetune.train.minutes or 0)
        if not stated:
            raise UserError("demo: --minutes: the recipe gives its budgets in tokens: leave --minutes out")
        for train in (recipe.train, recipe.finetune.train):
            train.minutes = train.minutes and train.minutes * minutes / stated
    return recipe


def set_aside(recipe: Recipe, verb: str = "demo", changed: bool = False) -> None:
    """Moves a run that was made with another recipe (another time or name) to a folder of its own: nothing is lost.

    `changed` says that something else is another now, such as the files that it reads.
    """
    path = recipe.folder / "recipe.yaml"
    if not path.exists() or not (changed or first_difference(saved_values(path), as_values(recipe))):
        return
    moved = recipe.folder.with_name(f"{recipe.folder.name}-{datetime.now():%Y%m%d-%H%M%S}")
    with only_one(recipe.folder):  # not while another demo works in it
        recipe.folder.rename(moved)
    say(f"{verb}: the run made with other settings is now {moved}")


def show_results(recipe: Recipe, figures: ReportFigures) -> None:
    """Prints the table of results, continuations, answers, and what to type next."""
    console = Console(highlight=False, emoji=False)
    with console.capture() as captured:
        console.print()
        console.print(_table(figures))
        for prompt, text in figures.continuations.items():
            console.print(visible(f"{prompt}{text}"), markup=False, soft_wrap=True)
        if figures.chat is not None:
            console.print()
            for answer in [*figures.chat.seen[:SHOWN_ANSWERS], *figures.chat.unseen[: SHOWN_ANSWERS // 2]]:
                mark = "✓" if answer.right else "✗"
                asked = f"{mark} [{translated(answer.why)}] {answer.question}\n    {answer.text}"
                console.print(visible(asked), markup=False, soft_wrap=True)
        command = own_command()
        console.print()
        page = translated(f"report:    {recipe.folder / 'report' / 'index.html'}")
        console.print(visible(page), markup=False, soft_wrap=True)
        model, state = trained(recipe)
        if recipe.finetune.data.sources:
            console.print(
                visible(translated(f"talk:      {command} chat {model}{state}")), markup=False, soft_wrap=True
            )
        generate = translated(f'continue:  {command} generate {model} "宮城県("{state}')
        console.print(visible(generate), markup=False, soft_wrap=True)
    write_out(captured.get())


def own_command() -> str:
    """How this program was called, for lines that can be typed as they stand."""
    called = Path(sys.argv[0])
    if called.name != "sioconv":
        return "python -m sioconv"
    found = shutil.which("sioconv")
    return "sioconv" if found is not None and Path(found).resolve() == called.resolve() else os.path.relpath(called)


def trained(recipe: Recipe) -> tuple[Path, str]:
    """The model folder that a finished run has made, and the option that gives it the tuned states, if any."""
    if not recipe.finetune.data.sources:
        return recipe.folder / "base", ""
    tuned = stages.tuned_path(recipe)
    if recipe.finetune.train.only == "all":
        return tuned, ""
    return Path(recipe.finetune.base or recipe.folder / "base"), f" --state {tuned}"


def _table(figures: ReportFigures) -> Table:
    table = Table(title=translated("held-out text, bits per byte (lower is better)"))
    columns = ("model", "after tuning", "xz -9e, primed", "byte 7-gram")
    for heading in ("", *(translated(column) for column in columns)):
        table.add_column(heading, justify="left" if not heading else "right")
    rows: list[tuple[str, Any]] = [*figures.languages.items()]
    rows += [(name, bits) for name, bits in figures.sources.items() if bits.templated]
    for name, bits in rows:
        marks = figures.yardsticks.get(name)
        table.add_row(
            Text(visible(name)),
            f"{bits.base:.3f}",
            "" if bits.tuned is None else f"{bits.tuned:.3f}",
            "" if marks is None else f"{marks.xz_primed:.3f}",
            "" if marks is None else f"{marks.ngram7:.3f}",
        )
    speed = figures.tokens_per_second
    minutes = figures.minutes
    size, state = f"{figures.sizes.parameters:,}", f"{figures.sizes.state_bytes:,}"
    parts = [
        translated(f"{size} parameters, state of {state} bytes"),
        translated(f"{figures.tokens:,} tokens seen"),
        translated(f"{speed:,.0f} tokens/s") if speed else "",
        "" if minutes.install is None else translated(f"{minutes.install:.1f} min install"),
        "" if minutes.train is None else translated(f"{minutes.train:.1f} min training"),
        "" if minutes.total is None else translated(f"{minutes.total:.1f} min in all"),
    ]
    caption = ", ".join(part for part in parts if part)
    table.caption = caption
    return table
