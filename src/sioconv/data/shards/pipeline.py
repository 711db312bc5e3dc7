"""Documents to token shards: one source, cut into tasks, each read, tokenised and written by itself."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from transformers import PreTrainedTokenizerFast

from sioconv.data.amounts import batches
from sioconv.data.chat import encode_batch
from sioconv.data.cleaning.dedup import DuplicateFinder, SignatureWriter
from sioconv.data.config import DataConfig, SourceConfig
from sioconv.data.documents import Split
from sioconv.data.encodings import UTF8
from sioconv.data.interruptible import interruptible, stopped_by_sigterm
from sioconv.data.report import (
    account_of,
    read_statistics,
    refuse_bad_rows,
    side_without_documents,
    summary,
    why_nothing_is_left,
    write_account,
    write_account_page,
)
from sioconv.data.shards.executor import run_pipeline
from sioconv.data.shards.reading import DocumentReader, read_accounts, repeated_ids
from sioconv.data.shards.shard_set import VERSION, DamagedShards, ShardSet
from sioconv.data.shards.writer import Ids, read_facts, task_writer, token_type, write_manifest
from sioconv.data.sources.provenance import Checksums
from sioconv.data.sources.source import guessed_encodings, identify, open_source
from sioconv.data.tally import Tally
from sioconv.data.tokenizer.long_texts import encode_long, is_long
from sioconv.data.tokenizer.tokenizer import encode_texts, load_tokenizer, tokenizer_sha256
from sioconv.errors import UserError
from sioconv.files import disk_errors, remove
from sioconv.progress import say

SPLITS: tuple[Split, ...] = get_args(Split)
INPUTS = ".inputs.json"
# How text is read, by what has its own rules; a number grows where the same files begin to give another text, so that
# shards of before are made again. What isn't here has been read in the same way from the beginning.
READING = {"normalise": 2, "wikitext": 2, "conversations": 2}
NAMED = 5  # files of a message
BATCH_BYTES = 1_000_000  # of text that is tokenised together: enough for all cores, whatever the documents' sizes


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
            for batch in batches(data, BATCH_BYTES, text_bytes):
                encoded, masks = self._encode(tokenizer, batch)  # of both splits together: that keeps all cores busy
                for split in SPLITS:
                    chosen = [number for number, document in enumerate(batch) if document.metadata["split"] == split]
                    writers[split].write(
                        [encoded[number] for number in chosen],
                        None if masks is None else [masks[number] for number in chosen],
                        sum(text_bytes(batch[number]) for number in chosen),
                    )

    def _encode(
        self, tokenizer: PreTrainedTokenizerFast, documents: list[Document]
    ) -> tuple[list[Ids], list[list[int]] | None]:
        """Ids of each document, and their masks where they are conversations."""
        if self.masked:
            encoded = encode_batch(tokenizer, [document.metadata["messages"] for document in documents])
            return [ids for ids, _ in encoded], [mask for _, mask in encoded]
        return interruptible(lambda: _encode_documents(tokenizer, [document.text for document in documents])), None


def _encode_documents(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[Ids]:
    """bos, tokens and eos of each text."""
    short = iter(encode_texts(tokenizer, [text for text in texts if not is_long(text)]))
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [encode_long(tokenizer, text, bos, eos) if is_long(text) else [bos, *next(short), eos] for text in texts]


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

    The files depend on the source's text and cleaning, `heldout`, `tasks` and the tokenizer, not on who runs the tasks.
    What finished tasks have made is kept in a hidden folder of `out` until all have, so a run that was stopped goes on
    from there; the shard sets then take their places whole. `out/statistics.json` and `out/report.md` say what was left
    out and why. Every file of shards that are there is compared with its checksum; damaged ones are made again.

    Args:
        name: the source's name.
        source: where the text is.
        data: everything but `sources` is used.
        tokenizer_path: the tokenizer's folder.
        out: the source's folder.

    Raises:
        UserError: a file, setting or tokenizer that can't be used, too many rows that can't, no text for training, a
            full disk, or a worker that was killed.
        StoppedError: SIGTERM came.
    """
    with stopped_by_sigterm(f"data {name}"):
        _prepare_source(name, source, data, tokenizer_path, out)


def _prepare_source(name: str, source: SourceConfig, data: DataConfig, tokenizer_path: Path, out: Path) -> None:
    if data.tasks < 1 or data.workers < 1:
        raise UserError(f"data.tasks and data.workers must be 1 or more: got {data.tasks} and {data.workers}")
    heldout = source.heldout_or(data.heldout)
    if not 0 <= heldout < 1:
        raise UserError(f"data.heldout, or that of the source, must be at least 0 and under 1: got {heldout}")
    vocabulary = len(load_tokenizer(tokenizer_path))
    checksums = Checksums(out / INPUTS)
    about = _about(name, source, data, tokenizer_path, identify(source, checksums))
    statistics = read_statistics(out)
    made = statistics is not None and all(_is_made(out / split, about) for split in SPLITS)
    key = hashlib.sha256(json.dumps([VERSION, about], sort_keys=True).encode()).hexdigest()
    work = out.absolute() / f".work-{key[:16]}"
    with disk_errors(out):
        for old in out.absolute().glob(".work-*"):
            if old == work and not made:
                _remove_unfinished(old)
            else:
                remove(old)
        if not made:
            if changed := _changed(out / "train", about):
                say(f"warning: data {name}: made again, because this isn't as it was at its last making: {changed}")
            if guesses := guessed_encodings(source):
                say(f"data {name}: encodings guessed: {guesses}")
            try:
                _run_stages(f"data {name}", source, data, tokenizer_path.absolute(), work)
                statistics = _publish(work, out, about, data, vocabulary, open_source(source).found().left_out)
            except BaseException:
                _remove_unfinished(work)
                with suppress(OSError):  # it may hold older shard sets, or not be there
                    out.rmdir()
                raise
            shutil.rmtree(work)
            for line in (summary(statistics, out), side_without_documents(statistics, heldout)):
                if line:
                    say(line)
        elif statistics is not None:
            write_account_page(out, statistics)
    checksums.save()
    if statistics is not None:
        refuse_bad_rows(statistics, data.strict, data.max_bad_rows)


def _run_stages(label: str, source: SourceConfig, data: DataConfig, tokenizer: Path, work: Path) -> None:
    """Runs the tasks that aren't finished yet: first those that look for duplicates, where they are asked for."""

    heldout = source.heldout_or(data.heldout)

    def reader(stage: str, accounts: Path, compared: tuple[Path, Path] | None = None) -> DocumentReader:
        return DocumentReader(source, heldout, data.strict, f"{label}{stage}", accounts, compared)

    compared = None
    if source.cleaning.compares:
        compared = signatures, duplicates = work / "signatures", work / "duplicates"
        steps = [reader(", comparing", signatures), SignatureWriter(signatures, source.cleaning)]
        run_pipeline(f"{label}, comparing", steps, data.tasks, signatures, data)
        finder = DuplicateFinder(signatures, duplicates, data.tasks, source.cleaning)
        run_pipeline(f"{label}, comparing", [finder], 1, duplicates, data)
    writer = ShardWriter(work, tokenizer, source.kind == "chat")
    run_pipeline(label, [reader("", work / "accounts", compared), writer], data.tasks, work, data)


def _about(
    name: str, source: SourceConfig, data: DataConfig, tokenizer: Path, inputs: list[dict[str, Any]]
) -> dict[str, Any]:
    """The provenance in a manifest: equal provenance means equal shards."""
    reading = _reading(source, inputs)
    return {
        "source": name,
        "path": source.path,
        "kind": source.kind,
        "language": source.language,
        "licence": source.licence,
        "columns": [source.text_column, source.id_column],
        **({"encoding": source.encoding} if source.encoding != UTF8 else {}),
        **({"ignored": sorted(source.ignore_columns)} if source.ignore_columns else {}),
        "cleaning": asdict(source.cleaning),
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
        "heldout": source.heldout_or(data.heldout),
        "tasks": data.tasks,
        "inputs": inputs,
        **({"reading": reading} if reading else {}),
    }


def _reading(source: SourceConfig, inputs: list[dict[str, Any]]) -> dict[str, int]:
    """Which of `READING` a source's text depends on."""
    applies = {
        "normalise": source.cleaning.normalise is not None,
        "wikitext": any(".xml" in str(one.get("file", "")).lower() for one in inputs),
        "conversations": source.kind == "chat" and source.origin in ("files", "hub"),
    }
    return {name: number for name, number in READING.items() if applies[name]}


def _is_made(folder: Path, about: dict[str, Any]) -> bool:
    """Whether shards of that origin are there, and are what was written."""
    try:
        shards = ShardSet.open(folder)
        if any(shards.manifest.get(key) != value for key, value in about.items()):
            return False
        shards.verify()
    except DamagedShards as error:
        say(f"warning: the shards in {folder} are damaged ({error.problem}): made again")
        return False
    except UserError:
        return False
    return True


def _changed(folder: Path, about: dict[str, Any]) -> str:
    """What isn't as it was when the shards in a folder were made; an empty string where none can be read."""
    try:
        before = ShardSet.open(folder).manifest
    except UserError:  # `_is_made` tells of damaged ones
        return ""
    facts = [f"{key} (changed)" for key in about if key != "inputs" and before.get(key) != about[key]]
    old, new = before.get("inputs", []), about["inputs"]
    gone, come = ({_named(one) for one in some if one not in others} for some, others in ((old, new), (new, old)))
    names = {"changed": gone & come, "new": come - gone, "gone": gone - come}
    files = [f"{name} ({what})" for what, each in names.items() for name in sorted(each)]
    more = [f"{len(files) - NAMED} more"] if len(files) > NAMED else []
    return ", ".join([*files[:NAMED], *more, *facts])


def _named(one: dict[str, Any]) -> str:
    """What an input is called: a file, a dataset, or what is built from a name."""
    return str(one.get("file") or one.get("dataset") or "its conversations")


def _publish(
    work: Path, out: Path, about: dict[str, Any], data: DataConfig, vocabulary: int, files: Tally
) -> dict[str, Any]:
    """Writes the account and the manifests and moves both shard sets to their places; returns the statistics.

    Goes on where an earlier call was stopped. Raises UserError for no text to train on, or too many bad rows.
    """
    count = about["tasks"]
    tasks = {split: [read_facts(facts_of(work, split, task)) for task in range(count)] for split in SPLITS}
    documents: dict[str, int] = {split: sum(task.documents for task in tasks[split]) for split in SPLITS}
    tallies = read_accounts(work / "accounts", count)
    ids = repeated_ids(work / "accounts", count) if about["columns"][1] is not None else None
    statistics = account_of(about["source"], tallies, ids, documents, files)
    refuse_bad_rows(statistics, data.strict, data.max_bad_rows)
    if not documents["train"]:
        shutil.rmtree(work)
        raise UserError(f"no text to train on: {about['path']}: {why_nothing_is_left(statistics)}")
    write_account(out, statistics)
    for split in SPLITS:
        if _is_made(out / split, about):
            continue
        write_manifest(work / split, tasks[split], token_type(vocabulary), {**about, "split": split})
        remove(out / split)
        (work / split).rename(out / split)
    return statistics


def _remove_unfinished(work: Path) -> None:
    """Removes what unfinished tasks have left, and all of it where none has finished or left a cluster's log."""
    if not any(work.rglob("completions/*")) and not any(work.rglob("slurm_logs")):
        shutil.rmtree(work, ignore_errors=True)
    for temporary in work.glob("*/.*"):
        temporary.unlink(missing_ok=True)
