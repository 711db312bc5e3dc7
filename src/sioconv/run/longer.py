"""A finished stage goes on: `sioconv pretrain RUN --train.minutes +30`.

The budget becomes a longer one, and training starts again from the last checkpoint that the fall of the learning rate
hasn't touched. Nothing but this file knows of it: what follows is a stage that was stopped and is resumed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sioconv.checksums import summed
from sioconv.errors import UserError
from sioconv.files import remove
from sioconv.progress import say
from sioconv.recipe.files import find_recipe, read_yaml
from sioconv.recipe.schema import Recipe, load_recipe, save_recipe
from sioconv.run.folder import BASE, CHECKPOINTS, MODEL, RECIPE, UNFINISHED, made_by, note_made, why_no_run
from sioconv.train.budget import PLAN, Budget, read_budget, write_budget
from sioconv.train.checkpoint import budget_in, checkpoints, is_whole, seconds_per_step, step_of
from sioconv.train.config import TrainConfig
from sioconv.train.optimizer import learning_rate, steps_before_fall

UNITS = ("minutes", "tokens")


@dataclass(frozen=True)
class More:
    """How much longer a stage shall train.

    Args:
        amount: minutes or tokens; 0 goes on with what was asked for before.
        unit: minutes or tokens.
    """

    amount: float = 0.0
    unit: str = "minutes"

    def __str__(self) -> str:
        return f"+{self.amount:,g} {self.unit}"


def take_more(stage: str, arguments: Sequence[str]) -> tuple[More | None, list[str]]:
    """What `--train.minutes +30` or `--train.tokens +1e6` asks for, and the other arguments.

    Raises UserError for what is no amount, for two of them, and for the other stage's.
    """
    own = "train" if stage == "pretrain" else "finetune.train"
    found, rest, words = list[More](), list[str](), list(arguments)
    while words:
        word = words.pop(0)
        key, equals, value = word.partition("=")
        part, _, unit = key.removeprefix("--").rpartition(".")
        if not equals and words and words[0].startswith("+"):
            value = words[0]
        if part not in ("train", "finetune.train") or unit not in UNITS or not value.startswith("+"):
            rest.append(word)
            continue
        if not equals:
            del words[0]
        if part != own:
            raise UserError(f"{key}: {stage} can make its own training longer: write --{own}.{unit} {value}")
        found.append(More(_amount(key, value), unit))
    if len(found) > 1:
        raise UserError(f"--{own}: two amounts of training are added: give one of minutes and tokens, once")
    return (found[0] if found else None), rest


def _amount(key: str, value: str) -> float:
    try:
        amount = float(value.replace("_", ""))
    except ValueError:
        amount = math.nan
    if not 0 < amount < 1e18:
        raise UserError(f"{key}: {value!r} is no amount to add: write a number behind the +, such as +30")
    return amount


def find_run(name: str, more: bool) -> Path | None:
    """The run that a verb's first word names: its folder, or its name under runs/; None where it names a recipe.

    Raises UserError where training shall be made longer (`more`) and there is no such run.
    """
    for path in (Path(name), Path("runs") / name):
        if (path / RECIPE).is_file() and (more or path == Path(name) or not _is_recipe(name)):
            return path
    if more or Path(name).is_dir():
        raise UserError(why_no_run(Path(name)))
    return None


def _is_recipe(name: str) -> bool:
    try:
        find_recipe(name)
    except UserError:
        return False
    return True


def recipe_of(run: Path, stage: str, files: Sequence[str], overrides: Sequence[str]) -> Recipe:
    """The recipe of a run, with more recipes and overrides on top.

    With another name, `finetune` starts from the run's base, whose text isn't prepared again.

    Raises UserError for a run that isn't one of the folder `runs` in this one, and as `load_recipe` does.
    """
    recipe = load_recipe([str(run / RECIPE), *files], overrides)
    if recipe.name == read_yaml(run / RECIPE, Recipe).get("name") and run.resolve() != recipe.folder.resolve():
        recipe.name = run.resolve().name  # the folder was renamed
        if run.resolve() != recipe.folder.resolve():
            raise UserError(f"{run} isn't under runs/ of this folder: change to the folder that holds its runs/ first")
    elif stage == "finetune" and run.resolve() != recipe.folder.resolve():
        recipe.finetune.base = recipe.finetune.base or str(run / BASE)
        recipe.data.sources = {}
    return recipe


def go_on(recipe: Recipe, stage: str, more: More, target: str) -> Recipe:
    """Gives a finished stage a longer budget; what follows resumes it. The recipe as it is then.

    Asked again while the longer one isn't finished, it is the same longer one that goes on.

    Args:
        recipe: the run's.
        stage: pretrain or finetune.
        more: how much longer.
        target: the name of what the stage makes in the run's folder.

    Raises:
        UserError: the stage has no checkpoint, or isn't finished and something else was asked for.
    """
    run = recipe.folder
    folder = run / CHECKPOINTS / stage
    kept, budget = checkpoints(folder), read_budget(folder / PLAN)
    if budget is None or not kept:
        if not more.amount:
            return recipe
        raise UserError(f"{run} has no checkpoint of {stage} to go on from: run sioconv {stage} {run} first")
    last, made = step_of(kept[-1]), made_by(run).get(target, {}).get("stage", stage)
    if last >= budget.steps and (run / target).exists() and made == stage:
        if not more.amount:
            return recipe
        budget = _longer(recipe, stage, more, budget)
    elif more.amount and budget.longer.get("asked") != str(more):
        raise UserError(
            f"{stage} of {run} is at step {last:,} of {budget.steps:,}: run sioconv {stage} {run} to its end first"
        )
    return _settle(recipe, stage, budget, target) if budget.longer else recipe


def _train(recipe: Recipe, stage: str) -> TrainConfig:
    return recipe.train if stage == "pretrain" else recipe.finetune.train


def _longer(recipe: Recipe, stage: str, more: More, budget: Budget) -> Budget:
    """The longer budget, written; says from where it goes on, and whether it is what one long run would have given."""
    config, folder = _train(recipe, stage), recipe.folder / CHECKPOINTS / stage
    per_step, kept = config.batch_size * config.sequence_length, checkpoints(folder)
    seconds = seconds_per_step(kept[-1])
    tokens = more.amount if more.unit == "tokens" else more.amount * 60 / seconds * per_step
    tokens = (config.tokens or budget.steps * per_step) + int(tokens)
    steps = tokens // per_step
    if steps <= budget.steps:
        raise UserError(f"{more} is less than a step of {stage}, which has {per_step:,} tokens: give more")
    changes: dict[str, Any] = {"tokens": tokens, "minutes": None, "warmup": _same_warmup(config, budget.steps, steps)}
    longer = replace(config, **changes)
    before = steps_before_fall(budget.steps, config)
    start = next((step_of(path) for path in reversed(kept) if step_of(path) <= before and is_whole(path)), None)
    same = start is not None and all(
        learning_rate(step, budget.steps, config) == learning_rate(step, steps, longer) for step in range(start)
    )
    start = step_of(kept[-1]) if start is None else start
    say(
        f"{stage}: {steps - budget.steps:,} steps more, {steps:,} in all; it goes on from step {start:,}: "
        f"{steps - start:,} steps, about {(steps - start) * seconds / 60:,.1f} minutes at the speed that it had"
    )
    if not same:
        say(f"{stage}: not the same as one run of {steps:,} steps: {_why(config, start, before)}")
    samples = {step: label for step, label in budget.samples.items() if step < start or not step} | {steps: "end"}
    asked: dict[str, Any] = {"asked": str(more), "train": changes, "start": start}
    budget = replace(budget, steps=steps, samples=samples, longer=asked)
    write_budget(budget, folder / PLAN)
    return budget


def _why(config: TrainConfig, start: int, before: int) -> str:
    if config.schedule == "cosine":
        return "its learning rate had fallen along another cosine"
    if start > before:
        return "no checkpoint from before the learning rate fell is kept"
    return "the learning rates of its warm-up differ by rounding"


def _same_warmup(config: TrainConfig, steps: int, longer: int) -> float:
    """The share of a longer run that warms up in the same number of steps, to the last bit where there is one."""
    wanted, share = config.warmup * steps, config.warmup * steps / longer
    near = (share, math.nextafter(share, 0.0), math.nextafter(share, 1.0))
    return next((each for each in near if each * longer == wanted), share)


def _is_of(checkpoint: Path, budget: Budget) -> bool:
    """Whether a checkpoint was written by the longer run already."""
    try:
        return bool(budget_in(checkpoint).get("longer") == budget.longer)
    except (OSError, ValueError, LookupError, AttributeError):
        return False


def _settle(recipe: Recipe, stage: str, budget: Budget, target: str) -> Recipe:
    """Brings the run's files to where the longer budget says; the same again after a crash in the middle of it."""
    run = recipe.folder
    train = replace(_train(recipe, stage), **budget.longer["train"])
    settled = replace(recipe, train=train) if stage == "pretrain" else replace(
        recipe, finetune=replace(recipe.finetune, train=train)
    )  # fmt: skip
    with summed(run / RECIPE):
        save_recipe(settled, run / RECIPE)
    made = made_by(run)
    # What is there stays until the longer one is done. That its recipe is another one is known by now.
    for name in {target, MODEL} if made.get(MODEL, {}).get("stage") == stage else {target}:
        if (run / name).exists():
            note_made(run, name, stage + UNFINISHED, {}, {})
    for path in checkpoints(run / CHECKPOINTS / stage):
        if step_of(path) > budget.longer["start"] and not _is_of(path, budget):
            remove(path)
    return settled
