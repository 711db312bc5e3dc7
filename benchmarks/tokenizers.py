"""Which tokenizer for Japanese and English? `python -m benchmarks.tokenizers` prints the table as Markdown.

Every candidate is trained on the bundled text and measured on a held-out tenth of it: UTF-8 bytes per token, apart for
Japanese and English (the templated gazetteer is trained on, not measured), and seconds of training.
"""

import json
import time
from collections.abc import Callable, Iterable

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from sioconv.data.bundled import bundled_names
from sioconv.data.cleaning.splits import read_split
from sioconv.data.config import SourceConfig
from sioconv.data.tokenizer.tokenizer import CONTRACTIONS, DIGITS, MARKS, PIECES, SPACES, SPECIAL_TOKENS, WORDS

HELDOUT = 0.1
VOCABULARIES = (4096, 6144, 8192)
UNKNOWN = "<unk>"
FALLBACK = [f"<0x{byte:02X}>" for byte in range(256)]
SCRIPTS = r"[\p{Han}]+|[\p{Hiragana}ー]+|[\p{Katakana}ー]+"
ANY_WORDS = r" ?[\p{L}\p{M}]+"  # all scripts together: what an English tokenizer of today does
AT_SCRIPTS = "|".join((CONTRACTIONS, WORDS, SCRIPTS, DIGITS, MARKS, SPACES))
AT_MARKS = "|".join((CONTRACTIONS, ANY_WORDS, DIGITS, MARKS, SPACES))
AT_SPACES = r" ?[^ \n]+|\n+| +"

Trained = Callable[[Iterable[str], int], Tokenizer]
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Pieces of text by a regular expression."""
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def as_bytes(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Pieces of text as byte symbols."""
    return pre_tokenizers.Sequence([split(pattern), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train(
    model: models.Model, pieces: pre_tokenizers.PreTokenizer, trainer: trainers.Trainer, texts: Iterable[str]
) -> Tokenizer:
    """One tokenizer of these parts."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pieces
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_bpe(pieces: pre_tokenizers.PreTokenizer) -> Trained:
    """Byte-pair encoding of byte symbols."""

    def trained(texts: Iterable[str], size: int) -> Tokenizer:
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
        )
        return train(models.BPE(), pieces, trainer, texts)

    return trained


def byte_unigram(texts: Iterable[str], size: int) -> Tokenizer:
    """Unigram language model over byte symbols."""
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    return train(models.Unigram(), as_bytes(PIECES), trainer, texts)


def character_unigram(texts: Iterable[str], size: int) -> Tokenizer:
    """Unigram language model over characters, the rare ones spelt in bytes."""
    specials = [UNKNOWN, *SPECIAL_TOKENS, *FALLBACK]
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=specials, unk_token=UNKNOWN, show_progress=False)
    tokenizer = train(models.Unigram(), split(PIECES), trainer, texts)
    vocabulary = [(token, score) for token, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    tokenizer.model = models.Unigram(vocabulary, unk_id=0, byte_fallback=True)
    return tokenizer


def character_bpe(texts: Iterable[str], size: int) -> Tokenizer:
    """Byte-pair encoding of characters, the rare ones spelt in bytes."""
    specials = [UNKNOWN, *SPECIAL_TOKENS, *FALLBACK]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, limit_alphabet=size // 3, show_progress=False
    )
    model = models.BPE(unk_token=UNKNOWN, byte_fallback=True)
    return train(model, split(PIECES), trainer, texts)


CANDIDATES: dict[str, Trained] = {
    "byte BPE in the pieces of GPT-2": byte_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)),
    "byte BPE, split at marks and digits": byte_bpe(as_bytes(AT_MARKS)),
    "byte BPE, split at marks, digits and changes of script": byte_bpe(as_bytes(AT_SCRIPTS)),
    "byte BPE, split at marks, digits and phrases": byte_bpe(as_bytes(PIECES)),
    "byte BPE, split at spaces and line ends": byte_bpe(as_bytes(AT_SPACES)),
    "byte Unigram, split at marks, digits and phrases": byte_unigram,
    "character BPE with byte fallback, same split": character_bpe,
    "character Unigram with byte fallback, same split": character_unigram,
}


def bytes_per_token(tokenizer: Tokenizer, texts: list[str]) -> float:
    """UTF-8 bytes of the texts for each token they become."""
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts))
    return sum(len(text.encode()) for text in texts) / tokens


def main() -> None:
    """Prints one line of the table for each candidate and size of the vocabulary."""
    names = [name for name in bundled_names() if not name.startswith("chat_")]
    sources = {name: SourceConfig(f"bundled:{name}", language=name[-2:]) for name in names}
    texts = [row.texts[0] for source in sources.values() for row in read_split(source, "train", HELDOUT)]
    heldout: dict[str, list[str]] = {"ja": [], "en": []}
    for name, source in sources.items():
        if not name.startswith("gazetteer"):
            heldout[source.language] += [row.texts[0] for row in read_split(source, "heldout", HELDOUT)]
    sizes = {language: sum(len(text.encode()) for text in part) for language, part in heldout.items()}
    trained_on = sum(len(text.encode()) for text in texts)
    print(f"trained on {trained_on:,} bytes, measured on {sizes['ja']:,} (ja) and {sizes['en']:,} (en)\n")
    print("| algorithm | vocabulary | bytes/token ja | bytes/token en | seconds |\n|---|---:|---:|---:|---:|")
    for name, trained in CANDIDATES.items():
        for size in VOCABULARIES:
            start = time.perf_counter()
            tokenizer = trained(texts, size)
            seconds = time.perf_counter() - start
            ja, en = (bytes_per_token(tokenizer, heldout[language]) for language in ("ja", "en"))
            print(f"| {name} | {size} | {ja:.3f} | {en:.3f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
