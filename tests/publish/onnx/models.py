"""Random models for what becomes ONNX."""

from typing import Any

import torch

from sioconv.model import SioConvConfig, SioConvForCausalLM


def varied_model(vocab_size: int, **options: Any) -> SioConvForCausalLM:
    """A small random model away from zeros, ones and tiny gains, the initial state too."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 4, "intermediate_size": 48}
    gains = {"z_gain": 1.0, "y_gain": 1.0}
    torch.manual_seed(0)
    model = SioConvForCausalLM(SioConvConfig(vocab_size=vocab_size, **sizes | gains | options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model
