"""The verbs that take a recipe: `tokenizer`, `data`, `pretrain`, `finetune`, `plan`.

Their arguments are recipe files and overrides, which `sioconv.recipe` reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sioconv.cli.verb import Verb
from sioconv.errors import UserError
from sioconv.terminal import show_json, show_lines

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from sioconv.recipe.schema import Recipe
    from sioconv.run.longer import More

STRICT = ("--data.strict=true", "--finetune.data.strict=true")


@dataclass(frozen=True)
class RecipeVerb(Verb):
    """A verb that takes recipe files and overrides."""

    def parser(self) -> "ArgumentParser":
        """A parser of the recipe's keys."""
        from sioconv.recipe.schema import recipe_parser

        return recipe_parser(f"sioconv {self.name} RECIPE [RECIPE …]")

    def recipe(self, arguments: list[str]) -> "Recipe":
        """The recipe that the arguments describe. Raises UserError for a bad recipe or key."""
        count = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
        if not count:
            raise UserError(f"no recipe: sioconv {self.name} RECIPE; the package has demo.yaml")
        from sioconv.recipe.schema import load_recipe

        return load_recipe(arguments[:count], _with_strict(arguments[count:]))


def _with_strict(overrides: list[str]) -> list[str]:
    return [part for each in overrides for part in (STRICT if each == "--strict" else (each,))]


@dataclass(frozen=True)
class StageVerb(RecipeVerb):
    """A verb that runs a stage.

    Args:
        stage: does the work; gets the recipe.
    """

    stage: Callable[["Recipe"], None]

    def call_with(self, arguments: list[str]) -> None:
        """Runs the stage. Raises UserError for a bad recipe or key."""
        self.stage(self.recipe(arguments))


@dataclass(frozen=True)
class TrainingVerb(RecipeVerb):
    """A verb that trains: with a recipe, or with a run that is there.

    Args:
        stage: does the work; gets the recipe, and how much longer a run shall train.
    """

    stage: Callable[["Recipe", "More | None"], None]

    def call_with(self, arguments: list[str]) -> None:
        """Trains. Raises UserError for a bad recipe, run or key."""
        if not arguments or arguments[0].startswith("-"):
            raise UserError(f"no recipe: sioconv {self.name} RECIPE, or RUN; the package has demo.yaml")
        if not _may_name_a_run(arguments):
            self.stage(self.recipe(arguments), None)
            return
        from sioconv.run.longer import More, find_run, recipe_of, take_more

        more, arguments = take_more(self.name, arguments)
        run = find_run(arguments[0], more is not None)
        if run is None:
            self.stage(self.recipe(arguments), None)
            return
        count = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
        recipe = recipe_of(run, self.name, arguments[1:count], _with_strict(arguments[count:]))
        self.stage(recipe, more or More())


def _may_name_a_run(arguments: list[str]) -> bool:
    """Whether a run may be named or asked to train longer; what finds that out brings torch, and a typo shouldn't."""
    name, *_ = arguments
    return (
        Path(name).is_dir()
        or (Path("runs") / name).is_dir()
        or any(word.startswith("+") or word.partition("=")[2].startswith("+") for word in arguments)
    )


@dataclass(frozen=True)
class PlanVerb(RecipeVerb):
    """`sioconv plan`: what pretraining costs. It prints figures, so unlike a stage it has --json."""

    def call_with(self, arguments: list[str]) -> None:
        """Prints the costs. Raises UserError for a bad recipe or key."""
        recipe = self.recipe([argument for argument in arguments if argument != "--json"])
        from sioconv.plan.costs import describe_costs
        from sioconv.run.stages import plan_costs, say_what_size_leaves

        say_what_size_leaves(recipe)
        costs = plan_costs(recipe)
        if "--json" in arguments:
            show_json(costs)
        else:
            show_lines(describe_costs(costs))


def make_tokenizer(recipe: "Recipe") -> None:
    """`sioconv tokenizer`."""
    from sioconv.run import stages

    stages.make_tokenizer(recipe)


def make_data(recipe: "Recipe") -> None:
    """`sioconv data`."""
    from sioconv.run import stages

    stages.make_data(recipe)


def pretrain(recipe: "Recipe", more: "More | None") -> None:
    """`sioconv pretrain`."""
    from sioconv.run import stages

    stages.pretrain(recipe, more)


def finetune(recipe: "Recipe", more: "More | None") -> None:
    """`sioconv finetune`."""
    from sioconv.run import stages

    stages.finetune(recipe, more)


RECIPE_VERBS = [
    StageVerb(
        "tokenizer",
        "RECIPE",
        "train (or adopt) a tokenizer",
        "Trains the run's tokenizer, or adopts the one that the recipe names.",
        "sioconv tokenizer demo.yaml --name mine --train.minutes 10",
        make_tokenizer,
    ),
    StageVerb(
        "data",
        "RECIPE",
        "documents → token shards",
        "Turns the recipe's sources into token shards under runs/NAME/data. Rows that can't be used are counted there\n"
        "in SOURCE/report.md; with --strict the first of them is an error.\n"
        "`sioconv data inspect DIR` shows what is in the shards.",
        "sioconv data demo.yaml --name mine --train.minutes 10",
        make_data,
    ),
    TrainingVerb(
        "pretrain",
        "RECIPE | RUN",
        "train from random weights (the same line again goes on where it stopped)",
        "Trains a model from random weights; the stages before it run first where they are missing.\n"
        "With RUN, a folder under runs/, it goes on with that run; --train.minutes +30 or --train.tokens +1e6 makes a\n"
        "finished one longer: from its last checkpoint before the learning rate fell.",
        "sioconv pretrain demo.yaml --name mine --train.minutes 10",
        pretrain,
    ),
    TrainingVerb(
        "finetune",
        "RECIPE | RUN [RECIPE …]",
        "train on conversations",
        "Trains the pretrained model on conversations; the stages before it run first where they are missing.\n"
        "With RUN, a folder under runs/, it tunes what that run has pretrained, by its own recipe with the others on\n"
        "top; with another --name in a run of its own. --finetune.train.minutes +10 makes a finished tuning longer.\n"
        "With --finetune.train.only initial_state it trains the layers' initial states alone: a persona in a file,\n"
        "runs/NAME/state.safetensors, for `--state` of generate, chat and evaluate.",
        "sioconv finetune demo.yaml --name mine --train.minutes 10",
        finetune,
    ),
    PlanVerb(
        "plan",
        "RECIPE",
        "parameters, memory and time on named GPUs, before anything is spent",
        "Parameters, operations, memory, communication and time of pretraining on 1, 8 and 64 cards; trains nothing.\n"
        "--json prints one JSON object.",
        "sioconv plan demo.yaml --train.batch_size 64 --json",
    ),
]
