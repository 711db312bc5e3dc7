"""The `sioconv-2024` family computes what the implementation of 2024 computed, from the weights that it saved."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sioconv.model import PRESETS, SioConvCache, SioConvConfig, SioConvForCausalLM

FIXTURES = Path(__file__).parents[1] / "fixtures"
# What a name of 2024 is called here. One after the other: the inner ones stand last.
RENAMES = {
    r"^token_in\.": "model.embed_tokens.",
    r"^token_out\.": "lm_head.",
    r"^norm_last\.": "model.norm.",
    r"^block_list\.(\d+)\.": r"model.layers.\1.",
    r"\.norm_sconv\.": ".mixer_norm.",
    r"\.norm_ffn\.": ".ffn_norm.",
    r"\.sconv\.last_hidden_init$": ".mixer.initial_state",
    r"\.sconv\.sconv\.ln_a$": ".mixer.A_log",
    r"\.sconv\.sconv\.fc_(dt|z|y)\.": r".mixer.\1_proj.",
    r"\.sconv\.sconv\.fc_(z|y)_act\.": r".mixer.\1_gate_proj.",
    r"\.sconv\.sconv\.norm\.": ".mixer.state_norm.",
    r"\.ffn\.fc\.": ".ffn.up_proj.",
    r"\.ffn\.fc_act\.": ".ffn.gate_proj.",
    r"\.ffn\.fc_out\.": ".ffn.down_proj.",
}


def new_name(name: str) -> str:
    for old, new in RENAMES.items():
        name = re.sub(old, new, name)
    return name


@pytest.fixture(scope="module")
def model() -> SioConvForCausalLM:
    sizes = json.loads((FIXTURES / "sconv_mh_tiny.json").read_text())
    config = SioConvConfig(
        **PRESETS["sioconv-2024"],
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["dim"],
        num_hidden_layers=sizes["depth"],
        num_heads=sizes["num_head"],
        intermediate_size=sizes["dim_ff_hidden"],
    )
    model = SioConvForCausalLM(config).eval()
    weights = torch.load(FIXTURES / "sconv_mh_tiny.ckpt", weights_only=True)["model"]
    model.load_state_dict({new_name(name): weight for name, weight in weights.items()}, strict=True)
    return model


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return load_file(FIXTURES / "sconv_mh_tiny_io.safetensors")


def states(cache: SioConvCache) -> Tensor:
    """[batch, depth, heads, head_dim], as the states of 2024 are laid out."""
    return torch.stack([cache.state_dict()[f"layers.{i}.c"] for i in range(2)], dim=1)


@torch.no_grad()
def test_logits_and_states(model: SioConvForCausalLM, recorded: dict[str, Tensor]) -> None:
    cache = SioConvCache(model.config)
    logits = model(recorded["input_ids"], cache=cache).logits
    torch.testing.assert_close(logits, recorded["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(states(cache), recorded["hidden"], atol=1e-4, rtol=1e-5)

    logits = model(recorded["next_input_ids"], cache=cache).logits
    torch.testing.assert_close(logits, recorded["next_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(states(cache), recorded["next_hidden"], atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_token_by_token(model: SioConvForCausalLM, recorded: dict[str, Tensor]) -> None:
    cache = SioConvCache(model.config)
    logits = torch.cat([model(token, cache=cache).logits for token in recorded["input_ids"].split(1, dim=1)], dim=1)
    torch.testing.assert_close(logits, recorded["logits"], atol=1e-4, rtol=0)


def test_the_checkpoint_has_embeddings_to_clip(model: SioConvForCausalLM) -> None:
    assert (model.model.embed_tokens.weight.norm(dim=-1) > 1.01).any()
