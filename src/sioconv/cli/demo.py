"""`sioconv demo`."""

from typing import TYPE_CHECKING

from sioconv.cli.options import json_option
from sioconv.cli.verb import OptionVerb
from sioconv.terminal import show_json

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    parser.add_argument(
        "--minutes", type=float | None, default=None, help="minutes of training in all; the recipe says 6"
    )
    parser.add_argument("--name", type=str, default="シオ", help="what the model is called and answers to")
    parser.add_argument("--recipe", type=str, default="demo.yaml", help="the recipe that is run")
    json_option(parser, "print the summary of the report as JSON, instead of the tables")


def demo(arguments: "Namespace") -> None:
    """Runs the demo and shows what came out. Raises UserError for what can't be used."""
    from sioconv.evaluate.figures import summarise
    from sioconv.run.demo import run_demo, show_results

    recipe, figures = run_demo(arguments.recipe, arguments.minutes, arguments.name)
    if arguments.json:
        show_json(summarise(figures))
    else:
        show_results(recipe, figures)


DEMO = OptionVerb(
    "demo",
    "",
    "the whole way on the bundled text, in about ten minutes",
    "Trains a small model on the bundled text, tunes it on conversations, measures it and shows it.",
    "sioconv demo --minutes 2 --name みやぎ",
    options,
    demo,
)
