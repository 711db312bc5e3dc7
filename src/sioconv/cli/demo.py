"""`sioconv demo`."""

from typing import TYPE_CHECKING

from sioconv.cli.verb import OptionVerb

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def options(parser: "ArgumentParser") -> None:
    """Adds the verb's options."""
    parser.add_argument(
        "--minutes", type=float | None, default=None, help="minutes of training in all; the recipe says 6"
    )
    parser.add_argument("--name", type=str, default="シオ", help="what the model is called and answers to")
    parser.add_argument("--recipe", type=str, default="demo.yaml", help="the recipe that is run")


def demo(arguments: "Namespace") -> None:
    """Runs the demo."""
    from sioconv.run.demo import run_demo

    run_demo(arguments.recipe, arguments.minutes, arguments.name)


DEMO = OptionVerb(
    "demo",
    "",
    "the whole way on the bundled text, in about ten minutes",
    "Trains a small model on the bundled text, tunes it on conversations, measures it and shows it.",
    "sioconv demo --minutes 2 --name みやぎ",
    options,
    demo,
)
