"""`sioconv compare`: several runs, measured on the held-out text of the first, on one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sioconv.checksums import check_sums
from sioconv.data.config import DataConfig
from sioconv.errors import UserError
from sioconv.evaluate.comparison.figures import Measured, RunFigures, accuracies, bits_beside, measure_run
from sioconv.evaluate.comparison.page import KIND, Doubt, write_comparison
from sioconv.evaluate.heldout import Texts, heldout_texts
from sioconv.evaluate.page import check_page_folder
from sioconv.evaluate.parts.pairs import check_pairs
from sioconv.evaluate.subject import load_subject
from sioconv.hardware import pick_device
from sioconv.progress import say
from sioconv.recipe.schema import Recipe, as_values, load_recipe
from sioconv.run.folder import BASE, MODEL, RECIPE, check_run
from sioconv.train.metrics import METRICS, SAMPLES, read_jsonl

NOT_SETTINGS = ("name", "finetune", "evaluate")  # parts of a recipe that pretraining doesn't depend on


def compare(
    folders: Sequence[str], out: Path, max_bytes: int | None = 200_000, pairs: int = 100, seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """Measures the pretrained models of runs on common text, and writes the page.

    Args:
        folders: of the runs; the first one's held-out text is read, and the others are compared with it.
        out: the page's folder.
        max_bytes: most bytes read from one source; None takes all.
        pairs: minimal pairs of each phenomenon.
        seed: of what is drawn.
        device: where to compute.

    Returns:
        The content of comparison.json.

    Raises:
        UserError: fewer than two runs, a run named twice, no run or no model in a folder, no held-out text, or a folder
            `out` that can't be written.
    """
    check_page_folder(out, KIND)
    runs = [Path(folder) for folder in folders]
    different = len({run.resolve() for run in runs})
    if different < 2 or different < len(runs):
        raise UserError(f"compare: {different} different runs are named: name two or more, each once")
    check_pairs(pairs, seed)
    recipes = [_recipe(run) for run in runs]
    models = [_model(run) for run in runs]
    texts = heldout_texts(recipes[0].data, max_bytes)
    if not any(texts.values()):
        raise UserError(f"no held-out text: the sources of {runs[0]} hold nothing out: name another run first")
    names = _names(runs, recipes)
    doubts = _doubts(names, recipes)
    for doubt in doubts:
        say(f"warning: {doubt.said(names[0])}")
    measured = []
    for name, model in zip(names, models, strict=True):
        say(f"compare: {name} ({model})")
        measured.append(_measured(model, recipes[0].data, texts, pairs, seed, device))
    settings = differences([as_values(recipe) for recipe in recipes])
    figures = [_figures(names[i], settings[i], runs[i], each, measured[0], seed) for i, each in enumerate(measured)]
    return write_comparison(out, figures, doubts)


def _recipe(run: Path) -> Recipe:
    check_run(run)
    check_sums(run, RECIPE)
    return load_recipe([str(run / RECIPE)])


def _model(run: Path) -> Path:
    """The pretrained model; where a run has only been tuned, that one."""
    for name in (BASE, MODEL):
        if (run / name / "config.json").is_file():
            return run / name
    raise UserError(f"no model in {run} yet: run sioconv pretrain for it first")


def _names(runs: Sequence[Path], recipes: Sequence[Recipe]) -> list[str]:
    """The runs' names; of runs of one name, as much of the end of their paths as tells them apart."""
    names = [recipe.name for recipe in recipes]
    paths = [run.resolve() for run in runs]
    return [
        name if names.count(name) == 1 else _tail(path, [other for other in paths if other != path])
        for name, path in zip(names, paths, strict=True)
    ]


def _tail(path: Path, others: Sequence[Path]) -> str:
    for count in range(1, len(path.parts)):
        if all(other.parts[-count:] != path.parts[-count:] for other in others):
            return "/".join(path.parts[-count:])
    return str(path)


def _doubts(names: Sequence[str], recipes: Sequence[Recipe]) -> list[Doubt]:
    """What makes the figures less comparable than they look."""
    found: list[Doubt] = []
    alone: set[str] = set()  # what another run hasn't read and the first has
    first = recipes[0].data
    asked = {source.path: source.heldout for source in first.sources.values()}
    for name, recipe in zip(names[1:], recipes[1:], strict=True):
        read = {source.path: source.heldout for source in recipe.data.sources.values()}
        others = any(path in read and read[path] != held for path, held in asked.items())
        if recipe.data.heldout != first.heldout or others:
            found.append(Doubt("other_heldout", name))
        elif more := sorted(read.keys() - asked.keys()):
            found.append(Doubt("more_text", name, ", ".join(more)))
        alone.update(asked.keys() - read.keys())
    return [Doubt("more_text", names[0], ", ".join(sorted(alone))), *found] if alone else found


def _measured(model: Path, data: DataConfig, texts: Texts, pairs: int, seed: int, device: str) -> Measured:
    return measure_run(load_subject(str(model), pick_device(device)), data, texts, pairs, seed)


def _figures(
    name: str, settings: Mapping[str, str], run: Path, own: Measured, first: Measured, seed: int
) -> RunFigures:
    metrics = [row for row in read_jsonl(run / METRICS) if row["stage"] == "pretrain"]
    samples = [row for row in read_jsonl(run / SAMPLES) if row["stage"] == "pretrain"]
    return RunFigures(
        name=name,
        settings=settings,
        parameters=own.parameters,
        bits=bits_beside(own.losses, first.losses, seed),
        pairs=accuracies(own.pairs),
        timescales=own.timescales,
        metrics=metrics,
        samples={row["prompt"]: row["text"] for row in samples},  # the last one of each prompt
    )


def differences(recipes: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Of each recipe's values the keys, dotted, in which they aren't all the same, and what stands there.

    Of a source that not all of them have only the weight is told.
    """
    flat = [dict(_leaves({key: value for key, value in each.items() if key not in NOT_SETTINGS})) for each in recipes]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    other = [
        key
        for key in keys
        if len({each.get(key, "–") for each in flat}) > 1
        and (not key.startswith("data.sources.") or key.endswith(".weight") or all(key in each for each in flat))
    ]
    return [{key: each.get(key, "–") for key in other} for each in flat]


def _leaves(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{before}{key}.")
        else:
            found.append((before + key, "–" if value is None else str(value)))
    return found
