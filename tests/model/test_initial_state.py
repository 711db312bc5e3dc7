"""Tuned initial states in a file: what is written is read, into the model that it belongs to and into no other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sioconv.errors import UserError
from sioconv.generate import SamplingConfig, Session, generate_text
from sioconv.model import (
    SioConvConfig,
    SioConvForCausalLM,
    load_initial_state,
    load_model_folder,
    save_initial_state,
)
from sioconv.model.initial_state import initial_states

TinyModel = tuple[SioConvForCausalLM, PreTrainedTokenizerFast]


def tuned(model: SioConvForCausalLM) -> SioConvForCausalLM:
    """The model with other initial states, in place."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for state in initial_states(model).values():
            state.copy_(torch.randn(state.shape, generator=generator) * 20)
    return model


@pytest.fixture(scope="module")
def persona(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Initial states for the model of `tiny_model_folder`."""
    model, _ = load_model_folder(tiny_model_folder)
    base = model.fingerprint()
    path = tmp_path_factory.mktemp("persona") / "state.safetensors"
    save_initial_state(path, tuned(model), base)
    return path


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    assert len(metadata.pop("sha256")) == 64
    return metadata


def values_of(model: SioConvForCausalLM) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def refused(path: Path, model: SioConvForCausalLM, reason: str) -> str:
    """The message; the model stays as it is."""
    before = values_of(model)
    with pytest.raises(UserError) as caught:
        load_initial_state(path, model)
    message = str(caught.value)
    assert message.startswith(reason) and str(path) in message and "\n" not in message
    assert all(torch.equal(value, before[name]) for name, value in values_of(model).items())
    return message


def test_the_file_is_plain_safetensors_and_small(tiny_model: TinyModel, persona: Path) -> None:
    config = tiny_model[0].config
    tensors = load_file(persona)
    assert set(tensors) == {f"layers.{i}.initial_state" for i in range(config.num_hidden_layers)}
    assert {tuple(value.shape) for value in tensors.values()} == {(config.num_heads, config.head_dim)}
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    assert metadata_of(persona) == {
        "format": "sioconv-initial-state",
        "version": "1",
        "model": tiny_model[0].fingerprint(),
    }
    assert persona.stat().st_size < 4 * config.hidden_size * config.num_hidden_layers + 1024


def test_only_the_initial_states_change(tiny_model: TinyModel, tiny_model_folder: Path, persona: Path) -> None:
    before, (model, _) = values_of(tiny_model[0]), load_model_folder(tiny_model_folder, state=persona)
    for name, value in values_of(model).items():
        assert torch.equal(value, before[name]) != name.endswith("initial_state"), name
    wanted = load_file(persona)
    assert all(torch.equal(value, wanted[name]) for name, value in initial_states(model).items())


def test_every_text_starts_from_them(tiny_model: TinyModel, tiny_model_folder: Path, persona: Path) -> None:
    """A packed document, a session and a generated text, each as with a model whose weights they are."""
    model, tokenizer = load_model_folder(tiny_model_folder, state=persona)
    with torch.no_grad():
        ids = torch.tensor([[1, 300, 301, 1, 302, 303]])
        reset = torch.tensor([[False, False, False, True, False, False]])
        packed = model(ids, reset=reset, use_cache=False).logits[:, 3:]
        alone = model(ids[:, 3:], use_cache=False).logits
        torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(tiny_model[0](ids[:, 3:], use_cache=False).logits, alone, atol=1e-2)
    sampling = SamplingConfig(max_new_tokens=12, seed=1)
    other, _ = load_model_folder(tiny_model_folder)
    texts = [generate_text(each, tokenizer, "川は", sampling).text for each in (model, tuned(other), tiny_model[0])]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_precision_of_the_weights_is_the_same_model(
    tiny_model_folder: Path, persona: Path, dtype: torch.dtype
) -> None:
    model, _ = load_model_folder(tiny_model_folder, dtype=dtype, state=persona)
    assert model.lm_head.weight.dtype == dtype
    wanted = load_file(persona)
    assert all(torch.equal(value.float(), wanted[name]) for name, value in initial_states(model).items())


shapes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))  # layers, heads, channels of a head
values = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.data(), shapes)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, shape: tuple[int, int, int]
) -> None:
    layers, heads, channels = shape
    sizes = {"hidden_size": heads * channels, "num_heads": heads, "num_hidden_layers": layers, "intermediate_size": 4}
    torch.manual_seed(0)
    model = SioConvForCausalLM(SioConvConfig(vocab_size=8, **sizes))
    path, base = tmp_path_factory.getbasetemp() / "round.safetensors", model.fingerprint()
    original = {name: value.detach().clone() for name, value in initial_states(model).items()}
    wanted = {
        name: torch.tensor(data.draw(st.lists(values, min_size=value.numel(), max_size=value.numel()))).view_as(value)
        for name, value in original.items()
    }
    with torch.no_grad():
        for name, value in initial_states(model).items():
            value.copy_(wanted[name])
    save_initial_state(path, model, base)
    with torch.no_grad():
        for name, value in initial_states(model).items():
            value.copy_(original[name])
    load_initial_state(path, model)
    for name, value in initial_states(model).items():
        assert torch.equal(value.view(torch.int32), wanted[name].view(torch.int32))  # -0.0 too


@given(st.data())
def test_a_file_that_was_cut_is_refused(
    tiny_model: TinyModel, persona: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path, whole = tmp_path_factory.getbasetemp() / "cut.safetensors", persona.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    refused(path, tiny_model[0], "not a tuned state file")


def test_files_of_other_kinds_are_refused(tiny_model: TinyModel, tiny_model_folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none", tiny_model[0], "no tuned state file")
    refused(tmp_path, tiny_model[0], "no tuned state file")
    message = refused(tiny_model_folder / "model.safetensors", tiny_model[0], "not a tuned state file")
    assert "it holds other tensors" in message
    session = Session(*tiny_model)
    session.feed([1, 300])
    session.save(tmp_path / "talk.state")
    message = refused(tmp_path / "talk.state", tiny_model[0], "not a tuned state file")
    assert "it is a state file, which chat --load takes" in message


def test_a_tuned_state_is_no_session(tiny_model: TinyModel, persona: Path) -> None:
    with pytest.raises(UserError, match=r"not a state file: .* it is a tuned state file, which --state takes"):
        Session.load(persona, *tiny_model)


def test_another_models_is_refused(
    tiny_model: TinyModel,
    tiny_model_folder: Path,
    make_model: Callable[..., SioConvForCausalLM],
    persona: Path,
) -> None:
    reason = "tuned state file of another model"
    assert "load the model that it was tuned from" in refused(persona, make_model(tiny_model[1]), reason)
    refused(persona, load_model_folder(tiny_model_folder, state=persona)[0], reason)  # it isn't the base any more


def test_a_session_belongs_to_the_model_with_its_persona(
    tiny_model: TinyModel, tiny_model_folder: Path, persona: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_model_folder(tiny_model_folder, state=persona)
    session = Session(model, tokenizer)
    session.feed([1, 300, 301])
    session.save(tmp_path / "talk.state")
    assert Session.load(tmp_path / "talk.state", model, tokenizer).tokens_seen == 3
    with pytest.raises(UserError, match="load the model, and the --state file where there was one, that it was saved"):
        Session.load(tmp_path / "talk.state", *tiny_model)


def test_another_version_is_refused(tiny_model: TinyModel, persona: Path, tmp_path: Path) -> None:
    save_file(load_file(persona), tmp_path / "new", metadata_of(persona) | {"version": "2"})
    refused(tmp_path / "new", tiny_model[0], "tuned state file of another version")


@pytest.mark.parametrize("change", ["shape", "dtype", "missing", "extra", "nan", "infinite"])
def test_tensors_that_are_not_the_models_are_refused(
    tiny_model: TinyModel, persona: Path, tmp_path: Path, change: str
) -> None:
    tensors: dict[str, Any] = load_file(persona)
    name = "layers.1.initial_state"
    value = tensors.pop(name)
    if change in ("nan", "infinite"):
        value[-1, -1] = float("nan" if change == "nan" else "inf")
    if change != "missing":
        tensors[name] = {"shape": value.T.contiguous(), "dtype": value.double()}.get(change, value)
    if change == "extra":
        tensors["layers.9.initial_state"] = value.clone()
    save_file(tensors, tmp_path / "bad", metadata_of(persona))
    refused(tmp_path / "bad", tiny_model[0], "damaged tuned state file")


def test_a_file_that_can_t_be_written_leaves_the_old_one(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    save_initial_state(path, tiny_model[0], "base")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="can't write a tuned state file"):
        save_initial_state(path, tiny_model[0], "base")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
