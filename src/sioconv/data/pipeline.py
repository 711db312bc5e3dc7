"""Documents to token shards: one source, cut into tasks, each read, tokenised and written by itself."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, get_args

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from fsspec.implementations.local import LocalFileSystem
from transformers import PreTrainedTokenizerFast

from sioconv.data.chat import encode_batch
from sioconv.data.config import DataConfig, SourceConfig
from sioconv.data.executor import TaskExecutor
from sioconv.data.shard_writer import read_facts, task_writer, token_type, write_manifest
from sioconv.data.shards import VERSION, ShardSet
from sioconv.data.sources import Split, read_rows, resolve, split_of
from sioconv.data.tokenizer import encode_texts, load_tokenizer, tokenizer_sha256
from sioconv.errors import UserError
from sioconv.files import disk_errors, sha256_file
from sioconv.progress import track

SPLITS: tuple[Split, ...] = get_args(Split)
BATCH_BYTES = 1_000_000  # of text that is tokenised together: enough for all cores, whatever the documents' sizes


class RowReader(PipelineStep):  # type: ignore[misc]
    """Reads a task's rows in order; a document's metadata holds its `split` and, for conversations, its `messages`.

    Args:
        source: what to read.
        heldout: share of documents held out.
        label: what the progress of the work is called.
    """

    name, type = "Rows", "Reader"

    def __init__(self, source: SourceConfig, heldout: float, label: str) -> None:
        super().__init__()
        self.source, self.heldout, self.label = source, heldout, label

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:  # noqa: ARG002
        """Yields the documents of task `rank`. Raises UserError naming file and line of a row that can't be used."""
        rows: Iterable[Any] = read_rows(self.source, rank=rank, world_size=world_size)
        if parent_process() is None:  # in a worker the bars of several tasks would write over each other
            rows = track(rows, self.label if world_size == 1 else f"{self.label} {rank + 1}/{world_size}")
        for row in rows:
            metadata = {"split": split_of(row, self.heldout)}
            if row.messages is not None:
                metadata["messages"] = row.messages
            yield Document(text="\n".join(row.texts), id=row.id, metadata=metadata)


class ShardWriter(PipelineStep):  # type: ignore[misc]
    """Tokenises documents in their order and writes a task's files of both splits.

    A document becomes bos, its text and eos; a conversation what `data/chat.py` makes of it.

    Args:
        folder: gets `train/` and `heldout/`, and in `facts/` what was written.
        tokenizer: the tokenizer's folder.
        masked: whether the documents are conversations.
    """

    name, type = "Shards", "Writer"

    def __init__(self, folder: Path, tokenizer: Path, masked: bool) -> None:
        super().__init__()
        self.folder, self.tokenizer, self.masked = folder, tokenizer, masked

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:  # noqa: ARG002
        """Writes the files of task `rank`. Raises UserError when the disk is full."""
        tokenizer = load_tokenizer(self.tokenizer)
        dtype = token_type(len(tokenizer))
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(
                    task_writer(self.folder / split, rank, dtype, self.masked, facts_of(self.folder, split, rank))
                )
                for split in SPLITS
            }
            for batch in batches(data, BATCH_BYTES):
                for split in SPLITS:
                    documents = [document for document in batch if document.metadata["split"] == split]
                    writers[split].write(*self._encode(tokenizer, documents), sum(map(text_bytes, documents)))

    def _encode(
        self, tokenizer: PreTrainedTokenizerFast, documents: list[Document]
    ) -> tuple[list[list[int]], list[list[int]] | None]:
        """Ids of each document, and their masks where they are conversations."""
        if self.masked:
            encoded = encode_batch(tokenizer, [document.metadata["messages"] for document in documents])
            return [ids for ids, _ in encoded], [mask for _, mask in encoded]
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        texts = encode_texts(tokenizer, [document.text for document in documents])
        return [[bos, *ids, eos] for ids in texts], None


def batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    """The documents in lists that end where they have `size` bytes of text or more."""
    batch: list[Document] = []
    total = 0
    for document in documents:
        batch.append(document)
        total += text_bytes(document)
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def text_bytes(document: Document) -> int:
    """UTF-8 bytes of a document's text, or of what the turns of a conversation say."""
    messages = document.metadata.get("messages")
    texts = [document.text] if messages is None else [message["content"] for message in messages]
    return sum(len(text.encode()) for text in texts)


def facts_of(folder: Path, split: Split, task: int) -> Path:
    """The file that says what a task has written."""
    return folder / "facts" / f"{split}-{task:05d}.json"


def prepare_source(name: str, source: SourceConfig, data: DataConfig, tokenizer_path: Path, out: Path) -> None:
    """Makes the shard sets `out/train` and `out/heldout` from a source, unless they are there already.

    The files depend on the source's text, `heldout`, `tasks` and the tokenizer, not on the number of workers. What
    finished tasks have made is kept in a hidden folder of `out` until all have, so a run that was stopped goes on from
    there; the shard sets then take their places whole.

    Args:
        name: the source's name.
        source: where the text is.
        data: `heldout`, `tasks` and `workers` are used.
        tokenizer_path: the tokenizer's folder.
        out: the source's folder.

    Raises:
        UserError: a row, file, setting or tokenizer that can't be used, no text for training, a full disk, or a worker
            that was killed.
    """
    if data.tasks < 1 or data.workers < 1:
        raise UserError(f"data.tasks and data.workers must be 1 or more: got {data.tasks} and {data.workers}")
    if not 0 <= data.heldout < 1:
        raise UserError(f"data.heldout must be at least 0 and under 1: got {data.heldout}")
    dtype = token_type(len(load_tokenizer(tokenizer_path)))
    about = _about(name, source, data, tokenizer_path)
    made = all(_is_made(out / split, about) for split in SPLITS)
    key = hashlib.sha256(json.dumps([VERSION, about], sort_keys=True).encode()).hexdigest()
    work = out.absolute() / f".work-{key[:16]}"
    with disk_errors(out):
        for old in out.absolute().glob(".work-*"):
            if old == work and not made:
                _remove_unfinished(old)
            else:
                shutil.rmtree(old)
        if made:
            return
        try:
            label = f"data {name}"
            reader = RowReader(source, data.heldout, label)
            writer = ShardWriter(work, tokenizer_path.absolute(), source.kind == "chat")
            logs = (str(work), LocalFileSystem())  # with its file system a folder is never taken for a URL
            TaskExecutor(
                label, pipeline=[reader, writer], tasks=data.tasks, workers=data.workers, logging_dir=logs
            ).run()
            _publish(work, out, dtype, about)
        except BaseException:
            _remove_unfinished(work)
            with suppress(OSError):  # it may hold older shard sets, or not be there
                out.rmdir()
            raise
        shutil.rmtree(work)


def _about(name: str, source: SourceConfig, data: DataConfig, tokenizer: Path) -> dict[str, Any]:
    """What a manifest says of where shards come from; where it is the same, so are they."""
    return {
        "source": name,
        "path": source.path,
        "kind": source.kind,
        "language": source.language,
        "licence": source.licence,
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
        "heldout": data.heldout,
        "tasks": data.tasks,
        "inputs": _inputs(source),
    }


def _inputs(source: SourceConfig) -> list[dict[str, Any]]:
    """What identifies the text of a source."""
    files = resolve(source.path)
    if not files:
        rows = json.dumps([row.messages for row in read_rows(source)])
        return [{"rows_sha256": hashlib.sha256(rows.encode()).hexdigest()}]
    try:
        return [{"file": file.name, "bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in files]
    except OSError as error:
        raise UserError(f"can't read: {error.filename}: {error.strerror}: check the path and its rights") from error


def _is_made(folder: Path, about: dict[str, Any]) -> bool:
    try:
        manifest = ShardSet.open(folder).manifest
    except UserError:
        return False
    return all(manifest.get(key) == value for key, value in about.items())


def _publish(work: Path, out: Path, dtype: str, about: dict[str, Any]) -> None:
    """Writes the manifests and moves both shard sets to their places; goes on where an earlier call was stopped."""
    tasks = {split: [read_facts(facts_of(work, split, task)) for task in range(about["tasks"])] for split in SPLITS}
    if not any(task.documents for task in tasks["train"]):
        shutil.rmtree(work)
        raise UserError(f"no text to train on: {about['path']}: all of it is held out: add text or lower data.heldout")
    for split in SPLITS:
        if _is_made(out / split, about):
            continue
        write_manifest(work / split, tasks[split], dtype, {**about, "split": split})
        shutil.rmtree(out / split, ignore_errors=True)
        (work / split).rename(out / split)


def _remove_unfinished(work: Path) -> None:
    """Removes what unfinished tasks have left, and all of it where none has finished."""
    if not any(work.glob("completions/*")):
        shutil.rmtree(work, ignore_errors=True)
    for temporary in work.glob("*/.*"):
        temporary.unlink()
