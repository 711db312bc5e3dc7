"""What `benchmarks.decode` compares: models of equal size with random weights, and one step of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from sioconv.generate.decoder import Piece, pick_decoder
from sioconv.generate.states.state import State
from sioconv.model import Architecture, SioConvConfig, SioConvForCausalLM
from sioconv.model.baselines.architectures import build_baseline
from sioconv.model.quantised import QuantisedWeight, quantise_modules

# D, layers, heads, feed-forward, vocabulary. The first is the demo's.
SHAPES: dict[str, tuple[int, int, int, int, int]] = {
    "tiny": (64, 2, 4, 64, 96),
    "5M": (256, 3, 8, 512, 6144),
    "25M": (512, 6, 8, 1024, 10240),
    "125M": (1024, 13, 16, 2048, 16384),
    "1.6B": (2048, 36, 16, 6144, 32768),
}
BITS = {"int8": 8, "int4": 4}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LARGEST = 2 * 2**30  # bytes of weights or of one memory; what needs more is left out and named
Ids = list[list[int]]


class TooLargeError(Exception):
    """A model or a memory is beyond LARGEST."""


@dataclass(frozen=True)
class Candidate:
    """A model and what is done with it.

    Args:
        weights: bytes of its weights in memory.
        read: bytes of them that one token reads.
        products: multiplications of one token in its linear layers.
        memories: `memories(rows, context)`: a memory for so many texts, each as large as after so many tokens.
        step: `step(memory, ids)`: reads ids [B][T] and says the likeliest next of each, [B].
        size: bytes of a memory.
    """

    weights: int
    read: int
    products: int
    memories: Callable[[int, int], Any]
    step: Callable[[Any, Ids], Any]
    size: Callable[[Any], int]


def architecture(size: str) -> tuple[Architecture, int]:
    """The shape of that name, and its vocabulary."""
    width, layers, heads, inner, vocabulary = SHAPES[size]
    shape = Architecture(hidden_size=width, num_hidden_layers=layers, num_heads=heads, intermediate_size=inner)
    return shape, vocabulary


def ours(size: str, kind: str) -> Candidate:
    """SioConv with weights of that kind: fp32, bf16, int8 or int4. Raises TooLargeError."""
    model = random_model(size, kind)
    decoder = pick_decoder(model)
    vocabulary = model.config.vocab_size

    def memories(rows: int, _: int) -> list[Any]:
        start = decoder.memory(State())
        decoder.read([Piece(start, [i % vocabulary for i in range(8)], False)])
        return [decoder.copy(start) for _ in range(rows)]

    def step(memory: list[Any], ids: Ids) -> Any:
        return decoder.read([Piece(one, some, True) for one, some in zip(memory, ids, strict=True)]).argmax(1)

    table = sum(parameter.nbytes for parameter in model.model.embed_tokens.parameters())
    weights = sum(parameter.nbytes for parameter in model.parameters())

    def size_of(memory: list[Any]) -> int:
        return sum(one.states.nbytes for one in memory)

    return Candidate(weights, weights - table, products(model), memories, step, size_of)


def random_model(size: str, kind: str) -> SioConvForCausalLM:
    """Random weights, which are never in memory in another kind. Raises TooLargeError."""
    shape, vocabulary = architecture(size)
    with torch.device("meta"):
        model = SioConvForCausalLM(SioConvConfig(**vars(shape), vocab_size=vocabulary))
        if kind in BITS:
            quantise_modules(model, BITS[kind], torch.float32)
    if kind == "bf16":
        for name, value in model.named_parameters():
            if value.dim() == 2 and not any(part in name for part in ("dt_proj", "mix_proj", "initial_state")):
                value.data = value.data.bfloat16()
    check_size(sum(parameter.nbytes for parameter in model.parameters()))
    model = model.to_empty(device="cpu").eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for name, value in module.named_parameters(recurse=False):
                _fill(module, name, value, random)
    return model


def _fill(module: nn.Module, name: str, value: Tensor, random: torch.Generator) -> None:
    if isinstance(module, QuantisedWeight) and name == "codes":
        low, high = (-127, 128) if module.bits == 8 else (0, 256)
        value.random_(low, high, generator=random)
    elif isinstance(module, QuantisedWeight) and name == "scales":
        scale = module.columns**-0.5 / (73 if module.bits == 8 else 4.6)  # weights of variance 1 / columns
        value.copy_(torch.full(value.shape, scale).bfloat16().view(torch.int16))
    elif value.dim() == 2:
        value.normal_(std=value.shape[1] ** -0.5, generator=random)
    else:
        value.fill_(float("norm" in type(module).__name__.lower() and name == "weight"))


def products(model: nn.Module) -> int:
    """Numbers in the matrices of the linear layers."""
    found = 0
    for module in model.modules():
        if isinstance(module, nn.Linear) or (isinstance(module, QuantisedWeight) and hasattr(module, "in_features")):
            found += int(module.in_features) * int(module.out_features)
    return found


def transformers_peer(name: str, size: str, dtype: torch.dtype = torch.float32) -> Candidate:
    """transformers' Llama or Mamba-2 with its cache, as `build_baseline` makes them. Raises TooLargeError."""
    shape, vocabulary = architecture(size)
    with torch.device("meta"):
        planned = build_baseline(name, shape, vocabulary)
    check_size(sum(parameter.numel() for parameter in planned.parameters()) * dtype.itemsize)
    model: Any = build_baseline(name, shape, vocabulary).to(dtype).eval()
    config = model.config

    @torch.inference_mode()
    def memories(rows: int, context: int) -> Any:
        if name != "llama":
            return model(torch.zeros(rows, 8, dtype=torch.int64), use_cache=True).cache
        heads, channels = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
        check_size(2 * config.num_hidden_layers * rows * heads * context * channels * dtype.itemsize)
        cache = DynamicCache(config=config)
        for layer in range(config.num_hidden_layers):
            keys = torch.randn(rows, heads, context, channels, dtype=dtype)
            cache.update(keys, keys.clone(), layer)
        return cache

    @torch.inference_mode()
    def step(memory: Any, ids: Ids) -> Any:
        out = model(torch.tensor(ids), use_cache=True, logits_to_keep=1, cache=memory)
        return out.logits[:, -1].argmax(-1).numpy()

    def memory_size(memory: Any) -> int:
        return sum(tensor.nbytes for layer in memory.layers for tensor in _tensors(vars(layer)))

    weights = sum(parameter.nbytes for parameter in model.parameters())
    table = model.get_input_embeddings().weight.nbytes
    return Candidate(weights, weights - table, products(model), memories, step, memory_size)


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in dictionaries and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def check_size(size: int) -> None:
    if size > LARGEST:
        raise TooLargeError(f"needs {size / 2**30:.1f} GiB")


def llama_cpp(size: str, kind: str) -> Candidate:
    """A Llama in llama.cpp: F32, Q8_0 or Q4_0; its package is needed by nothing else. Raises TooLargeError."""
    from benchmarks.decode_llama_cpp import llama_cpp_peer

    return llama_cpp_peer(size, kind)


def rwkv(size: str) -> Candidate:
    """RWKV-7 by the rwkv package, which is needed by nothing else here. Raises TooLargeError."""
    from benchmarks.decode_rwkv import rwkv_peer

    return rwkv_peer(size)


# By name: what makes the model of a size.
CANDIDATES: dict[str, Callable[[str], Candidate]] = {
    **{f"sioconv {kind}": lambda size, kind=kind: ours(size, kind) for kind in (*DTYPES, *BITS)},
    "llama fp32": lambda size: transformers_peer("llama", size),
    "mamba2 fp32": lambda size: transformers_peer("mamba2", size),
    "rwkv-7 fp32": rwkv,
    **{f"llama.cpp {kind}": lambda size, kind=kind: llama_cpp(size, kind) for kind in ("F32", "Q8_0", "Q4_0")},
}


def random_ids(rows: int, length: int, vocabulary: int) -> Ids:
    """Token ids [B][T] from a fixed seed."""
    ids: Ids = np.random.default_rng(0).integers(0, vocabulary, (rows, length)).tolist()
    return ids
