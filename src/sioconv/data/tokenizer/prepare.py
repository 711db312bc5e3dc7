"""The tokenizer of a run: sampled and trained, or adopted, then measured."""

import time
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from sioconv.checksums import renew_sums
from sioconv.data.config import DataConfig, TokenizerConfig
from sioconv.data.interruptible import stopped_by_sigterm
from sioconv.data.report import first_bad, why_nothing_is_left
from sioconv.data.tokenizer.adopt import adopt_tokenizer
from sioconv.data.tokenizer.report import JSON_FILE, TABLE_FILE, read_report, write_tokenizer_report
from sioconv.data.tokenizer.sample import tokenizer_samples
from sioconv.data.tokenizer.tokenizer import TOKENIZER_FILE, load_tokenizer, train_tokenizer
from sioconv.errors import UserError
from sioconv.progress import say


def prepare_tokenizer(
    config: TokenizerConfig, adopted: str | None, data: DataConfig, folder: Path
) -> PreTrainedTokenizerFast:
    """Makes the tokenizer in `folder` and the report beside it, unless they are there already.

    A report that is missing or damaged, or lacks one of the tokenizers to compare with, is made again.

    Args:
        config: how a tokenizer is trained, and which ones the report compares it with.
        adopted: take this one instead of training: a folder, or `owner/name` on the Hub.
        data: the sources that it is trained and measured on.
        folder: the run's `tokenizer/`.

    Raises:
        UserError: no text, or a source, setting or tokenizer that can't be used.
        StoppedError: SIGTERM came.
    """
    with stopped_by_sigterm("tokenizer"):
        return _prepare_tokenizer(config, adopted, data, folder)


def _prepare_tokenizer(
    config: TokenizerConfig, adopted: str | None, data: DataConfig, folder: Path
) -> PreTrainedTokenizerFast:
    made = (folder / TOKENIZER_FILE).exists()
    if (folder / TOKENIZER_FILE).is_file():
        renew_sums(folder, without=(JSON_FILE, TABLE_FILE))
    if made and (known := read_report(folder)) and set(config.compare).issubset(known["peers"]):
        return load_tokenizer(folder)
    if adopted and not made:
        tokenizer = adopt_tokenizer(adopted, folder)
        say(f"tokenizer: {len(tokenizer):,} tokens from {adopted} → {folder}")
        made = True
    samples = tokenizer_samples(data, config.sample_bytes)
    for sample in samples.values():
        if bad := sample.statistics["bad_rows"]:
            rows, example = sample.statistics["rows"], first_bad(sample.statistics)
            say(f"tokenizer: {bad:,} of {rows:,} rows can't be used, such as {example}")
    if not made and not any(sample.train for sample in samples.values()):
        reasons = (f"{name}: {why_nothing_is_left(sample.statistics)}" for name, sample in samples.items())
        raise UserError(f"no text to train a tokenizer on: {'; '.join(reasons)}")
    if not made:
        start = time.monotonic()
        texts = (piece for sample in samples.values() for piece in sample.train)
        tokenizer = train_tokenizer(config, texts, folder)
        say(f"tokenizer: {len(tokenizer):,} tokens in {time.monotonic() - start:.0f} s → {folder}")
    tokenizer = load_tokenizer(folder)
    report = write_tokenizer_report(tokenizer, samples, config.compare, folder)
    rates = [
        f"{language} {one['bytes_per_token']:.2f}" for language, one in report["languages"].items() if one["tokens"]
    ]
    say(f"tokenizer: bytes per token: {', '.join(rates)} → {folder / TABLE_FILE}")
    if count := sum(one["broken"] for one in report["sources"].values()):
        say(f"tokenizer: {count:,} texts of the sample don't come back as they were: see {folder / TABLE_FILE}")
    return tokenizer
