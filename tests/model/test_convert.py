"""Checkpoints of 2024 as model folders, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from sioconv.errors import UserError
from sioconv.model import SioConvForCausalLM, load_model_folder
from sioconv.model.convert import convert_checkpoint, infer_sizes, read_checkpoint

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "sconv_mh_tiny.ckpt"
SIZES = CHECKPOINT.with_suffix(".json")


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return dict(torch.load(CHECKPOINT, weights_only=True)["model"])


def test_the_folder(tmp_path: Path) -> None:
    done = convert_checkpoint(CHECKPOINT, tmp_path / "new" / "model", SIZES)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "model")
    assert isinstance(loaded, SioConvForCausalLM) and loaded.config.preset == "sioconv-2024"
    assert done == {
        "model": str(tmp_path / "new" / "model"),
        "parameters": sum(parameter.numel() for parameter in loaded.parameters()),
        "vocab_size": 96,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_heads": 4,
        "intermediate_size": 64,
        "steps": 123,
        "tokenizer_tokens": None,
    }
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        load_model_folder(tmp_path / "new" / "model")


def test_a_tokenizer_makes_the_folder_whole(
    tmp_path: Path, weights: dict[str, Tensor], tiny_model_folder: Path, tiny_model: tuple[Any, PreTrainedTokenizerFast]
) -> None:
    """With an embedding of as many rows as it has tokens, or more."""
    for rows in (384, 400):
        weights["token_in.weight"] = torch.randn(rows, 32)
        weights["token_out.weight"], weights["token_out.bias"] = torch.randn(rows, 32), torch.randn(rows)
        torch.save({"model": weights}, tmp_path / "some.ckpt")
        out = tmp_path / str(rows)
        done = convert_checkpoint(
            tmp_path / "some.ckpt", out, tokenizer=str(tiny_model_folder), generation={"do_sample": True}
        )
        assert (done["vocab_size"], done["tokenizer_tokens"], done["steps"]) == (rows, 384, None)
        model, tokenizer = load_model_folder(out)
        assert tokenizer.get_vocab() == tiny_model[1].get_vocab()
        assert model.generation_config.eos_token_id == [tokenizer.eos_token_id] and model.generation_config.do_sample


def test_half_precision_becomes_single(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({"model": {name: value.half() for name, value in weights.items()}}, tmp_path / "some.ckpt")
    convert_checkpoint(tmp_path / "some.ckpt", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    half = weights["token_in.weight"].half()
    assert torch.equal(model.get_input_embeddings().weight, half.float())


def test_files_of_before_the_zip_format_are_read(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({"model": weights}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert infer_sizes(read_checkpoint(tmp_path / "old.ckpt")["model"], tmp_path) == {
        name: value for name, value in json.loads(SIZES.read_text()).items() if name not in ("dropout", "chunk_size")
    }


class Stranger:
    """What a checkpoint must not hold: unpickling it would run code."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (Path.touch, (Path("ran"),))


def without(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key != name}


A_LOG = "block_list.1.sconv.sconv.ln_a"
INIT = "block_list.0.sconv.last_hidden_init"
WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "code": (lambda weights: {"model": weights, "log_dir": Stranger()}, "objects other than tensors"),
    "no model": (lambda weights: {"weights": weights}, "no state dict under the key 'model'"),
    "a list": (lambda weights: [*weights.values()], "no state dict under the key 'model'"),
    "no tensors": (lambda weights: {"model": {**weights, "extra": 3}}, "no state dict under the key 'model'"),
    "nothing in it": (lambda _: {"model": {}}, r"no weight token_in\.weight"),
    "an unknown weight": (lambda w: {"model": {**w, "extra.weight": w[A_LOG]}}, r"unknown weight extra\.weight"),
    "a missing weight": (lambda w: {"model": without(w, A_LOG)}, r"the weight of model\.layers\.1\.mixer\.A_log"),
    "a missing block": (
        lambda w: {"model": {k: v for k, v in w.items() if not k.startswith("block_list.0.")}},
        r"no weight block_list\.0\.sconv\.last_hidden_init",
    ),
    "another shape": (lambda w: {"model": {**w, A_LOG: torch.ones(5)}}, r"ln_a has shape \[5\]: expected \[4\]"),
    "no matrix": (lambda w: {"model": {**w, INIT: torch.ones(32)}}, r"last_hidden_init has shape \[32\]"),
    "impossible": (lambda w: {"model": {**w, INIT: torch.ones(5, 8)}}, "impossible sizes: .*num_heads"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_checkpoint(
    name: str, weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    break_it, message = WRONG[name]
    torch.save(break_it(weights), "some.ckpt")
    refuse(Path("some.ckpt"), message)


def refuse(checkpoint: Path, message: str, **options: Any) -> None:
    """One line that says so, and nothing written."""
    before = sorted(Path.cwd().iterdir())
    with pytest.raises(UserError, match=message) as error:
        convert_checkpoint(checkpoint, Path("model"), **options)
    assert "\n" not in str(error.value) and "None" not in str(error.value)
    assert sorted(Path.cwd().iterdir()) == before


def test_wrong_files(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refuse(Path("none.ckpt"), r"no checkpoint at none\.ckpt")
    Path("text.ckpt").write_text("hello")
    refuse(Path("text.ckpt"), r"text\.ckpt isn't a whole PyTorch checkpoint")
    Path("cut.ckpt").write_bytes(CHECKPOINT.read_bytes()[:-500])
    refuse(Path("cut.ckpt"), r"cut\.ckpt isn't a whole PyTorch checkpoint")
    Path("sizes.json").write_text('{"dim": 64}')
    refuse(CHECKPOINT, r"sizes\.json: dim is 64, but the checkpoint's weights have 32", sizes=Path("sizes.json"))
    Path("sizes.json").write_text("[32]")
    refuse(CHECKPOINT, r"sizes\.json is not a JSON object", sizes=Path("sizes.json"))
    Path("sizes.json").write_bytes(b"\xff")
    refuse(CHECKPOINT, r"sizes\.json is not JSON", sizes=Path("sizes.json"))
    refuse(CHECKPOINT, r"can't read sizes: No such file", sizes=Path("sizes"))
    refuse(CHECKPOINT, r"no tokenizer\.json in \.", tokenizer=".")
    refuse(CHECKPOINT, r"no tokenizer\.json in nowhere", tokenizer="nowhere")
    refuse(CHECKPOINT, "has 384 tokens, the model's embedding 96 rows", tokenizer=str(tiny_model_folder))
    Path("tokenizer.json").write_text("{}")
    refuse(CHECKPOINT, r"can't load a tokenizer from \.", tokenizer=".")


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="is there already"):
        convert_checkpoint(CHECKPOINT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
