"""The package's recipes load, have the sizes that they name, and say where their text comes from."""

import gzip
import json
from importlib import resources
from pathlib import Path

import pytest
import torch

from sioconv.data.batches.loader import Mixture
from sioconv.data.config import DataConfig
from sioconv.data.shards.shard_set import ShardSet
from sioconv.data.tokenizer.tokenizer import load_tokenizer
from sioconv.model import SioConvConfig, SioConvForCausalLM
from sioconv.recipe.schema import Recipe, as_values, load_recipe
from sioconv.run import stages

PACKAGED = sorted(
    file.name for file in (resources.files("sioconv.recipe") / "presets").iterdir() if file.name.endswith(".yaml")
)
ADOPTED = 45_043 + 7  # tokens of the tokenizer that ja-en-1.6b adopts, and ours
SIZES = {  # millions of parameters
    ("ja-en-25m",): (24, 26),
    ("ja-12gb",): (98, 105),
    ("ja-en-125m",): (120, 128),
    ("ja-en-1.6b",): (1_650, 1_720),
    ("ja-en-1.6b", "english-wikipedia"): (1_650, 1_720),
}


@pytest.mark.parametrize("name", PACKAGED)
def test_every_recipe_of_the_package_loads(name: str) -> None:
    load_recipe(["ja-en-1.6b", name] if name == "english-wikipedia.yaml" else [name])


@pytest.mark.parametrize("names", SIZES)
def test_sizes(names: tuple[str, ...]) -> None:
    recipe = load_recipe(names)
    vocabulary = ADOPTED if recipe.tokenizer.path else recipe.tokenizer.vocab_size
    with torch.device("meta"):
        model = SioConvForCausalLM(SioConvConfig(**as_values(recipe)["model"], vocab_size=vocabulary))
    least, most = SIZES[names]
    assert least <= sum(parameter.numel() for parameter in model.parameters()) / 1e6 <= most
    assert recipe.name == names[0] and recipe.data.sources and not recipe.finetune.data.sources


def all_sources() -> list[tuple[str, DataConfig]]:
    recipes = {name: load_recipe([name]) for name in PACKAGED if name not in ("demo.yaml", "english-wikipedia.yaml")}
    parts = [(name, data) for name, one in recipes.items() for data in (one.data, one.finetune.data)]
    return [(name, data) for name, data in parts if data.sources]


@pytest.mark.parametrize(("name", "data"), all_sources())
def test_every_source_names_its_licence_and_the_shares_are_whole(name: str, data: DataConfig) -> None:
    assert sum(source.weight for source in data.sources.values()) == pytest.approx(1), name
    for source in data.sources.values():
        assert source.licence and source.language in ("ja", "en")
        assert source.path.startswith(("hf:", "identity:"))


def test_the_model_of_the_talk() -> None:
    model = load_recipe(["ja-en-1.6b"]).model
    shape = (model.hidden_size, model.num_hidden_layers, model.num_heads, model.intermediate_size)
    assert shape == (2048, 36, 8, 4096) and model.preset == "sioconv-2024"


def test_english_without_books3() -> None:
    plain, other = load_recipe(["ja-en-1.6b"]), load_recipe(["ja-en-1.6b", "english-wikipedia"])
    assert plain.data.sources["english"].path == "hf:JeanKaddour/minipile"
    assert other.data.sources["english"].path == "hf:wikimedia/wikipedia"
    assert other.data.sources["english"].weight == plain.data.sources["english"].weight
    assert other.data.sources["wikipedia_ja"] == plain.data.sources["wikipedia_ja"]


def test_chat_goes_behind_a_recipe_or_stands_alone() -> None:
    behind = load_recipe(["ja-en-125m", "chat-ja-en"])
    assert (behind.name, behind.data) == ("ja-en-125m", load_recipe(["ja-en-125m"]).data)
    alone = load_recipe(["chat-ja-en"], ["--name=my-chat", "--finetune.from=runs/ja-en-125m/base"])
    assert alone.finetune.data == behind.finetune.data and not alone.data.sources
    assert alone.finetune.train.whole_documents


def local(tmp_path: Path) -> list[str]:
    """Overrides that put small local files in place of the sources of ja-en-25m."""
    options = []
    for name, line in (
        ("wikipedia_ja", "川は山から海へ流れる。"),
        ("aozora", "吾輩は猫である。"),
        ("english", "A river."),
    ):
        path = tmp_path / f"{name}.jsonl.gz"
        rows = [{"text": f"{number}。{line * (20 + number % 7)}"} for number in range(400)]
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        options += [f"--data.sources.{name}.path={path}", f"--data.sources.{name}.config=null"]
    return options


def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Recipe:
    monkeypatch.chdir(tmp_path)
    return load_recipe(["ja-en-25m"], [*local(tmp_path), "--data.tasks=2", *more])


def test_the_recipe_for_laptops_makes_shards_of_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = offline(tmp_path, monkeypatch)
    stages.make_data(recipe)
    tokenizer = load_tokenizer(recipe.folder / "tokenizer")
    for name in ("wikipedia_ja", "aozora", "english"):
        train = ShardSet.open(recipe.folder / "data" / name / "train")
        heldout = ShardSet.open(recipe.folder / "data" / name / "heldout")
        assert train.documents_total + heldout.documents_total == 400
        assert tokenizer.decode(train.document(0)[0][1:4]).startswith("0。")
    windows, _ = stages.open_windows(recipe, recipe.data, recipe.train)
    assert isinstance(windows, Mixture)
    assert windows.counts(100) == {"wikipedia_ja": 55, "aozora": 20, "english": 25}


@pytest.mark.slow
def test_the_recipe_for_laptops_trains_on_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = ("--train.minutes=null", "--train.tokens=4096", "--train.sequence_length=64", "--train.sample_tokens=4")
    folder = stages.pretrain(offline(tmp_path, monkeypatch, *budget))
    assert (folder / "model.safetensors").is_file()
