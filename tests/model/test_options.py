"""Both families with each option alone: what must hold for any model that the configuration can describe.

The other tests of this folder look closer, at options in combination and in float64; these are in the precision that
people use.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sioconv.model import PRESETS, SioConvCache, SioConvConfig, SioConvForCausalLM, parameter_count
from sioconv.model.architecture import Architecture
from sioconv.recipe.schema import load_recipe

SIZES = {"hidden_size": 24, "num_heads": 3, "num_hidden_layers": 2, "intermediate_size": 40, "vocab_size": 50}
OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "channel gates": {"gate": "channel"},
    "bounded gates": {"gate_bound": 8.0},
    "spaced timescales": {"timescale_max": 1000.0},
    "convolution 2 on the mixer's input": {"conv_width": 2},
    "convolution 3 on the recurrence's input": {"conv_width": 3, "conv_on": "recurrence"},
    "convolution 4 on z": {"conv_width": 4, "conv_on": "z"},
    "convolution 2 on z's gate": {"conv_width": 2, "conv_on": "z_gate"},
    "scale sqrt(1 - a^2)": {"input_scale": "variance"},
    "scale 1 - a": {"input_scale": "mean"},
    "gate on the norm": {"output_gate": "normed"},
    "gate on the state": {"output_gate": "state"},
    "a mixture with the last z": {"trapezoid": True},
    "one group of the norm": {"norm_groups": 1},
    "small starts": {"embedding_std": 0.02, "linear_std": 0.02, "zero_out_projections": True},
    "no biases": {"use_bias": False, "head_bias": False},
    "free embeddings": {"embedding_max_norm": None},
    "tied embeddings": {"tie_word_embeddings": True},
    "bigrams": {"bigram_rows": 5, "bigram_width": 8},
}
FP32 = ("dt_proj", "A_log", "initial_state")


@pytest.fixture(params=[(preset, name) for preset in PRESETS for name in OPTIONS], ids=" ".join)
def model(request: pytest.FixtureRequest) -> SioConvForCausalLM:
    """fp32, eval, with weights that make its output depend on all that it reads."""
    preset, name = request.param
    torch.manual_seed(0)
    model = SioConvForCausalLM(SioConvConfig(**{**PRESETS[preset], **SIZES, **OPTIONS[name]}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.2
    return model.eval()


@pytest.fixture
def ids() -> Tensor:
    """[5, 70]: more steps than a chunk or a block of the kernels has."""
    return torch.randint(0, 50, (5, 70), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_cached_equals_whole_token_by_token(model: SioConvForCausalLM, ids: Tensor) -> None:
    """And a warm cache goes on with several tokens at once."""
    whole, cache = model(ids).logits, SioConvCache(model.config)
    single = [model(token, cache=cache).logits for token in ids[:, :40].split(1, dim=1)]
    pieces = [model(piece, cache=cache).logits for piece in ids[:, 40:].split([7, 1, 22], dim=1)]
    torch.testing.assert_close(torch.cat(single + pieces, dim=1), whole, atol=1e-5, rtol=1e-4)
    assert cache.get_seq_length() == 70


@torch.no_grad()
def test_what_stands_under_padding_is_not_read(model: SioConvForCausalLM, ids: Tensor) -> None:
    mask = torch.ones_like(ids)
    mask[0, :9], mask[1, -20:], mask[2, :69] = 0, 0, 0
    clean = model(ids.masked_fill(mask == 0, 0), attention_mask=mask, use_cache=True)
    dirty = model(torch.where(mask == 0, (ids * 7 + 3) % 50, ids), attention_mask=mask, use_cache=True)
    assert torch.equal(dirty.logits[mask.bool()], clean.logits[mask.bool()])
    for name, state in clean.cache.state_dict().items():
        assert torch.equal(dirty.cache.state_dict()[name], state), name
    for row in range(3):
        real = mask[row].bool()
        alone = model(ids[row : row + 1, real]).logits[0]
        torch.testing.assert_close(clean.logits[row, real], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_row_does_not_depend_on_the_others(model: SioConvForCausalLM, ids: Tensor) -> None:
    """Bit for bit where only their content changes; a matrix product of fewer rows may sum in another order."""
    together, others = model(ids).logits, (ids + 1) % 50
    for row in (0, 4):
        others[row] = ids[row]
        assert torch.equal(model(others).logits[row], together[row])
        torch.testing.assert_close(model(ids[row : row + 1]).logits[0], together[row], atol=1e-5, rtol=1e-5)


def test_packed_equals_separate(model: SioConvForCausalLM, ids: Tensor) -> None:
    """Logits, and the gradient of every parameter, with each of the marks that say where documents begin."""
    lengths = [33, 1, 36]
    separate = torch.cat([model(part.unsqueeze(0)).logits[0] for part in ids[0].split(lengths)])
    grad_output = torch.randn(separate.shape, generator=torch.Generator().manual_seed(2))
    expected = torch.autograd.grad((separate * grad_output).sum(), list(model.parameters()))
    ends = torch.tensor([0, 33, 34, 70], dtype=torch.int32)
    marks: dict[str, dict[str, Any]] = {
        "position_ids": {"position_ids": torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)},
        "seq_idx": {"seq_idx": torch.repeat_interleave(torch.tensor(lengths)).unsqueeze(0)},
        "cu_seq_lens": {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 36, "max_length_k": 36},
    }
    for name, mark in marks.items():
        packed = model(ids[:1], use_cache=False, **mark).logits[0]
        torch.testing.assert_close(packed, separate, atol=1e-5, rtol=1e-4, msg=lambda text, at=name: f"{at}: {text}")
        found = torch.autograd.grad((packed * grad_output).sum(), list(model.parameters()))
        for (parameter, _), gradient, other in zip(model.named_parameters(), found, expected, strict=True):
            assert (gradient - other).norm() <= 1e-4 * other.norm(), f"{name}: {parameter}"


@torch.no_grad()
def test_a_saved_model_computes_the_same(model: SioConvForCausalLM, ids: Tensor, tmp_path: Path) -> None:
    """In each precision that it is saved in; the gates stay in fp32, and in fp16 what quantisers leave alone too."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        kept = (*FP32, "mix_proj") if dtype == torch.float16 else FP32
        model.to(dtype)
        for name, parameter in model.named_parameters():
            if any(part in name for part in kept):
                parameter.data = parameter.float()
        expected = model(ids).logits
        model.save_pretrained(tmp_path)
        loaded = SioConvForCausalLM.from_pretrained(tmp_path, dtype=dtype)
        for name, parameter in loaded.named_parameters():
            assert parameter.dtype == (torch.float32 if any(part in name for part in kept) else dtype), name
        logits = loaded(ids).logits
        assert logits.dtype == dtype and torch.equal(logits, expected), dtype


def test_a_training_step_in_half_precision(model: SioConvForCausalLM, ids: Tensor) -> None:
    """Under autocast, the loss and its gradient are those of fp32 but for rounding.

    A gate on the state makes states of nearly 0, whose norm has a gradient that small errors change more.
    """
    parameters = list(model.train().parameters())
    expected = model(ids, labels=ids).loss
    grads = torch.autograd.grad(expected, parameters)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids).loss
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    found, whole = (
        torch.cat([grad_output.flatten() for grad_output in each])
        for each in (torch.autograd.grad(loss, parameters), grads)
    )
    assert torch.cosine_similarity(found, whole, dim=0) > (0.97 if model.config.output_gate == "state" else 0.98)


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        {
            "hidden_size": st.sampled_from([12, 24]),
            "num_heads": st.sampled_from([1, 2, 3, 12]),
            "num_hidden_layers": st.integers(1, 3),
            "intermediate_size": st.integers(1, 40),
            "vocab_size": st.integers(1, 60),
            "preset": st.sampled_from([*PRESETS]),
            "gate": st.sampled_from(["head", "channel"]),
            "gate_bound": st.sampled_from([None, 8.0]),
            "timescale_max": st.sampled_from([None, 100.0]),
            "conv_width": st.sampled_from([0, 2, 3, 4]),
            "conv_on": st.sampled_from(["mixer", "recurrence", "z", "z_gate"]),
            "input_scale": st.sampled_from(["none", "variance", "mean"]),
            "output_gate": st.sampled_from(["projected", "normed", "state"]),
            "trapezoid": st.booleans(),
            "norm_groups": st.sampled_from([None, 1, 4, 6]),
            "use_bias": st.booleans(),
            "head_bias": st.booleans(),
            "tie_word_embeddings": st.booleans(),
            "bigram_rows": st.integers(0, 6),
            "bigram_width": st.integers(1, 30),
        }
    )
)
def test_the_formula_counts_every_parameter(values: dict[str, Any]) -> None:
    """On no device, with any options together."""
    with torch.device("meta"):
        model = SioConvForCausalLM(SioConvConfig(**values))
        model.tie_weights()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert parameter_count(model.config, values["vocab_size"]) == count


@pytest.mark.parametrize(
    ("recipe", "billions"), [("sioconv-2024-1.6b.yaml", 1_695_792_200), ("sioconv-2024-4096.yaml", 4_397_974_984)]
)
def test_the_sizes_of_2024(recipe: str, billions: int) -> None:
    """On no device: the weights would take 7 and 18 GB."""
    architecture = load_recipe(["demo.yaml", recipe]).model
    assert architecture.preset == "sioconv-2024" and architecture.initial_state_std == 1.0
    values = {name: getattr(architecture, name) for name in Architecture.__dataclass_fields__}
    with torch.device("meta"):
        model = SioConvForCausalLM(SioConvConfig(**values, vocab_size=45_000))
    assert sum(parameter.numel() for parameter in model.parameters()) == billions
    assert parameter_count(architecture, 45_000) == billions
