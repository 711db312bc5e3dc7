"""Writing token shards, task by task; `data/shards/shard_set.py` says what is in the files and reads them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sioconv.checksums import read_sealed, write_sealed
from sioconv.data.shards.shard_set import (
    FORMAT,
    INDEX,
    INDEX_TYPE,
    MANIFEST,
    MASK,
    MASK_TYPE,
    TOKEN_TYPES,
    TOKENS,
    VERSION,
)
from sioconv.errors import UserError
from sioconv.files import atomic_write

Ids = Sequence[int] | NDArray[Any]


@dataclass
class TaskFiles:
    """What one task has written.

    Args:
        name: what its files' names begin with.
        tokens: number of tokens.
        documents: number of documents.
        bytes: UTF-8 bytes of the text.
        sha256: checksum of each file by its suffix.
    """

    name: str
    tokens: int
    documents: int
    bytes: int
    sha256: dict[str, str]


def token_type(vocabulary: int) -> str:
    """The smallest type that holds ids below `vocabulary`: uint16 or uint32."""
    return "uint16" if vocabulary <= 1 << 16 else "uint32"


class TaskWriter:
    """Writes one task's files; made by `task_writer`."""

    def __init__(self, streams: Mapping[str, BinaryIO], dtype: str) -> None:
        self._streams, self._dtype = streams, TOKEN_TYPES[dtype]
        self._hashes = {suffix: hashlib.sha256() for suffix in streams}
        self._tokens = self._documents = self._bytes = 0

    def write(self, documents: Sequence[Ids], masks: Sequence[Sequence[int]] | None, text_bytes: int) -> None:
        """Appends documents.

        Args:
            documents: token ids of each document.
            masks: for conversations, 0 or 1 for each token.
            text_bytes: UTF-8 bytes of the text that the documents hold.
        """
        ends = self._tokens + np.cumsum([len(ids) for ids in documents], dtype=INDEX_TYPE)
        self._append(TOKENS, _join(documents, self._dtype))
        self._append(INDEX, ends.astype(INDEX_TYPE))
        if masks is not None:
            self._append(MASK, _join(masks, MASK_TYPE))
        self._tokens += sum(len(ids) for ids in documents)
        self._documents += len(documents)
        self._bytes += text_bytes

    def written(self, name: str) -> TaskFiles:
        """What has been written so far."""
        sha256 = {suffix: digest.hexdigest() for suffix, digest in self._hashes.items()}
        return TaskFiles(name, self._tokens, self._documents, self._bytes, sha256)

    def _append(self, suffix: str, values: NDArray[Any]) -> None:
        data = values.tobytes()
        self._streams[suffix].write(data)
        self._hashes[suffix].update(data)


@contextmanager
def task_writer(folder: Path, task: int, dtype: str, masked: bool, facts: Path) -> Iterator[TaskWriter]:
    """Yields the writer of a task's files; they and then `facts`, which describes them, appear when all is written.

    Args:
        folder: the shard set.
        task: the task's number.
        dtype: type of the tokens, uint16 or uint32.
        masked: whether documents have masks.
        facts: the file that `read_facts` reads.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    name = f"{task:05d}"
    with ExitStack() as stack:
        streams: dict[str, BinaryIO] = {}
        for suffix in (TOKENS, INDEX, MASK) if masked else (TOKENS, INDEX):
            temporary = stack.enter_context(atomic_write(folder / f"{name}{suffix}"))
            streams[suffix] = stack.enter_context(temporary.open("wb"))
        writer = TaskWriter(streams, dtype)
        yield writer
    write_sealed(facts, asdict(writer.written(name)))


def read_facts(facts: Path) -> TaskFiles:
    """What `task_writer` has written beside a task's files. Raises UserError when it is damaged."""
    try:
        return TaskFiles(**read_sealed(facts))
    except (OSError, ValueError, TypeError) as error:
        work = facts.parents[1]
        raise UserError(f"damaged: {facts}: remove {work} and run the same line again: it begins anew") from error


def write_manifest(folder: Path, tasks: Sequence[TaskFiles], dtype: str, about: Mapping[str, Any]) -> None:
    """Makes a folder a shard set.

    Args:
        folder: holds the files of all tasks.
        tasks: what they have written, in order.
        dtype: type of the tokens, uint16 or uint32.
        about: what else the manifest says, `tokenizer_sha256` among it.
    """
    totals = {key: sum(getattr(task, key) for task in tasks) for key in ("tokens", "documents", "bytes")}
    files = {
        f"{task.name}{suffix}": {"bytes": (folder / f"{task.name}{suffix}").stat().st_size, "sha256": sha256}
        for task in tasks
        for suffix, sha256 in task.sha256.items()
    }
    values = {"format": FORMAT, "version": VERSION, "dtype": dtype, **about, **totals, "files": files}
    write_sealed(folder / MANIFEST, values, indent=1)


def _join(lists: Sequence[Ids], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *(np.array(values, dtype) for values in lists)])
