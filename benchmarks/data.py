"""How fast do documents become token shards? `python -m benchmarks.data` prints the tables as Markdown.

And how fast do shards become batches? `benchmarks.data_loader` tells, and can be run alone.

The same documents go, in turns, through `prepare_source` and through the bare tokenizers library with the same
tokenizer and the same cores, in batches of the same size; and through what others have for the same work. Figures are
medians of MB of UTF-8 text a second. Cleaning is measured step by step on one core.

`--big 2` instead makes a corpus of 2 GB and shows how much memory turning it into shards takes from beginning to end.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from benchmarks.data_loader import measure_loader, print_table
from sioconv.data.bundled import bundled_names
from sioconv.data.cleaning.cleaner import Cleaner
from sioconv.data.cleaning.config import Cleaning, Decontaminate, Length, Normalise, Quality, Repetition
from sioconv.data.cleaning.minhash import signature
from sioconv.data.config import DataConfig, SourceConfig, TokenizerConfig
from sioconv.data.documents import Row
from sioconv.data.shards.pipeline import BATCH_BYTES, prepare_source
from sioconv.data.sources.source import read_rows
from sioconv.data.tokenizer.tokenizer import EOS, TOKENIZER_FILE, train_tokenizer
from sioconv.errors import UserError
from sioconv.progress import track

TARGET = 0.8  # of the speed of encode_batch
CORES = os.cpu_count() or 1
Run = Callable[[], object]


def documents_of(corpus: str | None, megabytes: float) -> list[str]:
    """Up to `megabytes` of documents: of the files in a folder, or of the bundled text; from each file as much."""
    if corpus is None:
        sources = [SourceConfig(f"bundled:{name}") for name in bundled_names() if not name.startswith("chat_")]
    else:
        sources = [SourceConfig(str(file)) for file in sorted(Path(corpus).glob("*.jsonl*"))]
    documents: list[str] = []
    for source in sources:
        budget = megabytes * 1e6 / len(sources)
        try:
            for row in read_rows(source):
                if budget <= 0:
                    break
                documents.append(row.text or "")
                budget -= len(documents[-1].encode())
        except UserError:  # a file of conversations
            continue
    if not documents:
        raise SystemExit(f"no documents in {corpus}: name a folder of JSON lines with the key text")
    random.Random(0).shuffle(documents)
    return documents


def size_of(documents: Iterable[str]) -> float:
    """UTF-8 megabytes."""
    return sum(len(text.encode()) for text in documents) / 1e6


def write_lines(documents: Iterable[str], path: Path) -> None:
    """The documents as JSON lines."""
    with path.open("w", encoding="utf-8") as stream:
        for text in documents:
            stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


# ------------------------------------------------------------------------------------------------ documents to shards


def batched(documents: list[str]) -> Iterator[list[str]]:
    """Batches of the size that `prepare_source` takes."""
    batch: list[str] = []
    size = 0
    for text in documents:
        batch.append(text)
        size += len(text.encode())
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def candidates(documents: list[str], tokenizer: Path, folder: Path) -> dict[str, Run]:
    """What is timed, by name; each makes a folder of its own that is removed after it."""
    lines = folder / "documents.jsonl"
    write_lines(documents, lines)
    bare = Tokenizer.from_file(str(tokenizer / TOKENIZER_FILE))

    def shards(workers: int) -> None:
        data = DataConfig(heldout=0.01, tasks=workers, workers=workers)
        prepare_source("x", SourceConfig(str(lines)), data, tokenizer, folder / "out")

    found: dict[str, Run] = {
        "tokenizers encode_batch": lambda: [bare.encode_batch(batch) for batch in batched(documents)],
        "tokenizers encode_batch_fast": lambda: [bare.encode_batch_fast(batch) for batch in batched(documents)],
        "sioconv, 1 worker": partial(shards, 1),
        f"sioconv, {CORES} workers": partial(shards, CORES),
        "datatrove Megatron": partial(datatrove_megatron, lines, tokenizer, folder / "out"),
    }
    try:
        import litdata  # noqa: F401 (only whether it is there)
    except ImportError as error:
        print(f"litdata is left out: {error}", file=sys.stderr)
    else:
        found[f"litdata, {CORES} workers"] = partial(litdata_optimize, documents, tokenizer, folder / "out")
    return found


def datatrove_megatron(lines: Path, tokenizer: Path, out: Path) -> None:
    """Megatron's .bin and .idx files, as datatrove writes them."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronDocumentTokenizer
    from datatrove.utils.logging import logger

    logger.remove()
    path = str(tokenizer / TOKENIZER_FILE)
    steps = [
        JsonlReader(str(lines.parent), glob_pattern=lines.name),
        MegatronDocumentTokenizer(str(out), tokenizer_name_or_path=path, eos_token=EOS, batch_size=1000),
    ]
    with contextlib.redirect_stderr(io.StringIO()):
        LocalPipelineExecutor(steps, logging_dir=str(out / "logs")).run()


def litdata_optimize(documents: list[str], tokenizer: Path, out: Path) -> None:
    """litdata's chunks of tokens, one file of documents a worker."""
    from litdata import TokensLoader, optimize

    parts = []
    for worker in range(CORES):
        parts.append(str(out.with_name(f"part-{worker}.jsonl")))
        write_lines(documents[worker::CORES], Path(parts[-1]))
    tokenise = partial(litdata_tokens, str(tokenizer / TOKENIZER_FILE))
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        optimize(
            tokenise, parts, str(out), num_workers=CORES, chunk_bytes="64MB", item_loader=TokensLoader(), verbose=False
        )


def litdata_tokens(tokenizer: str, part: str) -> Iterator[Any]:
    """The tokens of each document of a file, as litdata's examples make them."""
    import torch

    encoder = Tokenizer.from_file(tokenizer)
    with Path(part).open(encoding="utf-8") as stream:
        for line in stream:
            yield torch.tensor(encoder.encode(json.loads(line)["text"]).ids, dtype=torch.int)


def measure_shards(documents: list[str], rounds: int, vocabulary: int) -> dict[str, dict[str, float]]:
    """MB/s of every candidate (median), and its ratio to encode_batch in the same round (median)."""
    megabytes = size_of(documents)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = TokenizerConfig(vocab_size=vocabulary, sample_bytes=8_000_000)
        train_tokenizer(config, documents, folder / "tokenizer")
        timed = candidates(documents, folder / "tokenizer", folder)
        for _ in track(range(rounds), "documents to shards, rounds"):
            for label, run in timed.items():
                start = time.perf_counter()
                run()
                seconds.setdefault(label, []).append(time.perf_counter() - start)
                shutil.rmtree(folder / "out", ignore_errors=True)
    bare = seconds["tokenizers encode_batch"]
    return {
        label: {
            "MB/s": megabytes / statistics.median(values),
            "/ encode_batch": statistics.median(one / other for one, other in zip(bare, values, strict=True)),
        }
        for label, values in seconds.items()
    }


# ----------------------------------------------------------------------------------------------------------- cleaning


def measure_cleaning(documents: list[str]) -> dict[str, float]:
    """MB/s of each step on one core."""
    with tempfile.TemporaryDirectory() as name:
        evaluation = Path(name) / "evaluation.jsonl"
        write_lines(documents[:100], evaluation)
        steps = {
            "normalise": Cleaning(normalise=Normalise("NFKC")),
            "length": Cleaning(length=Length()),
            "repetition": Cleaning(repetition=Repetition()),
            "quality": Cleaning(quality=Quality()),
            "decontaminate": Cleaning(decontaminate=Decontaminate(str(evaluation))),
        }
        rows = [Row("", text=text) for text in documents]
        megabytes, found = size_of(documents), {}
        for label, cleaning in track(steps.items(), "cleaning, steps"):
            cleaner = Cleaner(cleaning, "ja")
            cleaner.clean(rows[0])  # makes tables
            start = time.perf_counter()
            for row in rows:
                cleaner.clean(row)
            found[label] = megabytes / (time.perf_counter() - start)
    start = time.perf_counter()
    for text in documents:
        signature(text, 5)
    found["near_duplicates (signatures)"] = megabytes / (time.perf_counter() - start)
    return found


# ------------------------------------------------------------------------------------------------------------- memory


def measure_memory(gigabytes: float) -> dict[str, float]:
    """Peak memory in MB of turning a generated corpus into shards, in each quarter of its tokens, and MB/s."""
    documents = documents_of(None, 8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_tokenizer(TokenizerConfig(vocab_size=16_000), documents, folder / "tokenizer")
        chance = random.Random(0)
        sentences = [line for text in documents for line in text.splitlines() if line]
        total = 0
        with (folder / "big.jsonl").open("w", encoding="utf-8") as stream:
            while total < gigabytes * 1e9:
                text = "\n".join(chance.choices(sentences, k=chance.randrange(1, 200)))
                total += len(text.encode())
                stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        command = [sys.executable, "-m", "benchmarks.data", "--memory-of", str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        figures: dict[str, float] = json.loads(done.stdout)
    return figures | {"MB/s": total / 1e6 / figures.pop("seconds")}


def memory_of(folder: Path) -> dict[str, float]:
    """What `measure_memory` asks of its process."""
    page = resource.getpagesize()
    samples: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            samples.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    source = SourceConfig(str(folder / "big.jsonl"))
    prepare_source("big", source, DataConfig(), folder / "tokenizer", folder / "out")
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    quarters = np.array_split(np.array(samples), 4)
    peaks = {f"quarter {number}": float(part.max()) / 1e6 for number, part in enumerate(quarters, 1) if len(part)}
    return peaks | {"seconds": seconds}


# ------------------------------------------------------------------------------------------------------------- tables


def print_shards(speeds: dict[str, dict[str, float]]) -> None:
    """The table of `measure_shards`, and whether the target is met."""
    print("| documents → tokens | MB/s | ÷ encode_batch |\n|---|---:|---:|")
    for label, figures in speeds.items():
        print(f"| {label} | {figures['MB/s']:.2f} | {figures['/ encode_batch']:.2f} |")
    best = max(figures["/ encode_batch"] for label, figures in speeds.items() if label.startswith("sioconv"))
    print(f"\ntarget {TARGET}: {'met' if best >= TARGET else 'missed'} ({best:.2f})\n")


def print_column(title: str, unit: str, figures: dict[str, float]) -> None:
    """A table of one figure a row."""
    print(f"| {title} | {unit} |\n|---|---:|")
    for label, value in figures.items():
        print(f"| {label} | {value:,.1f} |")
    print()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", help="folder of JSON lines files; by default the bundled text")
    parser.add_argument("--megabytes", type=float, default=16, help="how much of the text is used")
    parser.add_argument("--rounds", type=int, default=5, help="how often every candidate runs")
    parser.add_argument("--vocabulary", type=int, default=16_000, help="tokens of the tokenizer")
    parser.add_argument("--loader-seconds", type=float, default=2, help="of each measurement of the loader")
    parser.add_argument("--big", type=float, help="GB of a generated corpus: measure memory instead")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of)))
        return
    figures: dict[str, Any]
    if options.big:
        figures = {"memory": measure_memory(options.big)}
        print_column(f"peak memory, {options.big:g} GB of text", "MB", figures["memory"])
    else:
        documents = documents_of(options.corpus, options.megabytes)
        print(f"{len(documents):,} documents, {size_of(documents):.1f} MB, {CORES} cores\n")
        figures = {"shards": measure_shards(documents, options.rounds, options.vocabulary)}
        print_shards(figures["shards"])
        figures["cleaning"] = measure_cleaning(documents)
        print_column("cleaning, one core", "MB/s", figures["cleaning"])
        figures["loader"] = measure_loader(seconds=options.loader_seconds)
        print_table(figures["loader"], 1024)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
