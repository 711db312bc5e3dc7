import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from sioconv.data.config import DataConfig
from sioconv.data.tokenizer.tokenizer import BOS
from sioconv.errors import UserError
from sioconv.evaluate.bits import token_nats
from sioconv.evaluate.run import texts_to_measure
from sioconv.evaluate.subject import Subject, load_subject
from tests.evaluate.parts.conftest import *  # noqa: F403

CPU = torch.device("cpu")


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


def test_windows_line_ends_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, end in (("lf.txt", b"\n"), ("crlf.txt", b"\r\n")):
        (tmp_path / name).write_bytes("川は海へ流れる。".encode() + end)
        _, texts = texts_to_measure(str(tmp_path / name), DataConfig(), None)
        assert [text.strip() for found in texts.values() for text in found] == ["川は海へ流れる。"]
        assert ("crlf.txt: its line ends are CR LF" in capsys.readouterr().err) == (name == "crlf.txt")
