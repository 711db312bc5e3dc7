"""Whom an evaluation is about: a model of this project, or any causal language model of transformers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sioconv.errors import UserError
from sioconv.evaluate.bits import encode_documents, first_token, positions_of, window_of
from sioconv.model import SioConvConfig, load_model_folder
from sioconv.model.cache import new_cache

LETTERS = "a1 あ."  # that any tokenizer has a token for one of
AHEAD = 1e-3  # of the logits' spread: what a token that comes later may change by rounding


@dataclass(frozen=True)
class Subject:
    """A model and its tokenizer.

    Args:
        name: as it was asked for.
        model: in eval mode.
        tokenizer: its tokenizer.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def first(self) -> int:
        """The token that every text is read after."""
        return first_token(self.tokenizer)

    @property
    def window(self) -> int | None:
        """Most tokens that it predicts from; None where it carries a state on."""
        return window_of(self.model)

    @property
    def positions(self) -> int | None:
        """Most tokens that a text may have, what the model writes included; None where nothing limits them."""
        return positions_of(self.model) if new_cache(self.model) is None else None

    def check(self, nats: NDArray[Any], on: str = "") -> None:
        """Raises UserError where a loss isn't finite; `on` is the text, behind a space."""
        if not np.isfinite(nats).all():
            raise UserError(f"{self.name} gives no probabilities{on}: its weights are broken: train it again")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, the first token before them; nothing in a text becomes another special token."""
        return encode_documents(self.tokenizer, texts)


def load_subject(
    name: str, device: torch.device, dtype: torch.dtype = torch.float32, state: str | None = None
) -> Subject:
    """Loads a model: a folder of this project, any folder of transformers' form, or a Hub id of either.

    Of a stranger's folder weights are read from safetensors alone. No code that lies in it is run, and nobody is asked
    whether it may be.

    Raises:
        UserError: there is no such model, it can't be loaded, or `state` isn't of this model.
    """
    if _is_ours(name):
        model, tokenizer = load_model_folder(name, device, dtype, state, baselines=True)
        return Subject(name, model, tokenizer)
    if state is not None:
        raise UserError(f"{name} is no sioconv model: it has no initial states that --state could replace")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, output_loading_info=True, trust_remote_code=False
        )
        other: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers raises many types; the cause stays attached
        raise UserError(_why_not(name, error)) from error
    model, report = loaded
    if report["missing_keys"]:
        raise UserError(f"weights are missing in {name}: {sorted(report['missing_keys'])[0]} and maybe more")
    if len(other) > model.get_input_embeddings().num_embeddings:
        raise UserError(f"the tokenizer of {name} has more tokens than its model: use the model's own tokenizer")
    first_token(other)
    if set(other.encode(LETTERS, add_special_tokens=False)) <= set(other.all_special_ids):
        raise UserError(f"the tokenizer of {name} has no tokens of text: put tokenizer.json beside the weights")
    model = model.to(device).eval()
    if _looks_ahead(model, len(other)):
        raise UserError(f"{name} sees the tokens that it is to predict, as BERT does: give a causal language model")
    # A penalty or a limit that a folder's own settings have would hold for this model alone.
    ends = getattr(model.generation_config, "eos_token_id", None)
    model.generation_config = GenerationConfig(eos_token_id=ends)  # type: ignore[no-untyped-call]
    return Subject(name, model, other)


@torch.inference_mode()
def _looks_ahead(model: Any, tokens: int) -> bool:
    """Whether what a model predicts at a place depends on what stands behind it: its losses would be no likelihoods."""
    ids = torch.arange(8, device=model.device).repeat(2, 1) % tokens  # [2, 8]
    ids[1, 4:] = (ids[1, 4:] + 4) % tokens
    logits = model(input_ids=ids, use_cache=False).logits.float()  # [2, 8, V]
    change = (logits[0, :4] - logits[1, :4]).abs().max()
    return bool(change > max(AHEAD, torch.finfo(model.dtype).eps) * logits.std())


def _is_ours(name: str) -> bool:
    """Whether `load_model_folder` should load it: also what isn't there, of which it says what is wrong."""
    folder = Path(name)
    try:
        if folder.is_dir():
            values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            return values.get("model_type") == SioConvConfig.model_type or "tokenizer_fingerprint" in values
        if folder.exists() or name.count("/") != 1 or folder.parent.is_dir():
            return True
    except (OSError, ValueError, AttributeError):
        return True
    try:
        return bool(AutoConfig.from_pretrained(name, trust_remote_code=False).model_type == SioConvConfig.model_type)
    except Exception as error:
        raise UserError(_why_not(name, error)) from error


def _why_not(name: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return f"can't load a model from {name}: {reason}: give a folder, or the Hub id of a model in safetensors"
