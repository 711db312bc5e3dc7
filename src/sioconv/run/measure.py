"""What a model is measured on: its run's held-out text, another run's, the package's, or a text of one's own."""

from pathlib import Path
from typing import Any

from sioconv.checksums import check_sums
from sioconv.data.config import DataConfig
from sioconv.errors import UserError
from sioconv.evaluate.parts.settings import Settings
from sioconv.evaluate.subject import load_subject
from sioconv.hardware import pick_device, pick_precision
from sioconv.progress import say
from sioconv.recipe.schema import load_recipe
from sioconv.run.folder import BASE, RECIPE, check_run


def evaluate(
    model: str,
    text: str | None,
    device: str,
    state: str | None = None,
    settings: Settings | None = None,
    run: str | None = None,
    max_bytes: int | None = None,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Measures a model; see `evaluate_model`.

    Args:
        model: a model folder or a Hub id.
        text: a file of text; None takes held-out text: of `run`, else of the run that the folder belongs to, else the
            package's own.
        device: where to compute.
        state: a file of tuned initial states, from which texts are read.
        settings: what is measured; None takes the defaults.
        run: a run's folder whose held-out text is read.
        max_bytes: most bytes read from one source.
        precision: of weights and products.
    """
    from sioconv.evaluate.run import evaluate_model

    settings = settings or Settings()
    if run is not None:
        check_run(Path(run))
    where = pick_device(device)
    subject = load_subject(model, where, pick_precision(precision, where), state)
    data = DataConfig() if text is not None or not settings.needs_text else _heldout_of(model, run)
    return evaluate_model(subject, text, data, settings, max_bytes)


def _heldout_of(model: str, run: str | None) -> DataConfig:
    """The text that a model is measured on where none is given."""
    if run is None and not (Path(model).parent / RECIPE).is_file():
        say(f"{model} isn't in a run's folder: measured on the package's held-out text; --text or --run name another")
        return bundled_data()
    return data_of(model if run is None else str(Path(run) / BASE))


def data_of(model: str) -> DataConfig:
    """The text that a model folder's run learned from. Raises UserError where the folder isn't in a run's."""
    recipe = Path(model).parent / RECIPE
    check_sums(recipe.parent, RECIPE)
    if not recipe.is_file():
        raise UserError(f"no text to measure {model} on: it isn't in a run's folder: give --text FILE")
    return load_recipe([str(recipe)]).data


def bundled_data() -> DataConfig:
    """The text that ships with the package."""
    return load_recipe(["demo.yaml"]).data
