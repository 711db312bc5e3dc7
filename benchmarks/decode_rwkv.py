"""The rwkv package, for `benchmarks.decode`: an RWKV-7 of the same size with random weights.

The package reads one text at a time, so several texts are read one after the other.
"""

import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.decode_models import Candidate, Ids, architecture, check_size
from sioconv.model import SioConvConfig, SioConvForCausalLM

HEAD = 64  # channels of a head in all published models


def rwkv_peer(size: str) -> Candidate:
    """RWKV-7 in fp32 as the rwkv package runs it, with as many parameters as ours. Raises TooLargeError."""
    weights = random_weights(size)
    count = sum(value.numel() for value in weights.values())
    check_size(4 * count)
    table = weights["emb.weight"].numel()
    matrices = (value for name, value in weights.items() if value.dim() == 2 and not name.endswith("r_k"))
    products = sum(value.numel() for value in matrices) - table
    os.environ.setdefault("RWKV_V7_ON", "1")  # the package asks when it is imported
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        from rwkv.model import RWKV_x070

        torch.save(weights, Path(folder) / "model.pth")
        model: Any = RWKV_x070(str(Path(folder) / "model"), "cpu fp32")

    def memories(rows: int, _: int) -> list[Any]:
        return [model.generate_zero_state() for _ in range(rows)]

    def step(memory: list[Any], ids: Ids) -> Any:
        found = [model.forward(some, state) for state, some in zip(memory, ids, strict=True)]
        memory[:] = [state for _, state in found]
        return torch.stack([logits for logits, _ in found]).argmax(1).numpy()

    def size_of(memory: list[Any]) -> int:
        return sum(tensor.nbytes for state in memory for tensor in state)

    return Candidate(4 * count, 4 * (count - table), products, memories, step, size_of)


def random_weights(size: str) -> dict[str, Tensor]:
    """An RWKV-7's weights by the names of its files; the feed-forward's width makes it as large as ours."""
    shape, vocabulary = architecture(size)
    width, layers = shape.hidden_size, shape.num_hidden_layers
    with torch.device("meta"):
        ours = SioConvForCausalLM(SioConvConfig(**vars(shape), vocab_size=vocabulary)).num_parameters()
    least = sum(value.numel() for value in _weights(width, layers, 32, vocabulary).values())
    inner = 32 + max(0, round((ours - least) / (2 * width * layers) / 32) * 32)
    return _weights(width, layers, inner, vocabulary)


def _weights(width: int, layers: int, inner: int, vocabulary: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random) * shape[-1] ** -0.5

    def vector(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    rank = {"w": 1.8 * width**0.5, "a": 1.8 * width**0.5, "v": 1.3 * width**0.5, "g": 0.6 * width**0.8}
    weights = {"emb.weight": matrix(vocabulary, width), "head.weight": matrix(vocabulary, width)}
    for norm in ("ln_out", "blocks.0.ln0"):
        weights |= {f"{norm}.weight": torch.ones(width), f"{norm}.bias": torch.zeros(width)}
    for layer in range(layers):
        block = f"blocks.{layer}"
        for norm in ("ln1", "ln2", "att.ln_x"):
            weights |= {f"{block}.{norm}.weight": torch.ones(width), f"{block}.{norm}.bias": torch.zeros(width)}
        weights |= {f"{block}.att.x_{name}": vector(1, 1, width) for name in "rwkvag"}
        weights |= {f"{block}.att.{name}": vector(1, 1, width) for name in ("w0", "a0", "v0", "k_k", "k_a")}
        weights[f"{block}.att.r_k"] = vector(width // HEAD, HEAD)
        for name, size in rank.items():
            low = max(32, round(size / 32) * 32)
            weights |= {f"{block}.att.{name}1": matrix(width, low), f"{block}.att.{name}2": matrix(low, width)}
        for name in ("receptance", "key", "value", "output"):
            weights[f"{block}.att.{name}.weight"] = matrix(width, width)
        weights[f"{block}.ffn.x_k"] = vector(1, 1, width)
        weights[f"{block}.ffn.key.weight"] = matrix(inner, width)
        weights[f"{block}.ffn.value.weight"] = matrix(width, inner)
    return weights
