"""The verbs that take a recipe: `tokenizer`, `data`, `pretrain`, `finetune`, `plan`.

Their arguments are recipe files and overrides, which `sioconv.recipe` reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sioconv.cli.verb import Verb
from sioconv.errors import UserError
from sioconv.terminal import show, show_json

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from sioconv.recipe.schema import Recipe

STRICT = ("--data.strict=true", "--finetune.data.strict=true")


@dataclass(frozen=True)
class RecipeVerb(Verb):
    """A verb that takes recipe files and overrides.

    Args:
        work: does the work; gets the recipe, and whether figures are wanted as JSON.
        prints_figures: whether it takes --json.
    """

    work: Callable[["Recipe", bool], None]
    prints_figures: bool = False

    def parser(self) -> "ArgumentParser":
        """A parser of the recipe's keys."""
        from sioconv.recipe.schema import recipe_parser

        return recipe_parser(f"sioconv {self.name} RECIPE [RECIPE …]")

    def call_with(self, arguments: list[str]) -> None:
        """Does the work for a recipe. Raises UserError for a bad recipe or key."""
        as_json = self.prints_figures and "--json" in arguments
        arguments = [argument for argument in arguments if not (as_json and argument == "--json")]
        count = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
        if not count:
            raise UserError(f"no recipe: sioconv {self.name} RECIPE; the package has demo.yaml")
        from sioconv.recipe.schema import load_recipe

        overrides = [part for each in arguments[count:] for part in (STRICT if each == "--strict" else (each,))]
        self.work(load_recipe(arguments[:count], overrides), as_json)


def _verb(
    name: str,
    summary: str,
    purpose: str,
    work: Callable[["Recipe", bool], None],
    example: str = "--name mine --train.minutes 10",
    prints_figures: bool = False,
) -> RecipeVerb:
    return RecipeVerb(
        name, "RECIPE", summary, purpose, f"sioconv {name} demo.yaml {example}", work, prints_figures,
    )  # fmt: skip


def make_tokenizer(recipe: "Recipe", as_json: bool) -> None:  # noqa: ARG001 - it prints no figures
    """`sioconv tokenizer`."""
    from sioconv.run import stages

    stages.make_tokenizer(recipe)


def make_data(recipe: "Recipe", as_json: bool) -> None:  # noqa: ARG001
    """`sioconv data`."""
    from sioconv.run import stages

    stages.make_data(recipe)


def pretrain(recipe: "Recipe", as_json: bool) -> None:  # noqa: ARG001
    """`sioconv pretrain`."""
    from sioconv.run import stages

    stages.pretrain(recipe)


def finetune(recipe: "Recipe", as_json: bool) -> None:  # noqa: ARG001
    """`sioconv finetune`."""
    from sioconv.run import stages

    stages.finetune(recipe)


def plan(recipe: "Recipe", as_json: bool) -> None:
    """`sioconv plan`: what pretraining costs."""
    from sioconv.plan.costs import describe_costs
    from sioconv.run.stages import plan_costs

    costs = plan_costs(recipe)
    if as_json:
        show_json(costs)
    else:
        show(describe_costs(costs))


RECIPE_VERBS = [
    _verb(
        "tokenizer",
        "train (or adopt) a tokenizer",
        "Trains the run's tokenizer, or adopts the one that the recipe names.",
        make_tokenizer,
    ),
    _verb(
        "data",
        "documents → token shards",
        "Turns the recipe's sources into token shards under runs/NAME/data. Rows that can't be used are counted there\n"
        "in SOURCE/report.md; with --strict the first of them is an error.\n"
        "`sioconv data inspect DIR` shows what is in the shards.",
        make_data,
    ),
    _verb(
        "pretrain",
        "train from random weights   (the same line again goes on where it stopped)",
        "Trains a model from random weights; the stages before it run first where they are missing.",
        pretrain,
    ),
    _verb(
        "finetune",
        "train on conversations",
        "Trains the pretrained model on conversations; the stages before it run first where they are missing.\n"
        "With --finetune.train.only initial_state it trains the layers' initial states alone: a persona in a file,\n"
        "runs/NAME/state.safetensors, for `--state` of generate, chat and evaluate.",
        finetune,
    ),
    _verb(
        "plan",
        "parameters, memory and time on named GPUs, before anything is spent",
        "Parameters, operations, memory, communication and time of pretraining on 1, 8 and 64 cards; trains nothing.\n"
        "--json prints one JSON object.",
        plan,
        "--train.batch_size 64 --json",
        True,
    ),
]
