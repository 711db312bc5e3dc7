"""A persona in a file: the initial states that were tuned for a model whose other weights stay as they are."""

from pathlib import Path

import torch
from torch import nn

from sioconv.model.causal_lm import SioConvForCausalLM
from sioconv.model.tensor_file import INITIAL_STATE, check_shapes, damage, pack, read_tensors, write_tensors

INITIAL_STATE_FILE = "state.safetensors"  # in a run's folder


def initial_states(model: SioConvForCausalLM) -> dict[str, nn.Parameter]:
    """The learned initial state of each layer, `layers.{i}.initial_state` [H, P]."""
    return {f"layers.{i}.initial_state": block.mixer.initial_state for i, block in enumerate(model.model.layers)}


def save_initial_state(path: Path, model: SioConvForCausalLM, base_fingerprint: str) -> None:
    """Writes the model's initial states to `path`, whole or not at all: `layers.{i}.initial_state` [H, P] fp32.

    Args:
        path: the file; an older one is replaced.
        model: the tuned model.
        base_fingerprint: `fingerprint()` of the model before it was tuned.

    Raises:
        UserError: the file can't be written.
    """
    states = {name: value.float() for name, value in initial_states(model).items()}
    write_tensors(path, INITIAL_STATE, pack(INITIAL_STATE, base_fingerprint, states, {}))


@torch.no_grad()
def load_initial_state(path: str | Path, model: SioConvForCausalLM, base_fingerprint: str | None = None) -> None:
    """Puts the initial states of a file in the place of the model's own; every text then starts from them.

    Args:
        path: what `save_initial_state` wrote.
        model: the model that they were tuned from, in place.
        base_fingerprint: of that model in fp32, where `model` has lower precision; by default the model's own.

    Raises:
        UserError: no such file, another kind of file, another format version, tuned from another model, or damaged.
            The model is then as it was.
    """
    path, own = Path(path), initial_states(model)
    most = sum(value.numel() for value in own.values())
    _, tensors = read_tensors(path, INITIAL_STATE, base_fingerprint or model.fingerprint(), most)
    with damage(path, INITIAL_STATE):
        check_shapes(tensors, {name: tuple(value.shape) for name, value in own.items()})
        for name, value in tensors.items():
            if value.dtype != torch.float32:
                raise ValueError(f"{name} is not in fp32")
            if not value.isfinite().all():
                raise ValueError(f"{name} is not finite")
    for name, value in tensors.items():
        own[name].copy_(value)
