"""Sources become the shards that their documents say, whoever works on them and whatever interrupts it."""

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from sioconv.data.chat import encode
from sioconv.data.cleaning.config import Cleaning, Normalise
from sioconv.data.cleaning.splits import read_split
from sioconv.data.config import DataConfig, SourceConfig, TokenizerConfig
from sioconv.data.shards import pipeline
from sioconv.data.shards.pipeline import prepare_source
from sioconv.data.shards.shard_set import ShardSet
from sioconv.data.shards.writer import TaskWriter
from sioconv.data.tokenizer.tokenizer import encode_texts, tokenizer_sha256, train_tokenizer
from sioconv.errors import UserError

SPLITS = ("train", "heldout")
PUBLISHED = [".inputs.json", "heldout", "report.md", "statistics.json", "train"]


def write_jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> SourceConfig:
    """120 documents, one of them much longer than the others."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [{"text": f"{number} 海と山。" * (1 + number % 9)} for number in range(120)]
    rows[60] = {"text": "A long river. " * 5_000}
    return SourceConfig(str(write_jsonl(folder / "texts.jsonl", rows)), licence="CC0-1.0")


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> SourceConfig:
    """60 conversations of two or four turns."""
    turns = [{"role": "user", "content": "<|assistant|>海?"}, {"role": "assistant", "content": "山。"}]
    rows = [
        {"messages": [{"role": "system", "content": f"{number}"}, *turns * (1 + number % 2)]} for number in range(60)
    ]
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    return SourceConfig(str(write_jsonl(path, rows)), kind="chat")


def contents(out: Path) -> dict[str, bytes]:
    """Every file below `out` by its name, hidden ones too."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def documents(folder: Path) -> list[list[int]]:
    shards = ShardSet.open(folder)
    return [shards.document(number)[0].tolist() for number in range(shards.documents_total)]


@pytest.mark.parametrize(("tasks", "batch"), [(1, 1_000_000), (3, 1_000_000), (1, 500)])
def test_documents_are_bos_text_eos(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    tokenizer_folder: Path,
    texts: SourceConfig,
    monkeypatch: pytest.MonkeyPatch,
    tasks: int,
    batch: int,
) -> None:
    monkeypatch.setattr(pipeline, "BATCH_BYTES", batch)
    prepare_source("sea", texts, DataConfig(heldout=0.2, tasks=tasks), tokenizer_folder, tmp_path / "sea")
    total = 0
    for split in SPLITS:
        rows = [row.text or "" for row in read_split(texts, split, 0.2)]
        expected = [[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id] for ids in encode_texts(tokenizer, rows)]
        found = documents(tmp_path / "sea" / split)
        assert (found if tasks == 1 else sorted(found)) == (expected if tasks == 1 else sorted(expected))
        shards = ShardSet.open(tmp_path / "sea" / split, tokenizer_sha256(tokenizer_folder))
        shards.verify()
        assert shards.bytes_total == sum(len(row.encode()) for row in rows)
        assert not shards.masked
        about = {key: shards.manifest[key] for key in ("source", "split", "licence", "language", "kind", "dtype")}
        assert list(about.values()) == ["sea", split, "CC0-1.0", "ja", "text", "uint16"]
        total += shards.documents_total
    assert total == 120
    assert sorted(path.name for path in (tmp_path / "sea").iterdir()) == PUBLISHED


def test_conversations_are_encoded_with_their_masks(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, tokenizer_folder: Path, chats: SourceConfig
) -> None:
    prepare_source("talk", chats, DataConfig(heldout=0.2), tokenizer_folder, tmp_path / "talk")
    for split in SPLITS:
        rows = [row.messages or [] for row in read_split(chats, split, 0.2)]
        shards = ShardSet.open(tmp_path / "talk" / split)
        assert shards.documents_total == len(rows) > 0
        assert shards.bytes_total == sum(len(turn["content"].encode()) for turns in rows for turn in turns)
        for number, messages in enumerate(rows):
            ids, mask = shards.document(number)
            assert (ids.tolist(), mask.tolist()) == encode(tokenizer, messages)


@pytest.mark.parametrize("kind", ["texts", "chats"])
def test_the_number_of_workers_changes_nothing(
    tmp_path: Path, tokenizer_folder: Path, kind: str, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    source = request.getfixturevalue(kind)
    for workers in (1, 2):
        out = tmp_path / str(workers)
        prepare_source("x", source, DataConfig(tasks=3, workers=workers), tokenizer_folder, out)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert all(line.startswith("data x") for line in printed.err.splitlines())  # only how far it is, on slow machines


def test_files_are_dealt_out_to_tasks(tmp_path: Path, tokenizer_folder: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.txt.gz").write_bytes(gzip.compress(f"text {number}".encode()))
    source = SourceConfig(str(tmp_path / "in"), heldout=0)
    prepare_source("x", source, DataConfig(heldout=0.9, tasks=2), tokenizer_folder, tmp_path / "out")
    shards = ShardSet.open(tmp_path / "out" / "train")
    assert shards.documents_total == 5
    assert ShardSet.open(tmp_path / "out" / "heldout").documents_total == 0


def test_a_name_becomes_conversations(tmp_path: Path, tokenizer_folder: Path) -> None:
    source = SourceConfig("identity:Shio", kind="chat")
    prepare_source("me", source, DataConfig(heldout=0), tokenizer_folder, tmp_path / "me")
    assert ShardSet.open(tmp_path / "me" / "train").documents_total > 0


def stamps(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in out.rglob("*")}


def test_what_is_there_is_left_alone_until_something_changes(tmp_path: Path, tokenizer_folder: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [{"text": f"text {number}"} for number in range(50)])
    source, data, out = SourceConfig(str(path)), DataConfig(heldout=0.2), tmp_path / "out"
    other = tmp_path / "tokenizer"
    train_tokenizer(TokenizerConfig(vocab_size=300), ["Other text. " * 20], other)

    def is_made_anew(source: SourceConfig, data: DataConfig, tokenizer: Path) -> bool:
        before = stamps(out)
        prepare_source("x", source, data, tokenizer, out)
        return stamps(out) != before

    assert is_made_anew(source, data, tokenizer_folder)
    assert not is_made_anew(replace(source, weight=7.0), replace(data, workers=2), tokenizer_folder)
    assert is_made_anew(source, replace(data, tasks=2), tokenizer_folder)
    assert is_made_anew(source, replace(data, heldout=0.5), tokenizer_folder)
    assert is_made_anew(replace(source, licence="CC0-1.0"), data, tokenizer_folder)
    assert is_made_anew(source, data, other)
    write_jsonl(path, [{"text": f"fact {number}"} for number in range(50)])
    assert is_made_anew(source, data, other)
    (out / "heldout" / "00000.ds").write_bytes(b"")
    assert is_made_anew(source, data, other)
    assert not is_made_anew(source, data, other)
    assert sorted(entry.name for entry in out.iterdir()) == PUBLISHED


def test_what_is_made_again_is_told_with_its_reason(
    tmp_path: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, out = tmp_path / "texts", tmp_path / "out"
    texts.mkdir()
    for name in ("a", "b", "c"):
        write_jsonl(texts / f"{name}.jsonl", [{"text": f"{name} {number}"} for number in range(20)])

    def said(data: DataConfig) -> str:
        prepare_source("s", SourceConfig(str(texts)), data, tokenizer_folder, out)
        return "".join(line for line in capsys.readouterr().err.splitlines() if "warning" in line)

    start = "warning: data s: made again, because this isn't as it was at its last making: "
    assert said(DataConfig(heldout=0)) == said(DataConfig(heldout=0)) == ""
    write_jsonl(texts / "a.jsonl", [{"text": "another"}] * 20)
    (texts / "b.jsonl").rename(texts / "d.jsonl")
    assert said(DataConfig(heldout=0)) == f"{start}a.jsonl (changed), d.jsonl (new), b.jsonl (gone)"
    assert said(DataConfig(heldout=0.5)) == f"{start}heldout (changed)"
    for number in range(8):
        write_jsonl(texts / f"n{number}.jsonl", [{"text": "new"}])
    listed = ", ".join(f"n{number}.jsonl (new)" for number in range(5))
    assert said(DataConfig(heldout=0)) == f"{start}{listed}, 3 more, heldout (changed)"


def test_shards_of_before_are_made_again_where_text_is_read_otherwise_since(
    tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "神\x0c塚"}] * 4)
    for cleaning, again in ((Cleaning(), False), (Cleaning(normalise=Normalise()), True)):
        source, out = SourceConfig(str(path), cleaning=cleaning), tmp_path / str(again)
        with monkeypatch.context() as before:
            before.setattr(pipeline, "_reading", lambda *_: {})  # as manifests were before
            prepare_source("s", source, DataConfig(heldout=0), tokenizer_folder, out)
        written = (out / "train" / "manifest.json").stat().st_mtime_ns
        prepare_source("s", source, DataConfig(heldout=0), tokenizer_folder, out)
        assert ((out / "train" / "manifest.json").stat().st_mtime_ns != written) is again


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_row_is_one_error_where_it_must_be(tmp_path: Path, tokenizer_folder: Path, workers: int) -> None:
    rows: list[object] = [{"text": f"text {number}"} for number in range(40)]
    rows[30] = {"txt": "?"}
    source = SourceConfig(str(write_jsonl(tmp_path / "in.jsonl", rows)))
    with pytest.raises(UserError, match=r"in\.jsonl:31") as caught:
        data = DataConfig(tasks=2, workers=workers, strict=True)
        prepare_source("x", source, data, tokenizer_folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    left = [path.name for path in tmp_path.rglob("*") if path.name == "manifest.json" or path.name.startswith(".0")]
    assert left == []


def test_older_shards_outlive_a_failure(tmp_path: Path, tokenizer_folder: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [{"text": f"text {number}"} for number in range(40)])
    prepare_source("x", SourceConfig(str(path)), DataConfig(), tokenizer_folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    write_jsonl(path, [{"text": "fine"}, {"text": 5}])
    with pytest.raises(UserError, match=r"in\.jsonl:2"):
        prepare_source("x", SourceConfig(str(path)), DataConfig(strict=True), tokenizer_folder, tmp_path / "out")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tasks": 0}, r"data\.tasks"),
        ({"workers": 0}, r"data\.workers"),
        ({"heldout": 1.0}, r"data\.heldout"),
        ({"heldout": 0.9999}, "no text to train on"),
    ],
)
def test_settings_that_leave_nothing_are_refused(
    tmp_path: Path, tokenizer_folder: Path, change: dict[str, float], complaint: str
) -> None:
    source = SourceConfig(str(write_jsonl(tmp_path / "in.jsonl", [{"text": "one"}, {"text": "two"}])))
    with pytest.raises(UserError, match=complaint):
        prepare_source("x", source, replace(DataConfig(), **change), tokenizer_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_parts_are_refused(tmp_path: Path, tokenizer_folder: Path, texts: SourceConfig) -> None:
    with pytest.raises(UserError, match="no tokenizer"):
        prepare_source("x", texts, DataConfig(), tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(UserError, match="no text found"):
        prepare_source("x", SourceConfig(str(tmp_path / "no")), DataConfig(), tokenizer_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ interruptions

# Prepares a source, but the third and the fourth of its tasks never come to an end.
PREPARE = """
import sys
import time
from pathlib import Path
from sioconv.data.shards import pipeline
from sioconv.data.shards import reading
from sioconv.data.config import DataConfig, SourceConfig

path, tokenizer, out, workers = sys.argv[1:]
read_all_rows = reading.read_rows

def read_rows(source, *, rank, world_size, tally):
    for number, row in enumerate(read_all_rows(source, rank=rank, world_size=world_size, tally=tally)):
        if rank >= 2 and number == 10:
            Path(path + f".{rank}").touch()
            time.sleep(1000)
        yield row

reading.read_rows = read_rows
if __name__ == "__main__":
    data = DataConfig(tasks=4, workers=int(workers))
    pipeline.prepare_source("x", SourceConfig(path), data, Path(tokenizer), Path(out))
"""


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Waits for something that happens in another process."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it didn't happen"
        time.sleep(0.002)


def is_running(process: int) -> bool:
    """Whether a process is there and hasn't ended."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked up in Linux's /proc")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_and_gives_the_same_shards(tmp_path: Path, tokenizer_folder: Path, workers: int) -> None:
    source = SourceConfig(
        str(write_jsonl(tmp_path / "in.jsonl", [{"text": f"{number} 海と山。"} for number in range(99)]))
    )
    (tmp_path / "prepare.py").write_text(PREPARE)
    out = tmp_path / "out"
    command = [sys.executable, str(tmp_path / "prepare.py"), source.path, str(tokenizer_folder), str(out), str(workers)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as run:
        stuck = [tmp_path / f"in.jsonl.{rank}" for rank in ((2,) if workers == 1 else (2, 3))]
        until(lambda: all(path.exists() for path in stuck) or run.poll() is not None)
        working = children(run.pid)
        run.send_signal(signal.SIGKILL)
    until(lambda: not any(is_running(process) for process in working))
    assert sorted(path.name for path in out.glob(".work-*/completions/*")) == ["00000", "00001"]
    assert list(out.glob(".work-*/train/.0000*"))  # what the unfinished tasks have begun
    assert not (out / "train").exists()
    kept = {path.name: path.stat().st_ino for path in out.glob(".work-*/train/0000[01].ds")}

    prepare_source("x", source, DataConfig(tasks=4, workers=workers), tokenizer_folder, out)
    assert {name: (out / "train" / name).stat().st_ino for name in kept} == kept
    prepare_source("x", source, DataConfig(tasks=4), tokenizer_folder, tmp_path / "straight")
    assert contents(out) == contents(tmp_path / "straight")


def test_a_full_disk_is_one_error(
    tmp_path: Path, tokenizer_folder: Path, texts: SourceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TaskWriter, "write", fail)
    with pytest.raises(UserError, match="no disk space left"):
        prepare_source("x", texts, DataConfig(), tokenizer_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_stopped_while_publishing_is_finished(
    tmp_path: Path, tokenizer_folder: Path, texts: SourceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataConfig(heldout=0.2, tasks=2)
    prepare_source("x", texts, data, tokenizer_folder, tmp_path / "straight")
    rename = Path.rename

    def stop_at_heldout(path: Path, target: Path) -> Path:
        if path.name == "heldout":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stop_at_heldout)
    with pytest.raises(KeyboardInterrupt):
        prepare_source("x", texts, data, tokenizer_folder, tmp_path / "out")
    monkeypatch.undo()
    assert (tmp_path / "out" / "train").exists()
    prepare_source("x", texts, data, tokenizer_folder, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")
