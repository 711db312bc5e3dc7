import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from sioconv.checksums import SUMS, write_sums
from sioconv.data.config import TokenizerConfig
from sioconv.data.tokenizer.tokenizer import CHAT_TEMPLATE, END_OF_TURN, load_tokenizer, train_tokenizer
from sioconv.errors import UserError
from sioconv.model import Architecture, SioConvForCausalLM, load_model_folder, save_model_folder
from sioconv.model.baselines.architectures import build_baseline

MakeModel = Callable[..., SioConvForCausalLM]
Break = Callable[[Path], object]
TinyModel = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A model folder that the test may break, as one from elsewhere: without checksums."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model", ignore=shutil.ignore_patterns(SUMS)))


def test_what_is_in_a_folder(tiny_model_folder: Path, tiny_model: TinyModel) -> None:
    tokenizer = tiny_model[1]
    assert sorted(path.name for path in tiny_model_folder.iterdir()) == [
        "SHA256SUMS",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "modeling_sioconv.py",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert {path.stat().st_mode & 0o777 for path in tiny_model_folder.iterdir()} == {0o644}
    config = json.loads((tiny_model_folder / "config.json").read_text())
    assert config["model_type"] == "sioconv" and config["dtype"] == "float32"
    generation = GenerationConfig.from_pretrained(tiny_model_folder)
    assert generation.eos_token_id == [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    assert generation.pad_token_id == tokenizer.pad_token_id and generation.bos_token_id == tokenizer.bos_token_id
    assert all(tensor.dtype == torch.float32 for tensor in load_file(tiny_model_folder / "model.safetensors").values())


def test_the_tokenizers_settings_are_for_every_tool(tiny_model_folder: Path, tmp_path: Path) -> None:
    """transformers.js reads the template from tokenizer_config.json; nobody else's paths or flags stand there."""
    settings = json.loads((tiny_model_folder / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == (tiny_model_folder / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert set(settings) == {
        *("bos_token", "chat_template", "clean_up_tokenization_spaces", "eos_token", "model_max_length", "pad_token"),
        "tokenizer_class",
    }
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == CHAT_TEMPLATE


def test_two_chat_templates_that_differ_are_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ bos_token }}")
    for load in (load_model_folder, load_tokenizer):
        with pytest.raises(UserError, match="two chat templates") as caught:
            load(folder)
        assert "\n" not in str(caught.value)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ bos_token }}"}))
    assert load_tokenizer(folder).chat_template == load_model_folder(folder)[1].chat_template == "{{ bos_token }}"


def test_a_folder_that_transformers_saves_anew_keeps_no_older_checksums(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    assert (folder / "SHA256SUMS").is_file()
    model, tokenizer = load_model_folder(folder)
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert torch.equal(load_model_folder(folder)[0].lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load(
    tiny_model: TinyModel, make_model: MakeModel, tmp_path: Path, dtype: torch.dtype, tied: bool
) -> None:
    """A model that was trained in half precision is written in fp32 and loads as such."""
    tokenizer = tiny_model[1]
    model = make_model(tokenizer, tie_word_embeddings=tied).to(dtype)
    save_model_folder(model, tokenizer, tmp_path / "new" / "model", [2])
    loaded, again = load_model_folder(tmp_path / "new" / "model")
    assert not loaded.training and again.get_vocab() == tokenizer.get_vocab()
    assert again.chat_template == tokenizer.chat_template and again("川").input_ids == tokenizer("川").input_ids
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, model.get_parameter(name).float()), name
    assert json.loads((tmp_path / "new" / "model" / "config.json").read_text())["dtype"] == "float32"
    assert AutoTokenizer.from_pretrained(tmp_path / "new" / "model").get_vocab() == tokenizer.get_vocab()


def test_loading_in_half_precision(tiny_model_folder: Path) -> None:
    model, _ = load_model_folder(str(tiny_model_folder), "cpu", torch.bfloat16)
    kinds = {name.split(".")[-1 if "proj" not in name else -2]: p.dtype for name, p in model.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == {"A_log", "initial_state", "dt_proj"}


def test_an_older_folder_is_replaced(tiny_model: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").touch()
    save_model_folder(*tiny_model, tmp_path / "model", [2])
    assert not (tmp_path / "model" / "pytorch_model.bin").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("older", [False, True])
def test_nothing_half_written_is_left(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    model, tokenizer = tiny_model
    if older:
        save_model_folder(model, tokenizer, tmp_path / "model", [2])

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokenizer, "save_pretrained", fail)
    with pytest.raises(UserError, match=r"no disk space left: .*model"):
        save_model_folder(model, tokenizer, tmp_path / "model", [3])
    if older:
        assert load_model_folder(tmp_path / "model")[0].generation_config.eos_token_id == [2]
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if older else [])


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def retrain_tokenizer(folder: Path) -> None:
    """Another vocabulary of the same size."""
    size = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    other = train_tokenizer(
        TokenizerConfig(vocab_size=size), ["東京都は日本の首都である。人口が多い。"] * 9, folder / "other"
    )
    other.save_pretrained(folder)


def remove(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content)


def truncate(name: str) -> Break:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def configure(**values: object) -> Break:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return change


CANT_LOAD = r"can't load a model from .*model: "
NO_OBJECT = r"config\.json is not a JSON object"
BREAKS: dict[str, tuple[Break, str]] = {
    "missing folder": (shutil.rmtree, r"no model folder at .*model: give the path of a folder"),
    "no config": (remove("config.json"), r"no config\.json in .*model"),
    "no weights": (remove("model.safetensors"), r"no model\.safetensors in .*model"),
    "no tokenizer": (remove("tokenizer.json"), r"no tokenizer\.json in .*model"),
    "broken config": (truncate("config.json"), NO_OBJECT),
    "config is a list": (write("config.json", b"[]"), NO_OBJECT),
    "config isn't text": (write("config.json", b"\xff"), NO_OBJECT),
    "config is endless": (write("config.json", b"[" * 100_000), NO_OBJECT),
    "a key twice": (write("config.json", b'{"vocab_size": 1, "vocab_size": 2}'), "'vocab_size' comes twice"),
    "a setting twice": (write("generation_config.json", b'{"top_p": 1, "top_p": 0.5}'), "'top_p' comes twice"),
    "another model": (configure(model_type="llama"), r"model of type 'llama'"),
    "impossible size": (configure(num_heads=5), CANT_LOAD + ".*num_heads"),
    "other sizes": (configure(hidden_size=64), CANT_LOAD),
    "truncated weights": (truncate("model.safetensors"), CANT_LOAD),
    "a missing weight": (lose_a_weight, r"weights are missing in .*model: model\.norm\.weight"),
    "broken tokenizer": (truncate("tokenizer.json"), CANT_LOAD),
    "another tokenizer": (retrain_tokenizer, r"the tokenizer in .*model is not the one"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_wrong_is_said_in_one_line(folder: Path, name: str) -> None:
    break_it, message = BREAKS[name]
    break_it(folder)
    with pytest.raises(UserError, match=message) as error:
        load_model_folder(folder)
    assert "\n" not in str(error.value) and "None" not in str(error.value)


@pytest.mark.parametrize("kind", ["flipped", "empty", "missing"])
def test_a_file_that_is_not_what_was_written_is_named(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    """Any of them; and the message says how to go on where the change is meant."""
    for name in [path.name for path in tiny_model_folder.iterdir() if path.name != SUMS]:
        folder = Path(shutil.copytree(tiny_model_folder, tmp_path / name))
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data if kind == "flipped" else b"")
        if kind == "missing":
            (folder / name).unlink()
        with pytest.raises(UserError, match=re.escape(name)) as error:
            load_model_folder(folder)
        assert "\n" not in str(error.value)


def test_a_template_that_was_changed_on_purpose_is_taken_without_the_checksums(folder: Path) -> None:
    write_sums(folder)
    load_model_folder(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    with pytest.raises(UserError, match=rf"if you have changed it on purpose, remove .*model/{SUMS}$"):
        load_model_folder(folder)
    (folder / SUMS).unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["chat_template"] = "{{ messages[0]['content'] }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert load_model_folder(folder)[1].chat_template == "{{ messages[0]['content'] }}"


def test_saving_into_a_folder_with_transformers_ends_its_checksums(folder: Path) -> None:
    """Trainer and `save_pretrained` know nothing of them, and the folder must not be stuck."""
    write_sums(folder)
    model, tokenizer = load_model_folder(folder)
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(folder)
    assert torch.equal(load_model_folder(folder)[0].lm_head.weight, model.lm_head.weight)
    write_sums(folder)
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        UserError, match=rf"chat_template\.jinja isn't what was written: .* on purpose, remove .*{SUMS}"
    ):
        load_model_folder(folder)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model_folder(folder / "config.json")


@pytest.mark.parametrize("path", ["model", "runs/model", "./model", "a/b/model"])
def test_a_mistyped_path_is_not_looked_for_on_the_hub(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SioConvForCausalLM, "from_pretrained", None)
    with pytest.raises(UserError, match=f"no model folder at {path}"):
        load_model_folder(path)


@pytest.mark.parametrize("name", ["llama", "lstm", "mingru", "mamba2"])
def test_the_folder_of_a_baseline(tiny_model: TinyModel, tmp_path: Path, name: str) -> None:
    """It is read where it is asked for, its tokenizer is checked, and it carries no code."""
    tokenizer, folder = tiny_model[1], tmp_path / "model"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "intermediate_size": 64}
    model = build_baseline(name, Architecture(**sizes), len(tokenizer))
    save_model_folder(model, tokenizer, folder, [2])
    with pytest.raises(UserError, match=f"holds a model of type '{model.config.model_type}': this command takes a sio"):
        load_model_folder(folder)
    loaded, again = load_model_folder(folder, baselines=True)
    assert type(loaded) is type(model) and not loaded.training and again.get_vocab() == tokenizer.get_vocab()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert not list(folder.glob("*.py"))
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [2]
    train_tokenizer(TokenizerConfig(vocab_size=384), ["a wholly different text"] * 50, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tokenizer.json", folder)
    (folder / SUMS).unlink()
    with pytest.raises(UserError, match="is not the one that the model was trained with"):
        load_model_folder(folder, baselines=True)


def test_other_types_of_models_are_refused_all_the_same(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(UserError, match="holds a model of type 'gpt2'"):
        load_model_folder(folder, baselines=True)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_a_git_lfs_pointer_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    with pytest.raises(UserError, match=rf"{name} is a Git LFS pointer.*git lfs pull"):
        load_model_folder(folder)


def test_a_folder_above_a_model_says_which_one_is_below(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "run" / "base")
    with pytest.raises(UserError, match=r"no model in .*/run, but below it: give .*/run/base$"):
        load_model_folder(tmp_path / "run")
    shutil.copytree(folder, tmp_path / "run" / "model")
    with pytest.raises(UserError, match=r"below it: give .*/run/model or .*/run/base$"):
        load_model_folder(tmp_path / "run")
    with pytest.raises(UserError, match=r"it is a file: give the model folder that it is in"):
        load_model_folder(folder / "model.safetensors")


def test_a_mistyped_name_gets_the_one_that_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no modle in .*, where relative paths begin; did you mean model\?"):
        load_model_folder("modle")
