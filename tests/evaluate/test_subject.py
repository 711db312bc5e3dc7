import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    RobertaConfig,
    RobertaForCausalLM,
)

from sioconv.data.config import DataConfig
from sioconv.data.tokenizer.tokenizer import BOS
from sioconv.errors import UserError
from sioconv.evaluate.bits import token_nats
from sioconv.evaluate.parts.writing import stop_ids, write
from sioconv.evaluate.run import texts_to_measure
from sioconv.evaluate.subject import Subject, load_subject
from sioconv.generate import SamplingConfig
from tests.evaluate.parts.conftest import *  # noqa: F403

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64,
}  # fmt: skip


@torch.no_grad()
def test_every_token_is_predicted_as_in_a_plain_forward_pass(subject: Subject) -> None:
    documents = subject.encode(["川は山から海へ流れる。", "The river", ""])
    for i, found in token_nats(subject.model, documents):
        ids = torch.tensor([documents[i]])
        assert ids[0, 0] == subject.first and found[0] == 0
        logits = subject.model(input_ids=ids).logits[0].double()
        expected = F.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
        assert found[1:] == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)


def test_what_a_text_begins_with(ours: Subject, stranger: Subject) -> None:
    assert ours.first == ours.tokenizer.bos_token_id and ours.window is None
    assert stranger.first == stranger.tokenizer.eos_token_id and stranger.window == 64
    [ids] = ours.encode([f"{BOS}川"])
    assert ids.count(ours.first) == 1  # text that looks like it stays text


def test_a_document_beyond_the_window_is_read_in_windows(stranger: Subject) -> None:
    [ids] = stranger.encode(["The river runs from the hills to the sea. " * 20])
    [(_, found)] = token_nats(stranger.model, [ids])
    assert len(ids) > 128 and len(found) == len(ids) and (found[1:] > 0).all()


def test_what_cant_be_loaded_is_said(tmp_path: Path, strangers_folder: Path) -> None:
    for name, message in (
        ("nothing", "no model folder at nothing"),
        (str(tmp_path), "no config.json"),
        (str(strangers_folder / "config.json"), "it is a file"),
    ):
        with pytest.raises(UserError, match=message):
            load_subject(name, CPU)
    with pytest.raises(UserError, match="no sioconv model"):
        load_subject(str(strangers_folder), CPU, state="persona.safetensors")


def test_a_hub_id_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="can't load a model from somebody/something: ") as caught:
        load_subject("somebody/something", CPU)
    assert "\n" not in str(caught.value)


def test_pickled_weights_and_missing_ones_are_refused(tmp_path: Path, strangers_folder: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(strangers_folder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"can't load a model from .*safetensors"):
        load_subject(str(folder), CPU)
    shutil.copy(strangers_folder / "model.safetensors", folder)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(values | {"n_layer": 3}), encoding="utf-8")
    with pytest.raises(UserError, match="weights are missing"):
        load_subject(str(folder), CPU)


def test_code_in_a_folder_is_not_run_nor_asked_about(
    tmp_path: Path, strangers_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(strangers_folder, folder)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    code = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps(values | {"model_type": "odd", "auto_map": code}), encoding="utf-8")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the terminal"))
    with pytest.raises(UserError, match="can't load a model from"):
        load_subject(str(folder), CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_a_masked_language_model_is_refused(tmp_path: Path, strangers_folder: Path, spread: float) -> None:
    """It sees what it is to predict: its losses would pass for bits per byte that no causal model reaches."""
    folder = _with_tokenizer_of(strangers_folder, tmp_path)
    BertForMaskedLM(BertConfig(**TINY, initializer_range=spread)).save_pretrained(folder)
    with pytest.raises(UserError, match="sees the tokens that it is to predict"):
        load_subject(str(folder), CPU)


def test_a_tokenizer_without_tokens_is_refused(tmp_path: Path, strangers_folder: Path) -> None:
    """transformers makes one where a folder has none; every text would have 0 bits."""
    folder = tmp_path / "copy"
    shutil.copytree(strangers_folder, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(UserError, match=r"no tokens of text: put tokenizer\.json"):
        load_subject(str(folder), CPU)


def test_positions_that_are_counted_from_behind_the_padding(tmp_path: Path, strangers_folder: Path) -> None:
    folder = _with_tokenizer_of(strangers_folder, tmp_path)
    RobertaForCausalLM(RobertaConfig(**TINY, is_decoder=True, pad_token_id=1)).save_pretrained(folder)
    found = load_subject(str(folder), CPU)
    assert found.window == found.positions == 62
    [(_, nats)] = token_nats(found.model, found.encode(["The river runs from the hills to the sea. " * 9]))
    assert (nats[1:] > 0).all()


def test_a_model_that_reads_pictures_too(tmp_path: Path, strangers_folder: Path) -> None:
    """Its configuration keeps the size of its vocabulary, and its positions, with its part for text."""
    folder = _with_tokenizer_of(strangers_folder, tmp_path)
    text = {"head_dim": 8, "num_key_value_heads": 1, "sliding_window": 16, "initializer_range": 0.3}
    picture = {**TINY, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config={**TINY, **text}, vision_config=picture, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    found = load_subject(str(folder), CPU)
    assert found.window == found.positions == 64
    [(_, nats)] = token_nats(found.model, found.encode(["The river runs from the hills to the sea. " * 9]))
    assert (nats[1:] > 0).all() and found.tokenizer.eos_token_id in stop_ids(found.model, found.tokenizer)


def test_settings_of_a_folder_dont_change_what_is_written(
    tmp_path: Path, strangers_folder: Path, stranger: Subject
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(strangers_folder, folder)
    settings = folder / "generation_config.json"
    values = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps(values | {"repetition_penalty": 50.0, "min_new_tokens": 9}), encoding="utf-8")
    sampling = SamplingConfig(temperature=0, max_new_tokens=20)
    found = load_subject(str(folder), CPU)
    assert list(write(found, ["The river"], sampling, 0)) == list(write(stranger, ["The river"], sampling, 0))


def _with_tokenizer_of(other: Path, folder: Path) -> Path:
    shutil.copytree(other, folder / "copy", ignore=shutil.ignore_patterns("model*", "*config.json"))
    shutil.copy(other / "tokenizer_config.json", folder / "copy")
    return folder / "copy"


def test_windows_line_ends_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, end in (("lf.txt", b"\n"), ("crlf.txt", b"\r\n")):
        (tmp_path / name).write_bytes("川は海へ流れる。".encode() + end)
        _, texts = texts_to_measure(str(tmp_path / name), DataConfig(), None)
        assert [text.strip() for found in texts.values() for text in found] == ["川は海へ流れる。"]
        assert ("crlf.txt: its line ends are CR LF" in capsys.readouterr().err) == (name == "crlf.txt")
