"""A recipe: everything that makes a model, as one dataclass per component, read from YAML and the command line.

Several files merge left to right, then the overrides of the command line; keys that nobody knows are refused.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from sioconv.data.config import DataConfig, SourceConfig, TokenizerConfig
from sioconv.errors import UserError
from sioconv.evaluate.config import EvaluateConfig
from sioconv.files import UNSHOWN
from sioconv.model.architecture import BEST_PRESET, PRESETS, Architecture, parameter_count
from sioconv.plan.size import derive, parse_size
from sioconv.recipe.files import find_recipe, keys_of, merge, parse_overrides, read_yaml, write_yaml
from sioconv.recipe.wrong_types import in_words
from sioconv.train.config import TrainConfig

LONGEST_NAME = (
    200  # bytes: file systems take 255, and half-written folders and ones that are set aside are named longer
)
MOST_PARAMETERS = 10**18
Family = Literal["sioconv", "llama", "lstm", "mingru", "mamba2"]


@dataclass
class Finetune:
    """The second stage: the same loop on conversations, mixed with some of the first stage's text.

    Args:
        base: the model folder that it starts from (`from` in the file); null takes the run's own `base/`.
        data: the mixture of conversations and text.
        train: the stage's settings.
    """

    base: str | None = field(default=None, metadata={"key": "from"})
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass
class Recipe:
    """A whole recipe; `runs/NAME` is where everything that it makes goes.

    Args:
        name: the run's name.
        seed: of the weights and of the data's order.
        size: number of parameters, such as 25m, from which follows what the recipe doesn't say of the model's shape and
            of the learning rate, batch and tokens of pretraining; null: their defaults.
        architecture: of the pretrained model: sioconv; or llama, lstm, mingru or mamba2, as large as the SioConv model
            that `model` describes, whose options it doesn't have are ignored (docs/training.md).
    """

    name: str = "run"
    seed: int = 0
    size: str | None = None
    architecture: Family = "sioconv"
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: Architecture = field(default_factory=Architecture)
    train: TrainConfig = field(default_factory=TrainConfig)
    finetune: Finetune = field(default_factory=Finetune)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path("runs") / self.name


def recipe_parser(prog: str = "sioconv VERB RECIPE") -> ArgumentParser:
    """The parser that knows every key of a recipe, its type and its help."""
    parser = ArgumentParser(prog=prog, exit_on_error=False, default_env=False)
    parser.add_argument("--name", type=str, default="run", help="the run's name: everything goes to runs/NAME")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the data's order")
    parser.add_argument(
        "--size", type=str | None, default=None,
        help="number of parameters, such as 25m: decides the model's shape, learning rate, batch and tokens",
    )  # fmt: skip
    parser.add_argument(
        "--architecture", type=Family, default="sioconv",
        help="sioconv, or a baseline as large as the SioConv model of the recipe: llama, lstm, mingru, mamba2",
    )  # fmt: skip
    parser.add_class_arguments(TokenizerConfig, "tokenizer")
    parser.add_class_arguments(DataConfig, "data")
    parser.add_class_arguments(Architecture, "model")
    parser.add_class_arguments(TrainConfig, "train")
    parser.add_argument(
        "--finetune.from",
        type=str | None,
        default=None,
        help="model folder to start from; null: the run's base",
    )
    parser.add_class_arguments(DataConfig, "finetune.data")
    parser.add_class_arguments(TrainConfig, "finetune.train")
    parser.add_class_arguments(EvaluateConfig, "evaluate")
    return parser


def load_recipe(files: Sequence[str], overrides: Sequence[str] = ()) -> Recipe:
    """Reads, merges and checks a recipe.

    Args:
        files: YAML files, later ones win; a name that isn't a file is looked for among the recipes of the package.
        overrides: `--a.b=c` or `--a.b`, `c`, as on the command line.

    Raises:
        UserError: a file that isn't there or isn't YAML, an unknown key, a wrong type, a value that can't work.
    """
    merged: dict[str, Any] = {}
    for name in files:
        merge(merged, read_yaml(find_recipe(name), Recipe))
    merge(merged, parse_overrides(overrides, Recipe))
    check_keys(merged, Recipe, "")
    model = merged.get("model", {})
    preset = model["preset"] if "preset" in model else _preset_of_the_run(merged) or BEST_PRESET
    if isinstance(preset, str):
        merged["model"] = {**PRESETS.get(preset, {}), **model}
    if isinstance(merged.get("size"), str):
        _fill_in_size(merged)
    return build(merged)


def _preset_of_the_run(values: Mapping[str, Any]) -> str | None:
    """The family that the run of this recipe was begun with, so that it goes on; None where there is no such run."""
    name = values.get("name", Recipe.name)
    _check_name(name, "name")
    begun = Recipe(name).folder / "recipe.yaml"
    if not begun.is_file():
        return None
    preset: str | None = read_yaml(begun, Recipe).get("model", {}).get("preset")
    return preset


def _fill_in_size(values: dict[str, Any]) -> None:
    """Puts what follows from `size` under what the recipe says. A budget in minutes stands for tokens."""
    vocabulary = values.get("tokenizer", {}).get("vocab_size", TokenizerConfig.vocab_size)
    length = values.get("train", {}).get("sequence_length", TrainConfig.sequence_length)
    tokens = values.get("train", {}).get("tokens")
    if not all(isinstance(number, int) and number > 0 for number in (vocabulary, length, tokens or 1)):
        return  # refused by its own name later
    try:
        derived = derive(parse_size(values["size"]), vocabulary, length, tokens)
    except ValueError as error:
        raise UserError(f"recipe: {error}") from error
    if values.get("train", {}).get("minutes") is not None:
        del derived["train"]["tokens"]
    for part, fields in derived.items():
        values[part] = {**fields, **values.get(part, {})}


def not_from_size(recipe: Recipe) -> list[str]:
    """The fields of the model's shape in which a recipe with a `size` says another number than the size gives."""
    if not recipe.size:
        return []
    train = recipe.train
    shape = derive(parse_size(recipe.size), recipe.tokenizer.vocab_size, train.sequence_length, train.tokens)["model"]
    return [name for name, value in shape.items() if getattr(recipe.model, name) != value]


def build(values: Mapping[str, Any]) -> Recipe:
    """A recipe from nested values whose keys are known. Raises UserError for a wrong type or an impossible value."""
    for path, part in (("data", values), ("finetune.data", values.get("finetune", {}))):
        _check_sources(part.get("data", {}).get("sources"), f"{path}.sources")
    parser = recipe_parser()
    try:
        parsed = parser.instantiate(parser.parse_object(dict(values)))
    except ArgumentError as error:
        raise UserError(f"recipe: {in_words(error)}") from error
    recipe = Recipe(
        parsed.name, parsed.seed, parsed["size"], parsed.architecture, parsed.tokenizer, parsed.data, parsed.model,
        parsed.train, Finetune(parsed["finetune.from"], parsed.finetune.data, parsed.finetune.train), parsed.evaluate,
    )  # fmt: skip
    _check_name(recipe.name, "name")
    _check_shared_sources(recipe.data, recipe.finetune.data)
    _check_numbers(as_values(recipe), "")
    checks: dict[str, Architecture | DataConfig | TrainConfig | TokenizerConfig | EvaluateConfig] = {
        "tokenizer": recipe.tokenizer,
        "evaluate": recipe.evaluate,
        "model": recipe.model,
        "data": recipe.data,
        "finetune.data": recipe.finetune.data,
    }
    if recipe.data.sources:
        checks["train"] = recipe.train
    if recipe.finetune.data.sources:
        checks["finetune.train"] = recipe.finetune.train
    if recipe.train.only != "all":
        raise UserError("recipe: train.only: pretraining trains all weights: set finetune.train.only instead")
    if recipe.finetune.train.start != "random":
        raise UserError("recipe: finetune.train.start: tuning starts from a trained model: set train.start instead")
    if recipe.train.start == "counts" and (recipe.model.tie_word_embeddings or recipe.model.hidden_size < 3):
        raise UserError(
            "recipe: train.start: counts needs model.tie_word_embeddings: false and a model.hidden_size of 3 or more: "
            "set them, or train.start: random"
        )
    for key, part in checks.items():
        try:
            part.check()
        except ValueError as error:
            raise UserError(f"recipe: {key}.{error}") from error
    if recipe.seed < 0:
        raise UserError(f"recipe: seed: {recipe.seed} is negative: give 0 or more")
    if (size := parameter_count(recipe.model, recipe.tokenizer.vocab_size)) > MOST_PARAMETERS:
        raise UserError(f"recipe: model: {size:.2g} parameters are more than any machine holds: choose smaller sizes")
    return recipe


def _check_numbers(values: Any, path: str) -> None:
    """Refuses numbers that 64 bits don't hold, and characters that no file does, wherever they stand."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            _check_numbers(value, f"{path}.{key}" if path else str(key))
    elif isinstance(values, list):
        for value in values:
            _check_numbers(value, path)
    elif isinstance(values, int) and abs(values) >= 2**63:
        raise UserError(f"recipe: {path}: the number is beyond 64 bits: give a smaller one")
    elif isinstance(values, str) and not _is_utf8(values):
        raise UserError(f"recipe: {path}: {values[:100]!r} holds half a surrogate pair: write whole characters")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_name(name: Any, key: str) -> None:
    if not isinstance(name, str) or not name or set(name) & set("/\\\0") or name.startswith("."):
        raise UserError(f"recipe: {key}: {str(name)[:100]!r} can't be a folder's name: choose another")
    if not _is_utf8(name):
        raise UserError(f"recipe: {key}: {name[:100]!r} is not Unicode: choose another")
    if UNSHOWN.search(name):
        raise UserError(f"recipe: {key}: {name[:100]!r} holds characters that can't be shown: choose another")
    if (size := len(name.encode())) > LONGEST_NAME:
        raise UserError(f"recipe: {key}: {name[:20]!r}… is {size} bytes long: choose a name of up to {LONGEST_NAME}")


def _check_sources(sources: Any, path: str) -> None:
    """Refuses wrong types of a source by its name, which jsonargparse's message for all of them doesn't give."""
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_class_arguments(SourceConfig)
    for name, source in sources.items() if isinstance(sources, Mapping) else ():
        _check_name(name, path)
        try:
            parser.parse_object(source)
        except ArgumentError as error:
            words = in_words(error)
            known = words.partition(": ")[0].partition(".")[0] in {
                each.name for each in dataclasses.fields(SourceConfig)
            }
            raise UserError(f"recipe: {path}.{name}{'.' if known else ': '}{words}") from error


def _check_shared_sources(data: DataConfig, tuning: DataConfig) -> None:
    """Both stages take a source's shards from one folder: a name must mean the same in both; only shares may differ."""
    for name, source in tuning.sources.items():
        first = data.sources.get(name)
        if first is None:
            continue
        same = replace(first, weight=source.weight, templated=source.templated, heldout=source.heldout) == source
        shares = first.heldout_or(data.heldout), source.heldout_or(tuning.heldout)
        if not same or shares[0] != shares[1] or data.tasks != tuning.tasks:
            raise UserError(
                f"recipe: finetune.data.sources.{name}: data.sources.{name} is another source, heldout or tasks: "
                "make them the same, or rename one"
            )


def check_keys(values: Any, kind: Any, path: str) -> None:
    """Refuses a key that no dataclass knows, at any level and also where it is empty, which jsonargparse lets pass."""
    if typing.get_origin(kind) is dict and isinstance(values, Mapping):
        for key, value in values.items():
            if value is None:
                raise UserError(f"recipe: {path}{key} is empty: give its keys or leave it out")
            check_keys(value, typing.get_args(kind)[1], f"{path}{key}.")
    if isinstance(kind, types.UnionType):  # a part that may be left out
        kind = next((part for part in typing.get_args(kind) if dataclasses.is_dataclass(part)), kind)
    if not dataclasses.is_dataclass(kind) or values is None:
        return
    if not isinstance(values, Mapping):
        raise UserError(f"recipe: {path.rstrip('.')}: {values!r} is not a mapping of keys")
    known = keys_of(kind)
    for key, value in values.items():
        if key not in known:
            raise UserError(f"recipe: unknown key {path}{key}: known here are {', '.join(known)}")
        if value is None and not isinstance(known[key], types.UnionType):
            raise UserError(f"recipe: {path}{key} is empty: give a value or leave the key out")
        check_keys(value, known[key], f"{path}{key}.")


def as_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested values, as they stand in a file."""
    values = asdict(recipe)
    values["finetune"] = {"from": values["finetune"].pop("base"), **values["finetune"]}
    return values


def saved_values(path: Path) -> dict[str, Any]:
    """The values of a recipe that was saved, with the defaults of keys that have been added to recipes since."""
    return with_defaults(read_yaml(path, Recipe))


def with_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a recipe, with the defaults of keys that they lack, also in each of its sources."""
    values = as_values(Recipe())
    merge(values, saved)
    for data in (values["data"], values["finetune"]["data"]):
        for name, source in data["sources"].items():
            data["sources"][name] = asdict(SourceConfig(path=""))
            merge(data["sources"][name], source)
    return values


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the resolved recipe, every key given, so that reading it gives the same recipe."""
    write_yaml(as_values(recipe), path)
