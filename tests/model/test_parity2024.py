"""The `sioconv-2024` family computes what the implementation of 2024 computed, from the weights that it saved."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sioconv.model import SioConvCache, SioConvForCausalLM
from sioconv.model.convert import convert_checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SioConvForCausalLM:
    folder = tmp_path_factory.mktemp("converted") / "model"
    convert_checkpoint(FIXTURES / "sconv_mh_tiny.ckpt", folder, FIXTURES / "sconv_mh_tiny.json")
    model: SioConvForCausalLM = SioConvForCausalLM.from_pretrained(folder)
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
