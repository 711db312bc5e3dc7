"""Tokenizers of the kinds that others publish, trained on a few lines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "川は山から海へ流れる。The river runs from the hills to the sea.\n" * 3,
    "仙台市は宮城県の県庁所在地である。<s>1 2 345</s>",
    "user assistant system bos eos pad end of turn < | > _",
] * 8
LLAMA_SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def llama_like(folder: Path, *, scheme: str = "normalizer") -> Path:
    """Characters with byte fallback, a space before every text, `<s>` before every encoding.

    Args:
        folder: gets tokenizer.json and what transformers writes beside it.
        scheme: what puts the space there: a `normalizer`, as Llama 2's, or `metaspace`.
    """
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if scheme == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        first, last = decoders.Replace("▁", " "), [decoders.Strip(" ", 1, 0)]
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        first, last = decoders.Metaspace(prepend_scheme="first", split=False), []
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*LLAMA_SPECIAL, *BYTES], show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    backend.decoder = decoders.Sequence([first, decoders.ByteFallback(), decoders.Fuse(), *last])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    parts = json.loads(backend.to_str())
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["content"] in LLAMA_SPECIAL]
    return _write(folder, json.dumps(parts), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def gpt2_like(folder: Path) -> Path:
    """Bytes, a space before every text, one special token that isn't in the model, and a token added as text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    backend.add_tokens([AddedToken("仙台市", normalized=False)])
    return _write(folder, backend.to_str(), {"eos_token": "<|endoftext|>"})


def unigram_like(folder: Path, *pieces: str) -> Path:
    """Characters with byte fallback in a Unigram model, whose special tokens and `pieces` text can spell."""
    characters = sorted({char for text in TEXTS for char in text if char != " "} | {"▁"})
    vocabulary = [(piece, 0.0) for piece in (*LLAMA_SPECIAL, *pieces)]
    vocabulary += [(token, -20.0) for token in BYTES] + [(char, -5.0) for char in characters]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    backend.add_special_tokens(LLAMA_SPECIAL)
    return _write(folder, backend.to_str(), {"bos_token": "<s>", "eos_token": "</s>"})


def _write(folder: Path, tokenizer: str, settings: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


KINDS: dict[str, Callable[[Path], Path]] = {
    "llama, normalizer": llama_like,
    "llama, metaspace": lambda folder: llama_like(folder, scheme="metaspace"),
    "gpt2": gpt2_like,
    "unigram": unigram_like,
}


def bytes_like(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """256 bytes without merges, its tokenizer.json changed by `change`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    parts = json.loads(backend.to_str())
    change(parts)
    return _write(folder, json.dumps(parts), {})
