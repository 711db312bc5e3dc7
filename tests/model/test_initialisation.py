"""What the weights start with, whichever way a model is made or loaded."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from sioconv.model import SioConvConfig, SioConvForCausalLM, SioConvLayer

Check = Callable[[SioConvForCausalLM], None]
FP32 = ("dt_proj", "A_log", "initial_state")


@pytest.fixture
def config(options: dict[str, object]) -> SioConvConfig:
    """Wide enough for statistics."""
    values = {"z_gain": 0.5, "y_gain": 0.25, "initial_state_std": 2.0, **options}
    return SioConvConfig(
        hidden_size=64, num_heads=16, intermediate_size=96, num_hidden_layers=2, vocab_size=200, **values
    )


def std(parameter: Tensor) -> float:
    return float(parameter.detach().float().std())


def assert_fresh_gates(mixer: SioConvLayer) -> None:
    """The forget gates' timescales at an input of 0, and how rate and step share them."""
    config, softplus = mixer.config, torch.nn.functional.softplus
    log_a = mixer.gate_of(mixer.dt_proj.bias).flatten()
    if config.timescale_max is not None:
        spaced = torch.logspace(0, math.log10(config.timescale_max), len(log_a))
        torch.testing.assert_close(-1 / log_a, spaced, rtol=1e-4, atol=0)
    else:
        assert 0.6 < (-1 / log_a).min() < 60 and 10 < (-1 / log_a).max() < 1010
    if config.gate_bound is not None:
        assert not mixer.dt_proj.bias.any()
    else:
        dt = softplus(mixer.dt_proj.bias)
        if config.timescale_max is None or config.timescale_max >= 100:
            assert 0.00099 < dt.min() < 0.02 and 0.01 < dt.max() < 0.101
        assert mixer.A_log.min() >= 0 and mixer.A_log.max() <= 2.78 and std(mixer.A_log) > 0.2  # rates from 1 to 16


def assert_fresh_linear(linear: nn.Linear, config: SioConvConfig, zero: bool = False) -> None:
    """As torch starts it, normal, or at 0."""
    spread = (3 * linear.in_features) ** -0.5 if config.linear_std is None else config.linear_std
    assert std(linear.weight) == pytest.approx(0 if zero else spread, rel=0.05)
    if linear.bias is not None and (zero or config.linear_std is not None):
        assert not linear.bias.any()
    elif linear.bias is not None:
        assert 0 < linear.bias.abs().max() <= linear.in_features**-0.5


def assert_fresh(model: SioConvForCausalLM) -> None:
    """Every parameter is as in a new model."""
    config, width = model.config, model.config.hidden_size
    rows = model.model.embed_tokens.weight.detach()
    if config.embedding_max_norm is None:
        assert std(rows) == pytest.approx(config.embedding_std, rel=0.05)
    else:
        assert (rows.norm(dim=-1) <= config.embedding_max_norm + 1e-6).all()
        assert std(rows) == pytest.approx(config.embedding_max_norm / width**0.5, rel=0.05)
    for block in model.model.layers:
        mixer = block.mixer
        for name, gain in {"z": config.z_gain, "y": config.y_gain}.items():
            for part in (f"{name}_proj", f"{name}_gate_proj"):
                linear, zero = mixer.get_submodule(part), part == "y_proj" and config.zero_out_projections
                assert std(linear.weight) == pytest.approx(0 if zero else gain * width**-0.5, rel=0.1)
                assert linear.bias is None or not linear.bias.any()
        assert 0 < std(mixer.dt_proj.weight) < 0.01
        assert_fresh_gates(mixer)
        assert std(mixer.initial_state) == pytest.approx(config.initial_state_std, rel=0.4, abs=1e-9)
        if mixer.conv_weight is not None:
            tap = int(config.conv_on == "z_gate")  # the step itself, or the one before
            assert (mixer.conv_weight[:, tap] == 1).all() and mixer.conv_weight.sum() == width
        for norm in (block.mixer_norm, block.ffn_norm, mixer.state_norm):
            assert (norm.weight == 1).all()
        assert not mixer.state_norm.bias.any()
        if mixer.mix_proj is not None:
            assert not mixer.mix_proj.weight.any() and (mixer.mix_proj.bias == 2).all()
        for linear in (block.ffn.up_proj, block.ffn.gate_proj):
            assert_fresh_linear(linear, config)
        assert_fresh_linear(block.ffn.down_proj, config, zero=config.zero_out_projections)
    if not config.tie_word_embeddings:
        assert_fresh_linear(model.lm_head, config)
    assert (model.model.norm.weight == 1).all()


@torch.no_grad()
def test_a_new_model(config: SioConvConfig) -> None:
    assert_fresh(SioConvForCausalLM(config))


def test_the_seed_decides(config: SioConvConfig) -> None:
    prints = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        prints.append(SioConvForCausalLM(config).fingerprint())
    assert prints[0] == prints[1] != prints[2]


@torch.no_grad()
def test_a_model_on_no_device_is_given_memory_later(config: SioConvConfig) -> None:
    with torch.device("meta"):
        model = SioConvForCausalLM(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.fill_(torch.nan)
    for module in model.modules():
        module._is_hf_initialized = False
    model.init_weights()
    assert_fresh(model)


@torch.no_grad()
def test_missing_weights_start_afresh(config: SioConvConfig, tmp_path: Path) -> None:
    """Each weight may be the missing one; those that are there are left alone.

    The gates' rates and steps are missing together: with `timescale_max` they are drawn together.
    """
    model = SioConvForCausalLM(config)
    model.save_pretrained(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    groups = sorted({name.replace("A_log", "dt_proj.bias") for name in whole})
    for part in range(3):
        chosen = groups[part::3]
        missing = {name for name in whole if name.replace("A_log", "dt_proj.bias") in chosen}
        save_file(
            {k: v for k, v in whole.items() if k not in missing}, tmp_path / "model.safetensors", {"format": "pt"}
        )
        loaded, report = SioConvForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert missing <= set(report["missing_keys"])
        assert_fresh(loaded)
        for name, value in loaded.state_dict().items():
            if name in whole and name not in missing:
                assert torch.equal(value, whole[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_new_model_of_half_precision_has_its_gates_in_fp32(config: SioConvConfig, dtype: torch.dtype) -> None:
    """And not in values that were rounded before."""
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if any(part in name for part in FP32) else dtype), name
    mixer = model.model.layers[0].mixer
    for gate in (mixer.A_log, mixer.dt_proj.weight):
        assert not torch.equal(gate, gate.to(dtype).float())
    assert model(torch.ones(2, 5, dtype=torch.int64)).logits.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_save_and_load(model: SioConvForCausalLM, ids: Tensor, tmp_path: Path, dtype: torch.dtype) -> None:
    model = model.float()
    model.save_pretrained(tmp_path)
    loaded, report = SioConvForCausalLM.from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == (torch.float32 if any(part in name for part in FP32) else dtype), name
        assert torch.equal(parameter, model.get_parameter(name).to(parameter.dtype)), name
    logits, expected = loaded(ids).logits, model(ids).logits
    if dtype == torch.float32:
        assert torch.equal(logits, expected)
    else:
        assert logits.dtype == dtype
        error = (logits - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        assert error < 0.05


@torch.no_grad()
def test_tied_embeddings_stay_tied(model: SioConvForCausalLM, tmp_path: Path) -> None:
    model.float().save_pretrained(tmp_path)
    for tied in (model, SioConvForCausalLM.from_pretrained(tmp_path)):
        assert (tied.lm_head.weight is tied.model.embed_tokens.weight) == model.config.tie_word_embeddings
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != model.config.tie_word_embeddings
