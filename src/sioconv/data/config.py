"""The recipe's settings for text: where it is, how sources are mixed, how text becomes tokens."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sioconv.data.cleaning.config import Cleaning
from sioconv.data.documents import ROLES
from sioconv.data.encodings import AUTO, UTF8, is_codec

Origin = Literal["files", "bundled", "hub", "identity"]
WHO = "who"  # the part of the turns of `identity:` that is about who the model is
PREFIXES: dict[str, Origin] = {"bundled:": "bundled", "hf:": "hub", "identity:": "identity"}


@dataclass
class SourceConfig:
    """One source of documents or conversations.

    Args:
        path: a file, folder or glob (JSON lines, Parquet, plain text, MediaWiki dumps); `hf:OWNER/NAME` for a Hugging
            Face dataset; `bundled:FILE` for text that ships with the package; `identity:NAME` for turns built from the
            name that the model shall answer to.
        kind: `text` rows are documents, `chat` rows are conversations.
        language: language tag of the source (ja, en).
        weight: share of the mixture's tokens; shares are normalised over the sources.
        licence: licence of the text.
        templated: generated from facts: gets its own line in reports and is left out of its language's total.
        config: configuration of a Hugging Face dataset, such as 20231101.ja; of `identity:NAME`, `who` for those turns
            alone that ask who the model is.
        split: split of a Hugging Face dataset.
        revision: commit or tag of a Hugging Face dataset; null takes the newest.
        streaming: read a Hugging Face dataset over the network every time instead of downloading it once.
        text_column: key or column that holds a document's text.
        ignore_columns: keys or columns of conversations that are left out, such as a `context` that no turn repeats.
        id_column: key or column that identifies a document; where it is given, ids that come twice are reported.
        heldout: share of its documents held out of training; null: that of all sources (`data.heldout`).
        encoding: of JSON and plain text files: utf-8; auto, which is guessed for each file and shown; or a codec that
            Python knows, such as cp932. A byte-order mark at a file's beginning is obeyed whatever it is.
        cleaning: what documents go through before they become tokens.
    """

    path: str
    kind: Literal["text", "chat"] = "text"
    language: str = "ja"
    weight: float = 1.0
    licence: str = ""
    templated: bool = False
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    streaming: bool = False
    text_column: str = "text"
    ignore_columns: list[str] = field(default_factory=list)
    id_column: str | None = None
    heldout: float | None = None
    encoding: str = UTF8
    cleaning: Cleaning = field(default_factory=Cleaning)

    @property
    def origin(self) -> Origin:
        """Where the text comes from, as the path's beginning says it."""
        return next((origin for prefix, origin in PREFIXES.items() if self.path.startswith(prefix)), "files")

    @property
    def name(self) -> str:
        """The path without the prefix that says where the text comes from."""
        prefix = next((prefix for prefix in PREFIXES if self.path.startswith(prefix)), "")
        return self.path.removeprefix(prefix)

    def heldout_or(self, share: float) -> float:
        """The share of its documents that is held out, where that of all sources is `share`."""
        return share if self.heldout is None else self.heldout

    def check(self) -> None:
        """Raises ValueError, naming the field, where the values can't work."""
        if not self.path or "\0" in self.path:
            raise ValueError(f"path: {self.path!r} is no path: name a file, folder or glob")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight: {self.weight} is negative or not a number")
        _check_heldout(self.heldout or 0.0)
        who = self.origin == "identity" and self.config == WHO
        if self.origin != "hub" and ((self.config and not who) or self.revision or self.streaming):
            raise ValueError("config, revision and streaming: only for a path that begins with hf:")
        if self.encoding not in (UTF8, AUTO) and not is_codec(self.encoding):
            raise ValueError(f"encoding: {self.encoding!r} is none that Python knows: try auto or cp932")
        if self.encoding != UTF8 and self.origin != "files":
            raise ValueError("encoding: only for files of JSON and plain text: leave it out")
        if self.kind != "text" and self.cleaning != Cleaning():
            raise ValueError("cleaning: only documents are cleaned, not conversations: leave it out")
        if self.kind != "chat" and self.ignore_columns:
            raise ValueError("ignore_columns: only for conversations: of a document, text_column alone is learned")
        try:
            self.cleaning.check()
        except ValueError as error:
            raise ValueError(f"cleaning.{error}") from error


@dataclass
class ClusterConfig:
    """What a task of `sioconv data` gets on a Slurm or Ray cluster.

    Args:
        cpus_per_task: cores of one task.
        memory_gb: memory of one core.
        partition: on Slurm, where to.
        time: on Slurm, the limit of one task as sbatch takes it.
        qos: on Slurm, the quality of service, where there are any.
        setup: on Slurm, a shell line before the tasks; by default the Python that submits them is found first.
        options: on Slurm, other options of sbatch, such as account.
    """

    cpus_per_task: int = 1
    memory_gb: int = 4
    partition: str = ""
    time: str = "24:00:00"
    qos: str | None = None
    setup: str | None = None
    options: dict[str, str] = field(default_factory=dict)


MOST_TASKS, MOST_WORKERS = 100_000, 1024
# What a recipe says about who does the work and how strictly, not about its result: a run may go on with other values.
FREE = ("workers", "strict", "max_bad_rows", "executor", "cluster")


@dataclass
class DataConfig:
    """A mixture of sources.

    Args:
        sources: the sources by name.
        by_size: a source's weight is multiplied by its tokens, so that sources of equal weight are read equally often.
        heldout: share of documents held out of training, chosen by the hash of their content.
        tasks: number of tasks that a source is cut into when it is turned into shards.
        workers: tasks that are worked on at the same time; doesn't change the result.
        strict: stop at the first row that can't be used, instead of counting it.
        max_bad_rows: largest share of a source's rows that may be unusable; more are an error.
        executor: who runs the tasks: processes of this machine, a Slurm cluster or a Ray cluster.
        cluster: what a task gets there.
    """

    sources: dict[str, SourceConfig] = field(default_factory=dict)
    by_size: bool = False
    heldout: float = 0.03
    tasks: int = 1
    workers: int = 1
    strict: bool = False
    max_bad_rows: float = 0.1
    executor: Literal["local", "slurm", "ray"] = "local"
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def shares(self, tokens: Mapping[str, int]) -> dict[str, float]:
        """Each source's share of the training tokens, in any unit, from how many tokens each source has."""
        return {
            name: source.weight * tokens[name] if self.by_size else source.weight
            for name, source in self.sources.items()
        }

    def check(self) -> None:
        """Raises ValueError, naming the field, where the values can't work."""
        _check_heldout(self.heldout)
        for name, most in (("tasks", MOST_TASKS), ("workers", MOST_WORKERS)):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
            if getattr(self, name) > most:
                raise ValueError(f"{name}: {getattr(self, name)} is more than {most:,}")
        for name in ("cpus_per_task", "memory_gb"):
            if getattr(self.cluster, name) < 1:
                raise ValueError(f"cluster.{name}: {getattr(self.cluster, name)} is less than 1")
        if not 0 <= self.max_bad_rows <= 1:
            raise ValueError(f"max_bad_rows: {self.max_bad_rows} is not between 0 and 1")
        if self.executor == "slurm" and not self.cluster.partition:
            raise ValueError("cluster.partition is empty: name the partition that the tasks run in")
        for name, source in self.sources.items():
            try:
                source.check()
            except ValueError as error:
                raise ValueError(f"sources.{name}.{error}") from error
        if self.sources and not any(source.weight for source in self.sources.values()):
            raise ValueError("sources: all weights are 0: give at least one source a share")


def _check_heldout(share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"heldout: {share} is not at least 0 and under 1")


# 256 bytes; pad, bos, eos, end of turn; and a token for each role of a conversation. The rest is tokenizers' own limit.
LEAST_VOCABULARY, MOST_VOCABULARY = 256 + 4 + len(ROLES), 2**31 - 1


@dataclass
class TokenizerConfig:
    """How text is cut into tokens.

    Args:
        path: adopt this tokenizer instead of training one: a folder with tokenizer.json, or owner/name or
            owner/name@revision on the Hugging Face Hub.
        vocab_size: number of tokens of a trained one, special ones included.
        sample_bytes: most bytes of text that it is trained on, of each source its share.
        compare: other tokenizers that the report measures on the same text: rwkv (the package's vocabulary), folders,
            Hub ids, SentencePiece files.
    """

    path: str | None = None
    vocab_size: int = 6144
    sample_bytes: int = 16_000_000
    compare: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raises ValueError, naming the field, where the values can't work."""
        if not LEAST_VOCABULARY <= self.vocab_size <= MOST_VOCABULARY:
            raise ValueError(
                f"vocab_size: {self.vocab_size} is not from {LEAST_VOCABULARY} (all bytes and the special tokens) to "
                f"{MOST_VOCABULARY:,}"
            )
        if self.sample_bytes < 1:
            raise ValueError(f"sample_bytes: {self.sample_bytes} is less than 1")
        if self.path == "" or not all(self.compare):
            raise ValueError("path, compare: a name is empty: give a folder or a Hub id, or leave it out")
