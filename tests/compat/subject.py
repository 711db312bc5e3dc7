"""What the rows are checked on: a model folder, the texts given to it, and how two results are compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sioconv.data.config import TokenizerConfig
from sioconv.data.tokenizer.tokenizer import END_OF_TURN, EOS, train_tokenizer
from sioconv.generate import SamplingConfig
from sioconv.model import SioConvConfig, SioConvForCausalLM, save_model_folder

NEW = 12  # tokens that a check lets the model write
TEXTS = [
    "宮城県(みやぎけん)は、東北地方にある県である。県庁の所在地は仙台市である。",
    "The river runs from the hills to the sea, and the rain brings it back again.",
    "川は山から海へ流れる。海の水は空へ昇り、雨になって山へ帰る。Rain falls, and the river swells.",
]
CHATS = [
    [{"role": "user", "content": "宮城県の県庁はどこですか？"}, {"role": "assistant", "content": "仙台市です。"}],
    [{"role": "user", "content": "Where does the river run?"}, {"role": "assistant", "content": "To the sea."}],
    [
        {"role": "system", "content": "短く答える。"},
        {"role": "user", "content": "こんにちは。"},
        {"role": "assistant", "content": "こんにちは。お元気ですか？"},
        {"role": "user", "content": "元気です。Thank you."},
        {"role": "assistant", "content": "それは何よりです。"},
    ],
]


@dataclass(frozen=True)
class Subject:
    """A model folder under test.

    Attributes:
        folder: a whole model folder.
        scratch: an empty folder for what a check writes.
    """

    folder: Path
    scratch: Path

    def model(self, dtype: torch.dtype = torch.float64, *, ends: bool = False, **options: Any) -> Any:
        """A fresh copy of the model in eval mode, by default in fp64, where rounding decides no comparison.

        Args:
            dtype: precision of the weights.
            ends: whether it ends a text by itself.
            options: what else `from_pretrained` is given.
        """
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=dtype, **options).eval()
        if not ends:
            model.generation_config.eos_token_id = None
        return model

    def tokenizer(self) -> Any:
        """A fresh copy of the tokenizer."""
        return AutoTokenizer.from_pretrained(self.folder)

    def ids(self, length: int = 10) -> Tensor:
        """The first tokens of each text, [3, length], none of them padding."""
        tokens = self.tokenizer()(TEXTS).input_ids
        return torch.tensor([(row * length)[:length] for row in tokens])


def random_folder(path: Path, **options: Any) -> Path:
    """Writes a small random model (width 32, 2 layers, 400 tokens) whose output depends on all it reads.

    Args:
        path: the folder to write.
        options: fields of the configuration that differ.
    """
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=400), TEXTS * 4, path / "tokenizer")
    stop_ids = [tokenizer.convert_tokens_to_ids(token) for token in (EOS, END_OF_TURN)]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    config = SioConvConfig(**{"vocab_size": len(tokenizer), **sizes, "z_gain": 1.0, "y_gain": 1.0, **options})
    model = SioConvForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():  # away from zeros, ones and tiny gains
            parameter += 0.1 * torch.randn_like(parameter)
        model.lm_head.weight *= 4
    save_model_folder(model, tokenizer, path / "model", stop_ids, generation=SamplingConfig().for_transformers())
    return path / "model"


def continuation(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """The NEW tokens that `generate` puts after ids [B, T], greedily unless `options` say otherwise: [B, NEW]."""
    options = {"max_new_tokens": NEW, "do_sample": False, **options}
    text: Tensor = model.generate(ids, **options)
    return text[:, ids.shape[1] :]


def require(condition: object, message: str) -> None:
    """Raises AssertionError with the message where the condition doesn't hold."""
    if not condition:
        raise AssertionError(message)


def same(found: Tensor, expected: Tensor, what: str) -> None:
    """Raises AssertionError where two tensors aren't equal bit for bit."""
    close(found, expected, 0.0, what)


def close(found: Tensor, expected: Tensor, limit: float, what: str) -> float:
    """The largest difference over the largest value expected; AssertionError where it is above `limit`."""
    require(found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    scale = float(expected.detach().double().abs().max()) or 1.0
    error = float((found.detach().double() - expected.detach().double()).abs().max()) / scale
    require(error <= limit, f"{what}: differs by {error:.1e}, at most {limit:.0e}")  # a NaN fails too
    return error
