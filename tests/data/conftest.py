"""A tokenizer and shard sets small enough to be made anew for every test run."""

import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from sioconv.data.config import TokenizerConfig
from sioconv.data.shards.shard_set import ShardSet
from sioconv.data.shards.writer import read_facts, task_writer, write_manifest
from sioconv.data.tokenizer.tokenizer import load_tokenizer, train_tokenizer

Documents = Sequence[Sequence[int]]
MakeShards = Callable[..., ShardSet]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tokenizer with 320 tokens."""
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    texts = ["川は山から海へ流れる。", "The river runs from the hills to the sea."] * 8
    train_tokenizer(TokenizerConfig(vocab_size=320), texts, folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of `tokenizer_folder`."""
    return load_tokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def make_shards(tmp_path_factory: pytest.TempPathFactory) -> MakeShards:
    """A function that writes a shard set, task by task, and opens it."""
    base = tmp_path_factory.mktemp("shards")

    def make(
        tasks: Sequence[Documents], masks: Sequence[Documents] | None = None, dtype: str = "uint16", sha256: str = "abc"
    ) -> ShardSet:
        folder = Path(tempfile.mkdtemp(dir=base))
        facts = [folder / f"facts-{number}" for number in range(len(tasks))]
        for number, documents in enumerate(tasks):
            with task_writer(folder, number, dtype, masks is not None, facts[number]) as writer:
                writer.write(documents, None if masks is None else masks[number], 3 * len(documents))
        about = {"source": "x", "tokenizer_sha256": sha256}
        write_manifest(folder, [read_facts(path) for path in facts], dtype, about)
        return ShardSet.open(folder, sha256)

    return make


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C does what it does in a terminal; a shell's background job ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
