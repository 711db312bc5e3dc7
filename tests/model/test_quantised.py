"""Matrices of 8 and 4 bits: how they are packed, and how a folder with them is loaded."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

from sioconv.errors import UserError
from sioconv.generate.quantise import quantise_model
from sioconv.generate.session import Session
from sioconv.model import SioConvForCausalLM, load_model_folder
from sioconv.model.fingerprint import weights_fingerprint
from sioconv.model.folder import write_model_folder
from sioconv.model.quantised import GROUP, QuantisedLinear, QuantisedWeight, pack, unpack
from tests.conftest import TEXTS
from tests.model.test_folder_code import BLOCK

IDS = torch.tensor([[3, 50, 7, 31, 8, 90, 2]])


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**31))
def test_four_bits_are_unpacked_to_what_was_packed(rows: int, groups: int, seed: int) -> None:
    codes = torch.randint(-8, 8, (rows, groups * GROUP), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    packed = pack(codes)
    assert packed.dtype == torch.uint8 and packed.shape == (rows, groups * GROUP // 2)
    assert torch.equal(unpack(packed), codes)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_linear_layer_multiplies_by_scale_times_code(bits: int) -> None:
    torch.manual_seed(0)
    layer = QuantisedLinear(64, 5, True, bits)
    limit = 2 ** (bits - 1) - 1
    codes = torch.randint(-limit, limit + 1, (5, 64), dtype=torch.int8)
    scales = torch.rand(5 if bits == 8 else (5, 2)).bfloat16()
    layer.fill(codes, scales)
    layer.bias = nn.Parameter(torch.randn(5), requires_grad=False)
    weight = codes.double() * scales.double().repeat_interleave(64 if bits == 8 else 32, dim=-1).view(5, 64)
    x = torch.randn(3, 64)
    torch.testing.assert_close(layer(x).double(), x.double() @ weight.T + layer.bias.double(), rtol=1e-5, atol=1e-5)
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_a_width_that_groups_don_t_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="groups of 32"):
        QuantisedLinear(48, 5, False, 4)


@pytest.fixture(scope="module", params=["int8", "int4 tied"])
def folders(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_model: Callable[..., SioConvForCausalLM],
    tiny_model: tuple[SioConvForCausalLM, PreTrainedTokenizerFast],
) -> tuple[Path, Path]:
    """A model folder with a convolution, and the same model quantised."""
    path = tmp_path_factory.mktemp("quantised")
    tokenizer = tiny_model[1]
    tied = "tied" in request.param
    model = make_model(tokenizer, intermediate_size=64, conv_width=2, tie_word_embeddings=tied)
    write_model_folder(model, tokenizer, path / "whole")
    quantise_model(model, 4 if tied else 8)
    write_model_folder(model, tokenizer, path / "few")
    return path / "whole", path / "few"


def test_a_folder_holds_whole_numbers_and_loads_as_it_was_saved(folders: tuple[Path, Path]) -> None:
    tensors = load_file(folders[1] / "model.safetensors")
    assert {tensor.dtype for name, tensor in tensors.items() if name.endswith(".codes")} <= {torch.int8, torch.uint8}
    whole = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.dim() == 2]
    assert whole and all(any(part in name for part in ("dt_proj", "initial_state", "conv")) for name in whole)
    assert (folders[1] / "model.safetensors").stat().st_size < (folders[0] / "model.safetensors").stat().st_size / 2
    model, _ = load_model_folder(folders[1])
    again, _ = load_model_folder(folders[1], dtype=torch.bfloat16)
    plain, _ = load_model_folder(folders[0])
    assert model.num_parameters() == plain.num_parameters()
    assert model.is_quantized and model.dtype == torch.float32 and again.dtype == torch.bfloat16
    for name, value in model.state_dict().items():
        if name in tensors and not tensors[name].is_floating_point():
            assert torch.equal(value, tensors[name]) and torch.equal(again.state_dict()[name], value)
    with torch.no_grad():
        logits, exact = model(IDS).logits, plain(IDS).logits
        assert 0 < (logits - exact).norm() / exact.norm() < (0.05 if model.lm_head.bits == 8 else 0.6)  # at random
        assert (again(IDS).logits.float() - logits).norm() / logits.norm() < 0.1
    if model.config.tie_word_embeddings:
        assert model.lm_head.codes is model.model.embed_tokens.codes


def test_transformers_loads_it_alone_and_saves_it_again(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """By the folder's own code, where the package isn't installed."""
    copied = shutil.copytree(folders[1], tmp_path / "copy")
    script = BLOCK + (
        "import torch\nfrom transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(copied)!r}, trust_remote_code=True)\n"
        f"ids = torch.tensor({IDS.tolist()})\n"
        "with torch.no_grad():\n    logits = model(ids).logits\n"
        "new = model.generate(ids, max_new_tokens=4, do_sample=False)\n"
        f"model.save_pretrained({str(tmp_path / 'again')!r})\n"
        f"torch.save({{'logits': logits, 'new': new}}, {str(tmp_path / 'out.pt')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    out = torch.load(tmp_path / "out.pt")
    model = AutoModelForCausalLM.from_pretrained(folders[1])
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    with torch.no_grad():
        for each in (model, again):
            torch.testing.assert_close(each(IDS).logits, out["logits"], rtol=1e-4, atol=1e-4)
    assert (
        json.loads((tmp_path / "again" / "config.json").read_text())["quantization_config"]["quant_method"] == "sioconv"
    )


def test_a_state_of_the_whole_model_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (whole, tokenizer), (few, _) = load_model_folder(folders[0]), load_model_folder(folders[1])
    assert weights_fingerprint(whole) != weights_fingerprint(few)
    assert whole.fingerprint() != few.fingerprint()
    session = Session(whole, tokenizer)
    session.feed(tokenizer.encode(TEXTS[0]))
    session.save(tmp_path / "state")
    with pytest.raises(UserError, match="another model"):
        Session.load(tmp_path / "state", few, tokenizer)


def test_it_isn_t_trained(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = load_model_folder(folders[1])
    modules = [module for module in model.modules() if isinstance(module, QuantisedWeight)]
    assert modules and not any(module.codes.requires_grad or module.scales.requires_grad for module in modules)
    with pytest.raises(ValueError, match=r"fine-tun|quantiz"):
        Trainer(model=model, args=TrainingArguments(output_dir=str(tmp_path), report_to=[]))
