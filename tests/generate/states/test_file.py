import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from sioconv.errors import UserError
from sioconv.files import pointer_of
from sioconv.generate import Session
from sioconv.generate.config import LARGEST_SEED
from sioconv.generate.states.file import SessionState, StateFormat
from sioconv.model import SioConvForCausalLM
from sioconv.model.fingerprint import weights_fingerprint
from sioconv.model.folder import vocabulary_fingerprint

TinyModel = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def saved(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    session = Session(*tiny_model, 3)
    session.feed([1, 300, 301, 302])
    path = tmp_path_factory.mktemp("state") / "good.state"
    session.save(path)
    return path


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    assert len(metadata.pop("sha256")) == 64
    return metadata


def test_the_file_is_plain_safetensors(tiny_model: TinyModel, saved: Path) -> None:
    config = tiny_model[0].config
    tensors = load_file(saved)
    for i in range(config.num_hidden_layers):
        c, conv = tensors.pop(f"layers.{i}.c"), tensors.pop(f"layers.{i}.conv")
        assert c.shape == (1, config.num_heads, config.head_dim) and c.dtype == torch.float32
        assert conv.shape == (1, config.hidden_size, config.conv_width - 1)
    assert not tensors
    metadata = metadata_of(saved)
    assert metadata.pop("model") == tiny_model[0].fingerprint()
    assert metadata.pop("weights") == weights_fingerprint(tiny_model[0])
    assert metadata.pop("tokenizer") == vocabulary_fingerprint(tiny_model[1])
    assert metadata == {
        "format": "sioconv-state",
        "version": "1",
        "tokens_seen": "3",
        "pending_ids": "[302]",
        "pending_bytes": "",
        "turn_ids": "[300, 301, 302]",
        "seed": "3",
        "turns": "0",
        "prefix_chain": "",
        "prefix_tail": "010000002c0100002d010000",
    }


@pytest.mark.parametrize("options", [{"trapezoid": True}, {"trapezoid": True, "conv_width": 3, "conv_on": "z"}])
def test_the_last_z_is_kept(
    tiny_model: TinyModel, make_model: Callable[..., SioConvForCausalLM], options: dict[str, object], tmp_path: Path
) -> None:
    model = make_model(tiny_model[1], **options)
    session = Session(model, tiny_model[1], 3)
    session.feed([1, 300, 301, 302])
    session.save(tmp_path / "s.state")
    assert load_file(tmp_path / "s.state")["layers.0.z"].shape == (1, model.config.num_heads, model.config.head_dim)
    again = Session.load(tmp_path / "s.state", model, tiny_model[1])
    for each in (session, again):
        each.feed([303, 304, 305])
    for name, value in session.state.tensors.items():
        assert torch.equal(again.state.tensors[name], value), name
    tensors = load_file(tmp_path / "s.state")
    del tensors["layers.1.z"]
    save_file(tensors, tmp_path / "damaged.state", metadata_of(tmp_path / "s.state"))
    refused(tmp_path / "damaged.state", model, "damaged state file")


def test_the_last_token_is_kept(
    tiny_model: TinyModel, make_model: Callable[..., SioConvForCausalLM], tmp_path: Path
) -> None:
    model = make_model(tiny_model[1], bigram_rows=3, bigram_width=8)
    with torch.no_grad():
        model.model.bigrams.out.weight.normal_()
    session = Session(model, tiny_model[1], 3)
    session.feed([1, 300, 301, 302])
    session.save(tmp_path / "s.state")
    assert load_file(tmp_path / "s.state")["last_token"].tolist() == [301]  # 302 is pending
    again = Session.load(tmp_path / "s.state", model, tiny_model[1])
    for each in (session, again):
        each.feed([303, 304, 305])
    for name, value in session.state.tensors.items():
        assert torch.equal(again.state.tensors[name], value), name
    for last in (None, torch.tensor([302.0]), torch.tensor([384]), torch.tensor([-2])):
        tensors = load_file(tmp_path / "s.state")
        del tensors["last_token"]
        tensors |= {} if last is None else {"last_token": last}
        save_file(tensors, tmp_path / "damaged.state", metadata_of(tmp_path / "s.state"))
        refused(tmp_path / "damaged.state", model, "damaged state file")


ids = st.lists(st.integers(0, 383))
counts = st.integers(0, LARGEST_SEED)
states = st.builds(SessionState, counts.filter(bool), ids, st.binary(max_size=9), ids, counts, counts)


@given(states)
def test_what_is_written_is_read(
    tiny_model: TinyModel, saved: Path, tmp_path_factory: pytest.TempPathFactory, state: SessionState
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.state"
    tensors = load_file(saved)
    files = StateFormat(*tiny_model)
    files.write(path, state, tensors)
    found, memory = files.read(path)
    assert found == state
    assert memory.keys() == tensors.keys() and all(torch.equal(memory[name], tensors[name]) for name in tensors)


@given(st.binary(max_size=200))
@example(b"version https://git-lfs.github.com/spec/v1\n")
@example(b"../.git/annex/objects/aa/bb/key")
def test_bytes_that_are_no_state_are_refused(
    tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.state"
    path.write_bytes(data)
    pointer = pointer_of(data)
    refused(path, tiny_model[0], "not a state file" if pointer is None else f"{path} is {pointer[0]}")


@given(st.data())
def test_a_file_that_was_cut_is_refused(
    tiny_model: TinyModel, saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path, whole = tmp_path_factory.getbasetemp() / "cut.state", saved.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refused(path, tiny_model[0], "not a state file")


def refused(path: Path, model: SioConvForCausalLM, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        StateFormat(model).read(path)
    assert str(caught.value).startswith(reason) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_or_a_folder_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    refused(tmp_path / "none", tiny_model[0], "no state file")
    refused(tmp_path, tiny_model[0], "no state file")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(tiny_model: TinyModel, saved: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="state file"):
        StateFormat(*tiny_model).read(tmp_path / name)
    with pytest.raises(UserError, match="can't write a state file"):
        Session.load(saved, *tiny_model).save(tmp_path / name)


def test_another_safetensors_file_is_refused(tiny_model: TinyModel, tiny_model_folder: Path) -> None:
    refused(tiny_model_folder / "model.safetensors", tiny_model[0], "not a state file")


def test_another_models_state_is_refused(
    tiny_model: TinyModel, make_model: Callable[..., SioConvForCausalLM], saved: Path
) -> None:
    refused(saved, make_model(tiny_model[1], conv_width=3), "state file of another model")


def test_a_state_of_other_weights_is_refused_wherever_they_differ(tiny_model: TinyModel, saved: Path) -> None:
    other = copy.deepcopy(tiny_model[0])
    middle = other.model.layers[0].ffn.up_proj.weight
    with torch.no_grad():
        middle.view(-1)[middle.numel() // 2] += 1e-3
    assert other.fingerprint() == tiny_model[0].fingerprint()  # which looks at the ends of the weights
    refused(saved, other, "state file of another model")


def test_a_state_of_another_tokenizer_is_refused(tiny_model: TinyModel, saved: Path) -> None:
    other = copy.deepcopy(tiny_model[1])
    other.add_tokens(["another"])
    with pytest.raises(UserError, match=r"^state file of another tokenizer: "):
        StateFormat(tiny_model[0], other).read(saved)


def test_a_file_of_an_older_version_that_names_no_tokenizer_is_read(
    tiny_model: TinyModel, saved: Path, tmp_path: Path
) -> None:
    metadata = metadata_of(saved)
    newer = ("weights", "tokenizer", "prefix_chain", "prefix_tail")
    save_file(load_file(saved), tmp_path / "old", {key: metadata[key] for key in metadata if key not in newer})
    old = Session.load(tmp_path / "old", *tiny_model)
    assert old.state.prefix is None and old.tokens_seen == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_state_with_what_is_no_number_is_refused(
    tiny_model: TinyModel, saved: Path, tmp_path: Path, value: float
) -> None:
    tensors = load_file(saved)
    tensors["layers.0.conv"][0, 0, 0] = value
    save_file(tensors, tmp_path / "bad", metadata_of(saved))
    refused(tmp_path / "bad", tiny_model[0], "damaged state file")


@pytest.mark.parametrize("numbers", [2**28, 2**36])
def test_a_state_of_huge_size_is_refused_before_it_is_read(
    tiny_model: TinyModel, saved: Path, tmp_path: Path, numbers: int
) -> None:
    path = tmp_path / "huge"
    header = {"__metadata__": metadata_of(saved)}
    header["layers.0.c"] = {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}
    data = json.dumps(header).encode()
    with path.open("wb") as file:  # without blocks on the disk: it reads as zeros
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + 4 * numbers)
    with pytest.raises(UserError, match=r"too large|unable to mmap"):
        StateFormat(tiny_model[0]).read(path)


@pytest.mark.parametrize("private", [0o022, 0o077, 0o007])
def test_a_conversation_is_its_owners_and_a_groups_that_shares_everything(
    tiny_model: TinyModel, saved: Path, tmp_path: Path, private: int
) -> None:
    before = os.umask(private)
    try:
        Session.load(saved, *tiny_model).save(tmp_path / "talk")
    finally:
        os.umask(before)
    assert (tmp_path / "talk").stat().st_mode & 0o777 == (0o660 if private == 0o007 else 0o600)


def test_a_flipped_bit_is_refused_wherever_it_is(tiny_model: TinyModel, saved: Path, tmp_path: Path) -> None:
    """But in the checksum's own name, without which the file is as one of an older version: the same state."""
    whole, files = saved.read_bytes(), StateFormat(*tiny_model)
    name = whole.index(b'"sha256"')
    for place in sorted({*range(0, len(whole), 37), name + 1}):
        path = tmp_path / "flipped"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        if name < place <= name + len("sha256"):
            (session, tensors), (wanted, expected) = files.read(path), files.read(saved)
            assert session == wanted and tensors.keys() == expected.keys()
            assert all(torch.equal(value, expected[key]) for key, value in tensors.items())
            continue
        with pytest.raises(UserError, match="state file"):
            files.read(path)


def test_a_file_without_a_checksum_is_read(tiny_model: TinyModel, saved: Path, tmp_path: Path) -> None:
    """Older versions wrote none."""
    save_file(load_file(saved), tmp_path / "old", metadata_of(saved))
    files = StateFormat(*tiny_model)
    assert files.read(tmp_path / "old")[0] == files.read(saved)[0]


def test_another_version_is_refused(tiny_model: TinyModel, saved: Path, tmp_path: Path) -> None:
    save_file(load_file(saved), tmp_path / "new", metadata_of(saved) | {"version": "2"})
    refused(tmp_path / "new", tiny_model[0], "state file of another version")


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens_seen": "-1"},
        {"tokens_seen": "three"},
        {"tokens_seen": "0"},
        {"pending_ids": "[384]"},
        {"pending_ids": "[true]"},
        {"pending_ids": "{}"},
        {"pending_ids": "["},
        {"pending_ids": "[" * 100_000},
        {"pending_bytes": "zz"},
        {"turn_ids": "[-1]"},
        {"seed": str(LARGEST_SEED + 1)},
        {"turns": ""},
        {"prefix_chain": "00" * 32},
        {"prefix_chain": "zz"},
        {"prefix_tail": "01000000"},
        {"transcript": "5"},
        {"document": "5"},
    ],
)
def test_metadata_that_was_tampered_with_is_refused(
    tiny_model: TinyModel, saved: Path, tmp_path: Path, changes: dict[str, str]
) -> None:
    save_file(load_file(saved), tmp_path / "bad", metadata_of(saved) | changes)
    refused(tmp_path / "bad", tiny_model[0], "damaged state file")


@pytest.mark.parametrize("key", ["tokens_seen", "pending_ids", "pending_bytes", "turn_ids", "seed", "turns"])
def test_metadata_that_lacks_a_key_is_refused(tiny_model: TinyModel, saved: Path, tmp_path: Path, key: str) -> None:
    metadata = metadata_of(saved)
    del metadata[key]
    save_file(load_file(saved), tmp_path / "bad", metadata)
    refused(tmp_path / "bad", tiny_model[0], "damaged state file")


@pytest.mark.parametrize("change", ["shape", "dtype", "missing", "extra"])
def test_tensors_that_are_not_the_models_are_refused(
    tiny_model: TinyModel, saved: Path, tmp_path: Path, change: str
) -> None:
    tensors: dict[str, Any] = load_file(saved)
    c = tensors.pop("layers.0.c")
    if change != "missing":
        tensors["layers.0.c"] = {"shape": c.repeat(2, 1, 1), "dtype": c.half(), "extra": c}[change]
    if change == "extra":
        tensors["layers.9.c"] = c.clone()
    save_file(tensors, tmp_path / "bad", metadata_of(saved))
    refused(tmp_path / "bad", tiny_model[0], "damaged state file")


def test_a_file_that_can_t_be_written_leaves_the_old_one(
    tiny_model: TinyModel, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "kept.state"
    session = Session.load(saved, *tiny_model)
    session.save(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="can't write a state file"):
        session.save(path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_folder_in_the_files_place_is_an_error(tiny_model: TinyModel, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"in the way: writing {tmp_path}: "):
        Session.load(saved, *tiny_model).save(tmp_path)
