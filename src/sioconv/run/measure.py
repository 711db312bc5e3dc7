"""What a model is measured on: its run's held-out text, another run's, the package's, or a text of one's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sioconv.checksums import check_sums
from sioconv.data.bundled import stem_of
from sioconv.data.config import DataConfig, SourceConfig
from sioconv.errors import UserError
from sioconv.evaluate.parts.settings import Settings
from sioconv.evaluate.subject import load_subject
from sioconv.hardware import pick_device, pick_precision
from sioconv.progress import say
from sioconv.recipe.schema import Recipe, load_recipe
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
            package's own, of which a folder's own recipe.yaml says what the model hasn't read.
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
        return _unread_data(model)
    return data_of(model if run is None else str(Path(run) / BASE))


def _unread_data(model: str) -> DataConfig:
    """The package's text; where the model's own recipe says what it learned from that, only what it hasn't read."""
    data, recipe = bundled_data(), _own_recipe(model)
    if recipe is None:
        say(
            f"nothing says what {model} learned from: measured on the package's held-out text, which it may have read; "
            "--text or --run name another"
        )
        return data
    say(f"{model}: measured on text of the package that its recipe.yaml leaves out of training; --text names another")
    read: dict[str, SourceConfig] = {}
    for part in (recipe.data, recipe.finetune.data):
        for source in part.sources.values():
            if source.origin == "bundled" and source.kind == "text":
                stem, share = stem_of(source.name), source.heldout_or(part.heldout)
                before = read.get(stem, source)
                # What a smaller share holds out, a larger one holds out too: see split_of.
                read[stem] = replace(before, heldout=min(share, before.heldout_or(share)))
    sources = {name: read.get(stem_of(source.name), source) for name, source in data.sources.items()}
    return replace(data, sources=sources)


def _own_recipe(model: str) -> Recipe | None:
    """The recipe that a published folder holds."""
    path = Path(model) / RECIPE
    try:
        return load_recipe([str(path)]) if path.is_file() else None
    except UserError:  # another program's file of that name
        return None


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
