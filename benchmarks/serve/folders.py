"""The models that are served: random weights, of equal size, with one tokenizer."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from benchmarks.decode_models import SHAPES, architecture, random_model
from sioconv.data.config import SourceConfig, TokenizerConfig
from sioconv.data.sources.source import read_rows
from sioconv.data.tokenizer.tokenizer import END_OF_TURN, train_tokenizer
from sioconv.model import save_model_folder
from sioconv.model.baselines.architectures import build_baseline

TEXT = ("bundled:sentences_ja.jsonl.gz", "bundled:sentences_en.jsonl.gz", "bundled:prose_en.jsonl.gz")


def make_tokenizer(size: str, folder: Path) -> Any:
    """A tokenizer of the size's vocabulary, from the package's text."""
    if folder.exists():
        return AutoTokenizer.from_pretrained(folder)
    texts = [row.text for name in TEXT for row in read_rows(SourceConfig(name)) if row.text]
    return train_tokenizer(TokenizerConfig(vocab_size=SHAPES[size][-1]), texts, folder)


def save_ours(size: str, tokenizer: Any, folder: Path) -> Path:
    """A folder of SioConv."""
    stop = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    save_model_folder(random_model(size, "fp32"), tokenizer, folder, stop)
    return folder


def save_llama(size: str, tokenizer: Any, folder: Path) -> Path:
    """A folder of transformers' Llama with as many parameters."""
    torch.manual_seed(0)
    shape, vocabulary = architecture(size)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    build_baseline("llama", shape, vocabulary, **ids).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_gguf(llama: Path, file: Path) -> Path:
    """The same Llama for llama.cpp, whose package is needed for nothing else."""
    from benchmarks.gguf_files import write_gguf

    if file.exists():
        return file
    return write_gguf(LlamaForCausalLM.from_pretrained(llama), file, "F32", AutoTokenizer.from_pretrained(llama))
