"""Other tokenizers measured on the same text, those that are at hand."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from sioconv.data.amounts import at_least
from sioconv.data.tokenizer.adopt import read_backend, tokenizer_file
from sioconv.data.tokenizer.tokenizer import encode_texts, text_encoder
from sioconv.errors import UserError
from sioconv.progress import track

COMPARED = 300_000  # bytes of a language: some tokenizers are slow

Count = Callable[[list[str]], int]  # how many tokens texts have


def measure_peers(
    tokenizer: PreTrainedTokenizerFast, texts: Mapping[str, Sequence[str]], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Bytes per token of a tokenizer, `this one`, and of others.

    Args:
        tokenizer: this one.
        texts: text of each language; of each, the first `COMPARED` bytes are used.
        names: the others: `rwkv` (the vocabulary in the package of that name), a SentencePiece file `….model` (needs
            the package sentencepiece), a folder with tokenizer.json, or `owner/name` on the Hub.

    Returns:
        By name `vocabulary` and `bytes_per_token` by language, or what the `problem` was: one that isn't at hand is no
        reason to stop.
    """
    first = {language: list(at_least(all_texts, COMPARED)) for language, all_texts in texts.items()}
    chosen = {language: some for language, some in first.items() if some}
    sizes = {language: sum(len(text.encode()) for text in first) for language, first in chosen.items()}
    found: dict[str, dict[str, Any]] = {}
    for name in track(["this one", *names], "tokenizers compared", 1 + len(names)):
        try:
            vocabulary, count = (
                (len(tokenizer), _counter_of(tokenizer)) if name == "this one" else _open_peer(name)
            )  # fmt: skip
        except UserError as error:
            found[name] = {"problem": str(error)}
            continue
        rates = {language: sizes[language] / max(1, count(first)) for language, first in chosen.items()}
        found[name] = {"vocabulary": vocabulary, "bytes_per_token": rates}
    return found


def _counter_of(tokenizer: PreTrainedTokenizerFast) -> Count:
    return lambda texts: sum(map(len, encode_texts(tokenizer, texts)))


def _open_peer(name: str) -> tuple[int, Count]:
    """A tokenizer's vocabulary size, and what counts its tokens. Raises UserError where it isn't at hand."""
    if name == "rwkv":
        return _open_rwkv()
    if name.endswith(".model"):
        return _open_sentencepiece(Path(name))
    backend = text_encoder(read_backend(tokenizer_file(name)))
    return backend.get_vocab_size(), lambda texts: sum(
        len(one.ids) for one in backend.encode_batch_fast(texts, add_special_tokens=False)
    )


def _open_rwkv() -> tuple[int, Count]:
    if find_spec("rwkv") is None:
        raise UserError("not compared with rwkv: its package isn't installed: pip install rwkv")
    rwkv_tokenizer: Any = import_module("rwkv.rwkv_tokenizer")
    files = list(Path(rwkv_tokenizer.__file__).parent.glob("rwkv_vocab_*.txt"))
    if not files:
        raise UserError("not compared with rwkv: its package has no vocabulary: install another version")
    trie = rwkv_tokenizer.TRIE_TOKENIZER(str(max(files)))
    return len(trie.idx2token), lambda texts: sum(len(trie.encode(text)) for text in texts)


def _open_sentencepiece(file: Path) -> tuple[int, Count]:
    if find_spec("sentencepiece") is None:
        raise UserError(f"not compared with {file}: needs sentencepiece: pip install sentencepiece")
    import sentencepiece

    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise UserError(f"not compared with {file}: it can't be read as a SentencePiece model") from error
    return processor.vocab_size(), lambda texts: sum(map(len, processor.encode(texts)))
