"""Checkpoints of the model of 2024 as model folders.

Such a checkpoint is a dictionary that `torch.save` wrote; `model` is the state dict, the rest (optimiser, scheduler,
carried states) belongs to that trainer and is left out. Every size is read off the weights.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sioconv.errors import UserError
from sioconv.model.architecture import PRESETS
from sioconv.model.causal_lm import SioConvForCausalLM
from sioconv.model.configuration import SioConvConfig
from sioconv.model.folder import save_model_folder
from sioconv.progress import say

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
# The sizes' names of 2024; others in a file of sizes (dropout, chunk_size) don't change what the model computes.
SIZES = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_head": "num_heads",
    "dim_ff_hidden": "intermediate_size",
}


def convert_checkpoint(
    checkpoint: Path,
    out: Path,
    sizes: Path | None = None,
    tokenizer: str | None = None,
    generation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the model folder `out` from a checkpoint of 2024, whole or not at all.

    Without a tokenizer the folder has no tokenizer files: transformers loads the model, the verbs of the command line
    wait for tokenizer.json and tokenizer_config.json.

    Args:
        checkpoint: the file.
        out: the folder; must not be there yet.
        sizes: JSON object of sizes (`vocab_size`, `dim`, `depth`, `num_head`, `dim_ff_hidden`) that the weights must
            have.
        tokenizer: folder or Hub id of the tokenizer that the model was trained with.
        generation: see `save_model_folder`.

    Returns:
        The folder, the model's sizes and number of parameters, the checkpoint's training steps (None where it doesn't
        say), and the number of the tokenizer's tokens (None without one).

    Raises:
        UserError: a file that can't be read, is no checkpoint of that kind or doesn't fit, or `out` is there already.
    """
    if out.exists():
        raise UserError(f"{out} is there already: choose another folder or remove it")
    content = read_checkpoint(checkpoint)
    weights = content["model"]
    found = infer_sizes(weights, checkpoint)
    if sizes is not None:
        _compare_sizes(found, sizes)
    vocabulary = None if tokenizer is None else _load_tokenizer(tokenizer, found["vocab_size"])
    model = build_model_of_2024(weights, found, checkpoint)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(f"convert: {parameters:,} parameters, {4 * parameters / 1e6:,.1f} MB in fp32 → {out}")
    eos = None if vocabulary is None else vocabulary.eos_token_id
    save_model_folder(model, vocabulary, out, [] if eos is None else [eos], generation)
    steps = content.get("steps")
    return {
        "model": str(out),
        "parameters": parameters,
        **{SIZES[name]: value for name, value in found.items()},
        "steps": steps if isinstance(steps, int) else None,
        "tokenizer_tokens": None if vocabulary is None else len(vocabulary),
    }


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint's dictionary, `model` among it; weights stay in the file until they are read.

    Only tensors and plain values are unpickled. Raises UserError for everything that isn't such a file.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: give the file that the trainer of 2024 wrote")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds objects other than tensors, or isn't a PyTorch checkpoint: such code is never run; "
            "save the state dict alone under the key 'model'"
        ) from error
    except Exception as error:  # torch raises many types for a broken file; the cause stays attached
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"{path} isn't a whole PyTorch checkpoint ({type(error).__name__}: {reason}): copy it again"
        ) from error
    weights = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{path} is no checkpoint of the 2024 model: it has no state dict under the key 'model'")
    return dict(content)


def infer_sizes(weights: Mapping[str, Tensor], path: Path) -> dict[str, int]:
    """The model's sizes by their names of 2024, from the shapes of the weights. `path` is for the message.

    Raises UserError where a weight that tells them is missing or has another number of dimensions.
    """
    told = {
        "token_in.weight": ("vocab_size", "dim"),
        "block_list.0.sconv.last_hidden_init": ("num_head", None),
        "block_list.0.ffn.fc.weight": ("dim_ff_hidden", None),
    }
    sizes: dict[str, int] = {}
    for name, letters in told.items():
        if name not in weights:
            raise UserError(f"{path} is no checkpoint of the 2024 model: it has no weight {name}")
        if weights[name].dim() != 2:
            raise UserError(f"{path}: {name} has shape {list(weights[name].shape)}: expected two dimensions")
        sizes |= {letter: size for letter, size in zip(letters, weights[name].shape, strict=True) if letter}
    blocks = {match[1] for name in weights if (match := re.match(r"block_list\.(\d+)\.", name))}
    return sizes | {"depth": len(blocks)}


def build_model_of_2024(weights: Mapping[str, Tensor], sizes: Mapping[str, int], path: Path) -> SioConvForCausalLM:
    """The model of the family `sioconv-2024` with these weights, fp32, in eval mode. `path` is for the message.

    Raises UserError where a name is unknown, a weight is missing or a shape doesn't fit.
    """
    try:
        config = SioConvConfig(**{**PRESETS["sioconv-2024"], **{SIZES[name]: size for name, size in sizes.items()}})
    except ValueError as error:
        raise UserError(f"{path}: its weights have impossible sizes: {' '.join(str(error).split())}") from error
    with torch.device("meta"):  # the weights are those of the file, not copies
        model = SioConvForCausalLM(config)
    renamed = {new_name(name): name for name in weights}
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name in expected:
        if name not in renamed:
            raise UserError(f"{path}: the weight of {name} is missing: the file is not whole or of another model")
    for name, old in renamed.items():
        if name not in expected:
            raise UserError(f"{path}: unknown weight {old}: the file is of another model")
        if weights[old].shape != expected[name]:
            raise UserError(f"{path}: {old} has shape {list(weights[old].shape)}: expected {list(expected[name])}")
    model.load_state_dict({name: weights[old].float() for name, old in renamed.items()}, assign=True)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def new_name(name: str) -> str:
    """What a weight of 2024 is called here; a name that has no other stays."""
    for old, new in RENAMES.items():
        name = re.sub(old, new, name)
    return name


def _compare_sizes(found: Mapping[str, int], file: Path) -> None:
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"can't read {file}: {error.strerror}: check the path and its rights") from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON: give an object of sizes such as {{{'dim'!r}: 2048}}") from error
    if not isinstance(given, dict):
        raise UserError(f"{file} is not a JSON object of sizes")
    for name, value in found.items():
        if given.get(name, value) != value:
            raise UserError(f"{file}: {name} is {given[name]!r}, but the checkpoint's weights have {value}")


def _load_tokenizer(source: str, vocab_size: int) -> PreTrainedTokenizerFast:
    if not (Path(source) / "tokenizer.json").is_file() and (Path(source).exists() or source.count("/") != 1):
        raise UserError(f"no tokenizer.json in {source}: give a folder that has one, or a Hub id owner/name")
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(source)
    except Exception as error:  # transformers and tokenizers raise many types; the cause stays attached
        raise UserError(f"can't load a tokenizer from {source}: {' '.join(str(error).split())[:200]}") from error
    if len(tokenizer) > vocab_size:
        raise UserError(
            f"the tokenizer in {source} has {len(tokenizer):,} tokens, the model's embedding {vocab_size:,} rows: "
            "give the tokenizer that the model was trained with"
        )
    return tokenizer
