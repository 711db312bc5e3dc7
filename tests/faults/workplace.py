"""A run that takes a second or two, and what has to be the same at its end whatever came between."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sioconv.train.metrics import read_jsonl
from tests.train.launch import ROOT, environment

RECIPE = """\
name: small
seed: 3
tokenizer: {vocab_size: 280}
data:
  heldout: 0.1
  sources: {rivers: {path: rivers.jsonl}}
model: {hidden_size: 16, num_hidden_layers: 1, num_heads: 2, intermediate_size: 16}
train: &train
  tokens: 256
  sequence_length: 16
  batch_size: 4
  device: cpu
  precision: fp32
  threads: 1
  log_every: 1
  checkpoint_every: 2
  keep_before_decay: false
  validate_bytes: 200
  sample_prompts: ["川"]
  sample_seconds: []
  sample_tokens: 1
finetune:
  data:
    heldout: 0.2
    sources: {talks: {path: talks.jsonl, kind: chat}}
  train: {<<: *train, whole_documents: true}
evaluate: {yardsticks: false, questions: 1, max_new_tokens: 1, conversations: 2, prompts: ["川"], heldout_bytes: 200,
  parts: [text]}
"""
RUN = Path("runs/small")
VISIBLE = (".metadata", ".inputs.json")  # hidden by name, but meant to stay
TIMES = ("seconds", "tokens_per_second")
ONCE = re.compile(r"(runs/[^/]+/)?(data|checkpoints|tokenizer|base|model|small8|hub)/")


@dataclass
class Answer:
    """What came of a command."""

    code: int
    said: str
    out: str
    operations: list[str] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether it ended with one line that says why."""
        last = self.said.rstrip().rpartition("\n")[2]
        return self.code == 2 and last.startswith("sioconv: ") and "Traceback" not in self.said


class Server:
    """The process that runs commands: see `tests/faults/server.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"], cwd=ROOT, env=environment(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip

    def run(self, folder: Path, *arguments: str, fault: str = "none", at: int = -1, seconds: float = 1200) -> Answer:
        """Runs a command in a folder; a fault strikes at one of its operations, SIGKILL after so many seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        job = {"folder": str(folder), "arguments": arguments, "fault": fault, "at": at, "seconds": seconds}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Answer(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


@contextmanager
def serving() -> Iterator[Server]:
    """A server for a while."""
    server = Server()
    try:
        yield server
    finally:
        server.close()


def write_workplace(folder: Path) -> Path:
    """The recipe and its texts; returns the folder."""
    folder.mkdir(parents=True)
    talk = [{"role": "user", "content": "川は？"}, {"role": "assistant", "content": "海へ。"}]
    rows: dict[str, list[dict[str, Any]]] = {
        "rivers": [{"text": f"第{n}の川は、山から海へ流れる。"} for n in range(30)],
        "talks": [{"messages": [{**talk[0], "content": f"第{n}の川は？"}, talk[1]]} for n in range(20)],
    }
    for name, entries in rows.items():
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


def hidden(run: Path) -> list[str]:
    """What no finished command leaves."""
    return sorted(str(path.relative_to(run)) for path in run.rglob(".*") if path.name not in VISIBLE)


def result(run: Path, parts: tuple[str, ...] = ("tokenizer", "data", "base", "model")) -> dict[str, Any]:
    """What must be the same, bit for bit, at the end of a run; times are left out."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_file() and name.split("/")[0] in parts and path.name not in VISIBLE:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    found["recipe.yaml"] = (run / "recipe.yaml").read_text(encoding="utf-8")
    return found


def rows(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The rows of a JSON-lines file without their times."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in read_jsonl(run / name)]


def copy(folder: Path, to: Path) -> Path:
    """A copy of a workplace, links as links."""
    shutil.copytree(folder, to, symlinks=True)
    for name in ("said", "out", "operations"):
        (to / f"{name}.log").unlink(missing_ok=True)
    return to


def linked_copy(folder: Path, to: Path, *but: str) -> Path:
    """`copy`, but in the parts of runs and models that are written once, whole or not at all, files are hard links.

    Args:
        folder: the workplace; nobody may change what is linked, so its owner compares `digest` before and after.
        to: the copy.
        but: files that are copies all the same, relative to the folder.
    """

    def place(source: str, target: str) -> None:
        name = os.path.relpath(source, folder)
        if name not in but and ONCE.match(name):
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    shutil.copytree(folder, to, symlinks=True, copy_function=place, ignore=shutil.ignore_patterns("*.log"))
    return to


def digest(folder: Path) -> str:
    """Of all names and files of a folder."""
    found = hashlib.sha256()
    for name in files_of(folder):
        found.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return found.hexdigest()


def flip(path: Path, place: int) -> None:
    """Changes one bit of the byte at a place."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << (place % 7)
    path.write_bytes(data)


def files_of(run: Path) -> list[str]:
    """The files of a run, in order."""
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and not path.is_symlink())


def places(size: int, count: int) -> list[int]:
    """Places in a file of that size, spread over it."""
    return sorted({round(number * (size - 1) / max(1, count - 1)) for number in range(count)}) if size else []
