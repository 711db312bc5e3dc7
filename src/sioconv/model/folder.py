"""A model folder: what training leaves, what every later verb takes, what the Hub holds."""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, overload

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from sioconv import unique_keys
from sioconv.checksums import check_sums, checksums, read_sums, summed, write_sums
from sioconv.errors import UserError
from sioconv.files import atomic_folder, atomic_write, missing, refuse_pointer, shown
from sioconv.model.causal_lm import SioConvForCausalLM
from sioconv.model.in_package import place_of
from sioconv.model.initial_state import load_initial_state
from sioconv.tokenizer_files import check_template, settle_tokenizer

CONFIG = "config.json"
SETTINGS = (CONFIG, "generation_config.json", "tokenizer_config.json")
SHOWN = 4  # model folders in a message


def vocabulary_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash of the vocabulary (tokens and ids), the same after the tokenizer was saved and loaded by other tools."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def weights_sum(folder: Path) -> str:
    """A hash of the weights of a model folder, from its checksums where it has them: loading compares these."""
    files, known = sorted(folder.glob("*.safetensors")), read_sums(folder)
    sums = [known[file.name] for file in files] if all(file.name in known for file in files) else checksums(files)
    return hashlib.sha256(" ".join(sums).encode()).hexdigest()


def save_model_folder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast | None,
    path: Path,
    stop_ids: list[int],
    generation: Mapping[str, Any] | None = None,
) -> None:
    """Writes config, weights (fp32 safetensors), tokenizer and generation defaults into `path`, whole or not at all.

    Their checksums are in the folder's `SHA256SUMS`.

    Args:
        model: the model; its weights are written in fp32.
        tokenizer: the tokenizer that it was trained with; None leaves its files out, and `load_model_folder` refuses
            the folder until they are there.
        path: the folder; an older one is replaced.
        stop_ids: tokens at which generation ends.
        generation: how tokens are chosen by default, in the words of transformers' `GenerationConfig`; the likeliest
            without it.
    """
    ids: dict[str, Any] = {"eos_token_id": stop_ids or None}
    if tokenizer is not None:
        model.config.tokenizer_fingerprint = vocabulary_fingerprint(tokenizer)
        if model.config.pad_token_id is None:  # by which heads for whole texts find the last token
            model.config.pad_token_id = tokenizer.pad_token_id
        ids |= {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ids, **(generation or {}), use_cache=True)  # type: ignore[no-untyped-call]
    write_model_folder(model, tokenizer, path)


def keep_generation(path: Path, generation: Mapping[str, Any]) -> None:
    """Changes how tokens are chosen by default in a folder that is there; its checksums go with it.

    Args:
        path: the folder.
        generation: in the words of transformers' `GenerationConfig`.
    """
    file = path / "generation_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    if values | generation != values:
        with summed(file), atomic_write(file) as temporary:
            temporary.write_text(json.dumps(values | generation, indent=2) + "\n", encoding="utf-8")


def write_model_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None, path: Path) -> None:
    """`save_model_folder` of a model whose configurations are as they shall be; whole numbers stay what they are."""
    values = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    weights = {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
    with atomic_folder(path) as folder:
        model.save_pretrained(folder, state_dict=weights)
        config = deepcopy(model.config)
        config.dtype = torch.float32  # not the model's, which transformers has written
        config.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
            settle_tokenizer(folder)
        write_sums(folder)


@overload
def load_model_folder(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    state: str | Path | None = None,
    baselines: Literal[False] = False,
) -> tuple[SioConvForCausalLM, PreTrainedTokenizerFast]: ...
@overload
def load_model_folder(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    state: str | Path | None = None,
    *,
    baselines: bool,
) -> tuple[Any, PreTrainedTokenizerFast]: ...
def load_model_folder(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    state: str | Path | None = None,
    baselines: bool = False,
) -> tuple[Any, PreTrainedTokenizerFast]:
    """Loads a model and its tokenizer from a local folder or, where there is none of that name, from the Hub.

    Args:
        path: a folder, the name of the package's model, or a Hub id `owner/name`.
        device: where the weights go.
        dtype: precision of the weights; the forget gates stay in fp32.
        state: file of initial states that were tuned from this model (a persona); they take the place of its own.
        baselines: whether a local folder may hold a model of `sioconv.model.baselines.architectures` as well.

    Returns:
        A `SioConvForCausalLM`, or with `baselines` a `PreTrainedModel`, in eval mode; and the tokenizer.

    Raises:
        UserError: no such folder, no weights, another kind of model, a file that isn't what was written, a tokenizer
            that isn't the model's, or a `state` that isn't of this model.
    """
    path = place_of(path)
    folder, kind = Path(path), "sioconv"
    if folder.exists():
        kind = _check_files(folder)
        if kind != "sioconv" and not (baselines and _is_baseline(kind)):
            raise UserError(f"{folder} holds a model of type {kind!r}: this command takes a sioconv model")
        check_sums(folder)
        check_template(folder)
    elif (
        str(path).count("/") != 1 or folder.parent.is_dir()
    ):  # an existing parent folder means a mistyped path, not a Hub id
        raise UserError(
            f"no model folder at {path}: give the path of a folder with config.json, or a Hub id owner/name; "
            f"{missing(path)}"
        )
    try:
        loader: Any = SioConvForCausalLM if kind == "sioconv" else AutoModelForCausalLM
        loaded: Any = loader.from_pretrained(str(path), dtype=dtype, output_loading_info=True)
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(str(path))
    except Exception as error:  # transformers raises many types for one bad folder; the cause stays attached
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"can't load a model from {path}: {reason}") from error
    model, report = loaded
    if report["missing_keys"]:
        raise UserError(
            f"weights are missing in {path}: {sorted(report['missing_keys'])[0]} and maybe more: copy the folder again"
        )
    expected = getattr(model.config, "tokenizer_fingerprint", None)
    if len(tokenizer) > model.config.vocab_size or (expected and expected != vocabulary_fingerprint(tokenizer)):
        raise UserError(
            f"the tokenizer in {path} is not the one that the model was trained with: restore its tokenizer.json"
        )
    if state is not None:
        # The file knows its model by the weights in fp32.
        whole = model if dtype == torch.float32 else SioConvForCausalLM.from_pretrained(str(path), dtype=torch.float32)
        load_initial_state(state, model, whole.fingerprint())
    return model.to(device).eval(), tokenizer


def _is_baseline(kind: Any) -> bool:
    from sioconv.model.baselines.architectures import (
        MODEL_TYPES,  # brings their classes, which other folders don't need
    )

    return kind in MODEL_TYPES


def _check_files(folder: Path) -> Any:
    """The model's type, of a folder that has all files."""
    if not folder.is_dir():
        raise UserError(f"no {CONFIG} in {shown(folder)}: it is a file: give the model folder that it is in")
    if not (folder / CONFIG).is_file() and (below := _models_below(folder)):
        raise UserError(f"no model in {shown(folder)}, but below it: give {' or '.join(below)}")
    for file in sorted(folder.iterdir()):
        refuse_pointer(file)
    for names in ((CONFIG,), ("model.safetensors", "model.safetensors.index.json"), ("tokenizer.json",)):
        if not any((folder / name).is_file() for name in names):
            raise UserError(f"no {names[0]} in {folder}: this is not a whole model folder: train one or copy it again")
    found = {name: _json_object(folder / name) for name in SETTINGS if (folder / name).is_file()}
    return found[CONFIG].get("model_type")


def _json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError for anything else, and for keys of which libraries take the last."""
    try:
        values = unique_keys.loads(file.read_text(encoding="utf-8"))
    except unique_keys.RepeatedKeyError as error:
        raise UserError(f"{shown(file)}: {error}: leave in it the one that is meant") from error
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{shown(file)} is not a JSON object: copy the folder again")
    return values


def _models_below(folder: Path) -> list[str]:
    """The model folders in a folder and one level deeper, those of the latest stage of training first."""
    found = [config.parent for pattern in (f"*/{CONFIG}", f"*/*/{CONFIG}") for config in folder.glob(pattern)]
    whole = [place for place in found if any(place.glob("*.safetensors"))]
    visible = [place for place in whole if not any(part.startswith(".") for part in place.relative_to(folder).parts)]
    return [shown(place) for place in sorted(visible, key=lambda place: (place.name != "model", place))[:SHOWN]]
