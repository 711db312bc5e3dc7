"""The file that a session is kept in: the model's memory as safetensors, everything else as metadata."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sioconv.generate.config import LARGEST_SEED
from sioconv.model import SioConvForCausalLM
from sioconv.model.tensor_file import SESSION, check_shapes, damage, read_tensors, write_tensors


@dataclass(frozen=True)
class SessionState:
    """What a session is besides the model's memory.

    Args:
        tokens_seen: tokens in the memory.
        pending_ids: tokens that come after them.
        pending_bytes: bytes that were written but not printed.
        turn_ids: distinct tokens of the current turn, which the repetition penalty acts on.
        seed: the session's seed.
        turns: turns of a conversation that the model has written.
    """

    tokens_seen: int
    pending_ids: list[int]
    pending_bytes: bytes
    turn_ids: list[int]
    seed: int
    turns: int


def write_state(path: Path, model: SioConvForCausalLM, state: SessionState, tensors: dict[str, Tensor]) -> None:
    """Writes `state` and the memory's tensors to `path`, whole or not at all.

    The tensors are `layers.{i}.c` [1, H, P] fp32; with a convolution, `layers.{i}.conv` [1, D, W - 1]; with a mixture
    of z and the last one, `layers.{i}.z` [1, H, P].

    Raises:
        UserError: the file can't be written.
    """
    metadata = {
        "tokens_seen": str(state.tokens_seen),
        "pending_ids": json.dumps(state.pending_ids),
        "pending_bytes": state.pending_bytes.hex(),
        "turn_ids": json.dumps(state.turn_ids),
        "seed": str(state.seed),
        "turns": str(state.turns),
    }
    write_tensors(path, SESSION, model.fingerprint(), tensors, metadata)


def read_state(path: Path, model: SioConvForCausalLM) -> tuple[SessionState, dict[str, Tensor]]:
    """The state that was written to `path`, and the memory's tensors on the model's device.

    Raises:
        UserError: no such file, not a state file, another format version, another model's state, or a damaged file.
    """
    metadata, tensors = read_tensors(path, SESSION, model.fingerprint())
    with damage(path, SESSION):
        state = _parse(metadata, model.config.vocab_size)
        _check_tensors(tensors, model, state.tokens_seen)
    return state, {name: value.to(model.device) for name, value in tensors.items()}


def _parse(metadata: dict[str, str], vocab_size: int) -> SessionState:
    return SessionState(
        tokens_seen=_number(metadata, "tokens_seen"),
        pending_ids=_ids(metadata, "pending_ids", vocab_size),
        pending_bytes=bytes.fromhex(metadata["pending_bytes"]),
        turn_ids=_ids(metadata, "turn_ids", vocab_size),
        seed=_number(metadata, "seed"),
        turns=_number(metadata, "turns"),
    )


def _number(metadata: dict[str, str], key: str) -> int:
    value = int(metadata[key])
    if not 0 <= value <= LARGEST_SEED:
        raise ValueError(f"{key} is {value}")
    return value


def _ids(metadata: dict[str, str], key: str, vocab_size: int) -> list[int]:
    ids = json.loads(metadata[key])
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < vocab_size for i in ids):
        raise ValueError(f"{key} is not a list of token ids below {vocab_size}")
    return ids


def _check_tensors(tensors: dict[str, Tensor], model: SioConvForCausalLM, tokens_seen: int) -> None:
    config = model.config
    heads = (1, config.num_heads, config.head_dim)
    shapes = {"c": heads}
    if config.conv_width:
        shapes["conv"] = (1, config.hidden_size, config.conv_width - 1)
    if config.trapezoid:
        shapes["z"] = heads
    layers = range(config.num_hidden_layers if tokens_seen else 0)
    check_shapes(tensors, {f"layers.{i}.{name}": shape for i in layers for name, shape in shapes.items()})
    if any(value.dtype != torch.float32 for name, value in tensors.items() if name.endswith(".c")):
        raise ValueError("its memory is not in fp32")
