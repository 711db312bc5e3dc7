"""Models of a few thousand weights in every form that the options allow."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sioconv.model import PRESETS, SioConvConfig, SioConvForCausalLM

VOCABULARY = 40
SIZES = {"hidden_size": 12, "num_heads": 3, "num_hidden_layers": 2, "intermediate_size": 20, "vocab_size": VOCABULARY}
# The model is made of independent options; each is in some variant together with others that could disturb it.
VARIANTS: dict[str, dict[str, object]] = {
    **PRESETS,
    "channel gates, conv 2": {"gate": "channel", "conv_width": 2, "embedding_max_norm": None},
    "variance, conv 3, no bias": {"input_scale": "variance", "conv_width": 3, "use_bias": False, "head_bias": False},
    "mean, conv 4, tied": {"input_scale": "mean", "conv_width": 4, "tie_word_embeddings": True},
    "channel, variance": {"gate": "channel", "input_scale": "variance"},
    "bounded, conv 3 on z, gate inside": {"gate_bound": 8.0, "conv_width": 3, "conv_on": "z", "output_gate": "normed"},
    "bounded channel, conv 2 on the recurrence, gate on the state": {
        "gate": "channel",
        "gate_bound": 2.0,
        "timescale_max": 100.0,
        "conv_width": 2,
        "conv_on": "recurrence",
        "output_gate": "state",
    },
    "trapezoid, channel gates, conv 3 on z, 2 groups, gate inside": {
        "trapezoid": True,
        "gate": "channel",
        "conv_width": 3,
        "conv_on": "z",
        "norm_groups": 2,
        "output_gate": "normed",
    },
    "trapezoid, scaled, 4 groups, small starts": {
        "trapezoid": True,
        "input_scale": "variance",
        "norm_groups": 4,
        "embedding_std": 0.5,
        "embedding_max_norm": None,
        "linear_std": 0.05,
        "zero_out_projections": True,
    },
    "trapezoid, conv 3 on z's gate": {"trapezoid": True, "conv_width": 3, "conv_on": "z_gate"},
    "channel gates, variance, conv 2 on z's gate": {
        "gate": "channel",
        "input_scale": "variance",
        "conv_width": 2,
        "conv_on": "z_gate",
    },
    "bigrams in few rows, bounded embedding, conv 2": {"bigram_rows": 2, "bigram_width": 5, "conv_width": 2},
    "bigrams in many rows, trapezoid, tied": {
        "bigram_rows": 50,
        "bigram_width": 4,
        "trapezoid": True,
        "tie_word_embeddings": True,
    },
    "one group, gate on the state": {"norm_groups": 1, "output_gate": "state"},
}

Build = Callable[..., SioConvForCausalLM]


def enliven(module: nn.Module) -> None:
    """Moves every parameter away from the special values that it starts with (zeros, ones, an identity, tiny gains)."""
    for parameter in module.parameters():
        parameter.data += torch.randn_like(parameter) * 0.3


@pytest.fixture(scope="session")
def build() -> Build:
    """`build(**options)`: a model in eval mode and float64 whose output depends on all it reads, always the same."""

    def make(**options: object) -> SioConvForCausalLM:
        torch.manual_seed(0)
        model = SioConvForCausalLM(SioConvConfig(**{**SIZES, **options}))
        enliven(model)
        return model.double().eval()

    return make


@pytest.fixture(scope="session", params=VARIANTS.values(), ids=VARIANTS)
def options(request: pytest.FixtureRequest) -> dict[str, object]:
    """The options of one variant."""
    return dict(request.param)


@pytest.fixture
def model(build: Build, options: dict[str, object]) -> SioConvForCausalLM:
    """A model of one variant; a test may change it."""
    return build(**options)


@pytest.fixture
def ids() -> Tensor:
    """Three rows of eleven token ids, [3, 11]."""
    return torch.randint(0, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(1))
