"""`sioconv evaluate` and `sioconv report`."""

from pathlib import Path
from typing import TYPE_CHECKING

from sioconv.cli.options import device_option, json_option, model_options
from sioconv.cli.verb import OptionVerb
from sioconv.errors import UserError
from sioconv.terminal import show, show_json

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def report_options(parser: "ArgumentParser") -> None:
    """Adds the options of `report`."""
    parser.add_argument("run", type=str, help="the run's folder")
    json_option(parser, "print the summary as JSON")


def report(arguments: "Namespace") -> None:
    """Measures a run and writes its report. Raises UserError where there is no run."""
    from sioconv.recipe.schema import load_recipe

    run = Path(arguments.run)
    if not (run / "recipe.yaml").is_file():
        from sioconv.run.folder import why_no_run

        raise UserError(why_no_run(run))
    recipe = load_recipe([str(run / "recipe.yaml")])
    from sioconv.evaluate.figures import summarise
    from sioconv.run import stages

    figures = stages.report(recipe, run)
    if arguments.json:
        show_json(summarise(figures))


def evaluate_options(parser: "ArgumentParser") -> None:
    """Adds the options of `evaluate`."""
    model_options(parser)
    parser.add_argument(
        "--text", type=str | None, default=None, help="text or JSON lines; by default the held-out text of the run"
    )
    device_option(parser)
    json_option(parser)


def evaluate(arguments: "Namespace") -> None:
    """Measures a model. Raises UserError where the model or the text can't be read."""
    from sioconv.run import stages

    result = stages.evaluate(arguments.model, arguments.text, arguments.device, arguments.state)
    if arguments.json:
        show_json(result)
        return
    for name, value in result["sources"].items():
        show(f"{name}: {value['bpb']:.4f} bits per byte over {value['bytes']:,} bytes")


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
    "bits per byte of a model on text",
    "Bits per byte of a model on text.",
    "sioconv evaluate runs/demo/model --text mine.txt",
    evaluate_options,
    evaluate,
)
