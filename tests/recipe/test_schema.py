"""Recipes: files and overrides to dataclasses, and everything that is refused on the way."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sioconv.data.config import LEAST_VOCABULARY, SourceConfig
from sioconv.data.tokenizer.tokenizer import BYTES, SPECIAL_TOKENS
from sioconv.errors import UserError
from sioconv.files import UNSHOWN
from sioconv.model.architecture import BEST_PRESET, PRESETS
from sioconv.plan.size import derive
from sioconv.recipe.schema import (
    Recipe,
    as_values,
    load_recipe,
    not_from_size,
    recipe_parser,
    save_recipe,
    saved_values,
)

BASIC = "data: {sources: {rivers: {path: rivers.jsonl}}}\ntrain: {tokens: 4096}\n"


@pytest.fixture
def basic(tmp_path: Path) -> str:
    path = tmp_path / "basic.yaml"
    path.write_text(BASIC, encoding="utf-8")
    return str(path)


def refusal(files: list[str], *overrides: str) -> str:
    with pytest.raises(UserError) as refused:
        load_recipe(files, overrides)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_what_is_not_given_has_its_default(basic: str) -> None:
    recipe = load_recipe([basic])
    assert recipe.data.sources == {"rivers": SourceConfig("rivers.jsonl")}
    assert recipe.train.tokens == 4096
    assert recipe.train.lr == Recipe().train.lr
    assert recipe.folder == Path("runs/run")


def test_files_merge_left_to_right_and_overrides_come_last(basic: str, tmp_path: Path) -> None:
    second = tmp_path / "second.yaml"
    second.write_text("name: second\nseed: 2\ntrain: {lr: 1.0e-2}\ndata: {sources: {hills: {path: b, weight: 3}}}\n")
    third = tmp_path / "third.yaml"
    third.write_text("name: third\ndata: {sources: {hills: {weight: 4}}}\n")
    recipe = load_recipe([basic, str(second), str(third)], ["--seed", "5", "--data.sources.rivers.weight=2"])
    assert (recipe.name, recipe.seed, recipe.train.lr, recipe.train.tokens) == ("third", 5, 1e-2, 4096)
    assert {name: source.weight for name, source in recipe.data.sources.items()} == {"rivers": 2.0, "hills": 4.0}


def test_size_fills_in_what_is_not_said(basic: str) -> None:
    derived = derive(5 * 10**6, 4096, 128, tokens=4096)
    recipe = load_recipe([basic], ["--size=5m", "--tokenizer.vocab_size=4096", "--train.sequence_length=128"])
    assert (recipe.model.hidden_size, recipe.train.lr) == (derived["model"]["hidden_size"], derived["train"]["lr"])
    assert recipe.train.tokens == 4096  # the file says so
    said = ["--size=5m", "--model.hidden_size=512", "--train.lr=1e-4", "--train.tokens=null", "--train.minutes=3"]
    recipe = load_recipe([basic], said)
    assert (recipe.model.hidden_size, recipe.train.lr, recipe.train.tokens) == (512, 1e-4, None)
    assert recipe.finetune.train == Recipe().finetune.train


def test_what_a_recipe_says_against_its_size_is_known(basic: str, tmp_path: Path) -> None:
    assert not_from_size(load_recipe([basic], ["--size=25m"])) == []
    assert not_from_size(load_recipe([basic], ["--model.hidden_size=512"])) == []  # no size
    recipe = load_recipe([basic], ["--size=25m", "--model.hidden_size=320", "--model.num_heads=4"])
    assert not_from_size(recipe) == ["hidden_size", "num_heads"]
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert not_from_size(load_recipe([str(tmp_path / "saved.yaml")])) == ["hidden_size", "num_heads"]


def test_a_recipe_with_a_size_comes_back_as_it_was(basic: str, tmp_path: Path) -> None:
    recipe = load_recipe([basic], ["--size=25m"])
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe([str(tmp_path / "saved.yaml")]) == recipe


def test_only_tuning_trains_initial_states_alone(basic: str) -> None:
    assert load_recipe([basic], ["--finetune.train.only=initial_state"]).finetune.train.only == "initial_state"
    assert "train.only: pretraining trains all weights" in refusal([basic], "--train.only=initial_state")
    assert "finetune.train.only" in refusal([basic], "--finetune.train.only=head")
    assert load_recipe([basic], ["--train.start=counts"]).train.start == "counts"
    assert "finetune.train.start: tuning starts from" in refusal([basic], "--finetune.train.start=counts")
    assert "tie_word_embeddings" in refusal([basic], "--train.start=counts", "--model.tie_word_embeddings=true")


def test_a_saved_recipe_has_the_defaults_of_keys_that_are_newer(basic: str, tmp_path: Path) -> None:
    recipe, path = load_recipe([basic], ["--train.lr=1e-4"]), tmp_path / "saved.yaml"
    save_recipe(recipe, path)
    assert saved_values(path) == as_values(recipe)
    older = re.sub(r"^ *only: all\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    path.write_text(f"{older}gone: 1\n", encoding="utf-8")
    assert saved_values(path) == as_values(recipe) | {"gone": 1}


@pytest.mark.parametrize("size", ["25", "25x", "[1]", "3"])
def test_a_size_that_is_none_is_refused(basic: str, size: str) -> None:
    assert "size" in refusal([basic], f"--size={size}")


def test_overrides_in_both_forms(basic: str) -> None:
    recipe = load_recipe(
        [basic],
        [
            "--train.lr",
            "1e-3",
            "--train.sample_prompts=[川, 'The ']",
            "--model.embedding_max_norm=null",
            "--name",
            "山",
        ],
    )
    assert recipe.train.lr == 1e-3
    assert recipe.train.sample_prompts == ["川", "The "]
    assert recipe.model.embedding_max_norm is None
    assert recipe.name == "山"


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_fills_in_what_is_not_given(basic: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(PRESETS, name, {"z_gain": 0.5, "conv_width": 3})
    recipe = load_recipe([basic], ["--model.preset", name, "--model.conv_width", "4"])
    assert (recipe.model.preset, recipe.model.z_gain, recipe.model.conv_width) == (name, 0.5, 4)


def test_the_default_preset_fills_in_too(basic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, BEST_PRESET, {"z_gain": 0.25})
    assert load_recipe([basic]).model.z_gain == 0.25


@pytest.mark.parametrize(
    "key",
    [
        *("modle", "nmae", "base"),
        *("model.heads", "train.learning_rate", "data.source", "tokenizer.size", "evaluate.seen"),
        *("data.sources.rivers.file", "finetune.base", "finetune.model", "finetune.train.step"),
        *("finetune.data.sources.talks.file", "train.tokens.many"),
    ],
)
@pytest.mark.parametrize("value", ["1", "{}", ""])
def test_unknown_keys_are_refused_at_every_level_also_empty_ones(basic: str, key: str, value: str) -> None:
    message = refusal([basic], "--finetune.data.sources.talks.path", "x", f"--{key}={value}")
    if key == "train.tokens.many":
        assert "train.tokens" in message
    else:
        assert message.startswith(f"recipe: unknown key {key}: known here are ")


@pytest.mark.parametrize("key", ["data", "data.sources", "data.sources.rivers", "train", "train.lr", "model", "name"])
def test_known_keys_must_not_be_empty(basic: str, key: str) -> None:
    assert refusal([basic], f"--{key}=").startswith(f"recipe: {key} is empty")


@pytest.mark.parametrize("key", ["train.minutes", "finetune.from", "evaluate.heldout_bytes"])
def test_keys_that_may_be_null_may_be_empty(basic: str, key: str) -> None:
    assert load_recipe([basic], [f"--{key}="]) == load_recipe([basic])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "1.5"),
        ("seed", "one"),
        ("name", "[a]"),
        ("train", "3"),
        ("train.lr", "fast"),
        ("train.tokens", "1.5"),
        ("train.precision", "fp8"),
        ("train.sample_prompts", "text"),
        ("train.whole_documents", "perhaps"),
        ("model", "[1]"),
        ("model.preset", "[1]"),
        ("model.use_bias", "7"),
        ("data.sources", "[1]"),
        ("data.sources.rivers", "x"),
        ("data.sources.rivers.weight", "much"),
        ("data.sources.rivers.kind", "poem"),
        ("finetune", "x"),
        ("finetune.data", "3"),
        ("evaluate.questions", "many"),
    ],
)
def test_wrong_types_are_refused_and_the_key_is_named(basic: str, key: str, value: str) -> None:
    message = refusal([basic], f"--{key}", value)
    assert message.startswith("recipe: ")
    assert message.startswith(f"recipe: {key}: ") and not re.search("class|Parser|Union|config '", message)


def test_a_source_without_a_path_is_named(basic: str) -> None:
    assert refusal([basic], "--data.sources.hills.weight", "2").startswith("recipe: data.sources.hills: ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--model.num_heads", "7"], "recipe: model.num_heads: 7 does not divide hidden_size 256"),
        (["--model.preset", "lstm"], "recipe: model.preset: 'lstm' is not known: choose from "),
        (["--model.conv_width=9"], "recipe: model.conv_width: 9 "),
        (["--train.minutes=3"], "recipe: train.tokens: give exactly one of tokens and minutes"),
        (["--train.accumulation=5"], "recipe: train.accumulation: 5 does not divide batch_size 16"),
        (["--train.lr=.nan"], "recipe: train.lr: nan"),
        (["--data.heldout=1"], "recipe: data.heldout: 1"),
        (["--data.workers=0"], "recipe: data.workers: 0 is less than 1"),
        (["--finetune.data.tasks=-1"], "recipe: finetune.data.tasks: -1 is less than 1"),
        (["--data.sources.rivers.weight=-1"], "recipe: data.sources.rivers.weight: -1.0 is negative"),
        (["--data.sources.rivers.weight=.nan"], "recipe: data.sources.rivers.weight: nan is negative or not"),
        (["--data.sources.rivers.weight=0"], "recipe: data.sources: all weights are 0"),
        (["--data.sources.rivers.heldout=1"], "recipe: data.sources.rivers.heldout: 1"),
        (["--name=a/b"], "recipe: name: 'a/b' can't be a folder's name"),
        (["--name=.."], "recipe: name: '..' can't be a folder's name"),
        (["--name=a\x1b[31mb"], "recipe: name: 'a\\x1b[31mb' holds characters that can't be shown"),
        (["--name=a\u202eb"], "recipe: name: 'a\\u202eb' holds characters that can't be shown"),
        (["--data.sources.a\x1b[2J.path=x"], "recipe: data.sources: 'a\\x1b[2J' holds characters that can't be shown"),
        (["--data.sources={a/b: {path: x}}"], "recipe: data.sources: 'a/b' can't be a folder's name"),
        (["--finetune.data.sources.t.path=x"], "recipe: finetune.train.tokens: give exactly one"),
        (["--finetune.data.sources.rivers.path=x"], "recipe: finetune.data.sources.rivers: "),
        (
            ["--finetune.data.sources.rivers.path=rivers.jsonl", "--finetune.data.heldout=0.5"],
            "recipe: finetune.data.sources.rivers: ",
        ),
        (
            ["--finetune.data.sources.rivers.path=rivers.jsonl", "--finetune.data.sources.rivers.heldout=0.5"],
            "recipe: finetune.data.sources.rivers: ",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_spent(basic: str, overrides: list[str], message: str) -> None:
    assert refusal([basic], *overrides).startswith(message)


def test_a_shared_source_may_have_another_share(basic: str) -> None:
    key = "--finetune.data.sources.rivers"
    recipe = load_recipe([basic], [f"{key}.path=rivers.jsonl", f"{key}.weight=0.25", "--finetune.train.tokens=4096"])
    assert recipe.finetune.data.sources["rivers"].weight == 0.25


def test_a_stage_without_sources_needs_no_budget(tmp_path: Path) -> None:
    path = tmp_path / "tune.yaml"
    path.write_text("finetune: {from: base, data: {sources: {t: {path: x, kind: chat}}}, train: {tokens: 4096}}")
    assert load_recipe([str(path)]).finetune.base == "base"


FINITE = st.floats(min_value=1e-9, max_value=1e9)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
NAMES = TEXTS.filter(
    lambda text: (
        not (set(text) & set("/\\") or UNSHOWN.search(text) or text.startswith(".") or len(text.encode()) > 200)
    )
)
PATHS = TEXTS.filter(lambda text: "\0" not in text)
SOURCES = st.dictionaries(
    NAMES, st.fixed_dictionaries({"path": PATHS}, optional={"weight": FINITE, "licence": TEXTS}), min_size=1, max_size=2
)


@settings(max_examples=10)
@example(name="\xa0", seed=0, sources={"a\u3000": {"path": "\x85 b"}}, lr=1.0, prompts=["a\x85\nb", "\u2029", "\t"])
@given(name=NAMES, seed=st.integers(0, 2**40), sources=SOURCES, lr=FINITE, prompts=st.lists(TEXTS, max_size=3))
def test_a_saved_recipe_loads_equal(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    seed: int,
    sources: dict[str, Any],
    lr: float,
    prompts: list[str],
) -> None:
    folder = tmp_path_factory.mktemp("saved")
    values = {
        "name": name,
        "seed": seed,
        "data": {"sources": sources},
        "train": {"tokens": 4096, "lr": lr, "sample_prompts": prompts},
    }
    (folder / "first.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    recipe = load_recipe([str(folder / "first.yaml")])
    assert (recipe.name, recipe.train.lr, recipe.train.sample_prompts) == (name, lr, prompts)
    save_recipe(recipe, folder / "saved.yaml")
    assert load_recipe([str(folder / "saved.yaml")]) == recipe
    saved = yaml.safe_load((folder / "saved.yaml").read_text(encoding="utf-8"))
    assert saved == as_values(recipe)
    assert saved["finetune"]["from"] is None


def test_the_demo_loads_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(["demo.yaml"])
    assert recipe == load_recipe(["recipes/demo.yaml"])
    assert recipe.name == "demo"
    assert any(source.path.startswith("identity:") for source in recipe.finetune.data.sources.values())
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(["saved.yaml"]) == recipe


def test_help_explains_every_key() -> None:
    text = recipe_parser().format_help()
    for key in ("--name", "--finetune.from", "--train.whole_documents", "--data.heldout", "--evaluate.questions"):
        assert key in text
    assert "shares that" not in text
    assert "share of the steps over which the learning rate rises" in " ".join(text.split())


@pytest.mark.parametrize(
    "name", ["2024", "2024-12-01", "on", "no", "1e6", "0x1F", "007", "12:30:45", "#1", "1_000", "~a"]
)
def test_a_name_may_look_like_something_else(basic: str, tmp_path: Path, name: str) -> None:
    assert load_recipe([basic], ["--name", name]).name == name
    if name != "#1":  # a comment in a file
        path = tmp_path / "named.yaml"
        text = f"name: {name}\ndata: {{sources: {{{name}: {{path: {name}, licence: {name}}}}}}}\n"
        path.write_text(text, encoding="utf-8")
        recipe = load_recipe([basic, str(path)])
        assert (recipe.name, recipe.data.sources[name].path, recipe.data.sources[name].licence) == (name,) * 3
        save_recipe(recipe, tmp_path / "saved.yaml")
        assert load_recipe([str(tmp_path / "saved.yaml")]) == recipe


def test_a_whole_number_may_be_written_as_a_power_of_ten(basic: str) -> None:
    recipe = load_recipe([basic], ["--train.tokens", "1e6", "--train.lr", "1e-3", "--train.batch_size=1.6e1"])
    assert (recipe.train.tokens, recipe.train.lr, recipe.train.batch_size) == (1_000_000, 1e-3, 16)
    assert type(recipe.train.tokens) is int


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--name", "あ" * 100], "recipe: name: 'あああ"),
        (["--name", '"a\\0b"'], "recipe: name: 'a\\x00b' can't be a folder's name"),
        (["--name", '"\\ud800"'], "recipe: name: '\\ud800' is not Unicode"),
        (["--train.sample_prompts", '["\\udfff"]'], "recipe: train.sample_prompts: '\\udfff' holds half a surrogate"),
        (["--data.sources.rivers.path", '"a\\0b"'], "recipe: data.sources.rivers.path: 'a\\x00b' is no path"),
        (["--data.sources.rivers.path", '""'], "recipe: data.sources.rivers.path: '' is no path"),
        (["--seed", "-1"], "recipe: seed: -1 is negative"),
        (["--seed", "1e30"], "recipe: seed: the number is beyond 64 bits"),
        (["--seed", "0x" + "f" * 10_000], "recipe: seed: the number is beyond 64 bits"),
        (["--train.lr", "2024-13-45"], "recipe: train.lr: '2024-13-45' is not a number"),
        (["--train.device", "meta"], "recipe: train.device: 'meta' can't train"),
        (["--train.device", "cuda:99999999999999999999"], "recipe: train.device"),
        (["--train.threads", "1e9"], "recipe: train.threads: 1000000000 is not from 1 to 1024"),
        (["--train.batch_size", "1e12"], "recipe: train.batch_size: 1000000000000 is more than"),
        (["--train.sequence_length", "1e13"], "recipe: train.sequence_length: 10000000000000 is more than"),
        (["--train.timeout", "1e300"], "recipe: train.timeout: 1e+300 is more than"),
        (["--train.tokens=", "--train.minutes=1e300"], "recipe: train.minutes: 1e+300 is more than"),
        (["--train.sample_tokens", "0"], "recipe: train.sample_tokens: 0 is less than 1"),
        (["--train.validate_bytes", "-1"], "recipe: train.validate_bytes: -1 is negative"),
        (["--model.hidden_size", "1e18", "--model.num_heads", "1"], "recipe: model: 1.6e+37 parameters are more than"),
        (["--tokenizer.vocab_size", "10"], "recipe: tokenizer.vocab_size: 10 is not from 2"),
        (["--tokenizer.vocab_size", "1e10"], "recipe: tokenizer.vocab_size: 10000000000 is not from 2"),
        (["--tokenizer.sample_bytes", "0"], "recipe: tokenizer.sample_bytes: 0 is less than 1"),
        (["--tokenizer.compare", '[""]'], "recipe: tokenizer.path, compare: a name is empty"),
        (["--evaluate.heldout_bytes", "0"], "recipe: evaluate.heldout_bytes: 0 is less than 1"),
        (["--evaluate.questions", "-1"], "recipe: evaluate.questions: -1 is less than 0"),
        (["--data.tasks", "1e9"], "recipe: data.tasks: 1000000000 is more than 100,000"),
        (["--data.workers", "1e9"], "recipe: data.workers: 1000000000 is more than 1,024"),
        (["--data.cluster.memory_gb", "0"], "recipe: data.cluster.memory_gb: 0 is less than 1"),
    ],
)
def test_the_ends_of_each_range_are_known(basic: str, overrides: list[str], message: str) -> None:
    assert refusal([basic], *overrides).startswith(message)


def test_the_smallest_vocabulary_is_that_of_the_tokenizer() -> None:
    assert BYTES + len(SPECIAL_TOKENS) == LEAST_VOCABULARY


def test_a_recipe_that_names_no_preset_has_the_best_and_an_old_one_stays(basic: str, tmp_path: Path) -> None:
    recipe = load_recipe([basic])
    assert (recipe.model.preset, recipe.model.zero_out_projections) == (BEST_PRESET, True)
    older = load_recipe([basic], ["--model.preset", "sioconv"])
    assert not older.model.zero_out_projections and older.model.embedding_max_norm == 1.0
    save_recipe(older, tmp_path / "saved.yaml")
    assert load_recipe([str(tmp_path / "saved.yaml")]) == older


def test_a_run_that_was_begun_keeps_its_preset(basic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    older = load_recipe([basic], ["--model.preset", "sioconv"])
    older.folder.mkdir(parents=True)
    save_recipe(older, older.folder / "recipe.yaml")
    assert load_recipe([basic]) == older
    assert load_recipe([basic], ["--name=another"]).model.preset == BEST_PRESET
    assert load_recipe([basic], ["--model.preset", BEST_PRESET]).model.zero_out_projections
