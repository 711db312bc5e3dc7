"""One arm, from a checkout of its own to its row of the results."""

import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks.speedrun.arms import ROOT, TRACKS, Arm
from benchmarks.speedrun.results import make_row
from sioconv.errors import UserError
from sioconv.files import atomic_write, disk_errors
from sioconv.progress import say
from sioconv.train.metrics import read_jsonl

RUN = "arm"  # the run's name in its folder
CHANGED = "+changes"  # behind the commit of code that isn't quite that commit's
CORPORA = "corpora"  # of the folder for runs: the texts of the track *wiki*


def train_arm(arm: Arm, work: Path, wait: bool) -> dict[str, Any] | None:
    """Trains and measures an arm, going on where it was killed; the row of one that is measured lies in its folder.

    Args:
        arm: what is trained.
        work: a folder for checkouts and runs.
        wait: for another process that is at this arm; without it such an arm is left alone.

    Returns:
        The row, or None where another process is at it.

    Raises:
        UserError: the commit isn't there, or a command failed.
    """
    folder = work / arm.folder
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _claim(folder / "lock", wait) as lock:
        if lock is None:
            return None
        done = folder / "row.json"
        if done.is_file():  # trained for other results, or killed before its row was among them
            return _with_budget(json.loads(done.read_text(encoding="utf-8")), arm)
        if arm.track == "wiki":
            _link_corpora(work, folder)
        commit = _commit(arm, folder)
        code = _checkout(commit, work / "checkouts")
        _run(["pretrain", str(ROOT / TRACKS[arm.track]), f"--name={RUN}", *arm.words], code, folder, lock)
        # A commit from before there were parts measures text alone.
        parts = ["--parts=text,copying"] if (code / "sioconv" / "evaluate" / "parts").is_dir() else []
        figures = json.loads(_run(["evaluate", f"runs/{RUN}/base", "--json", *parts], code, folder, lock))
        row = _row(arm, commit, figures, folder / "runs" / RUN)
        with atomic_write(done) as temporary:
            temporary.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
        return row


def _with_budget(row: dict[str, Any], arm: Arm) -> dict[str, Any]:
    """A row that was measured before, with the arm's budget: as many tokens may have been those of other minutes."""
    kept = {key: value for key, value in row.items() if key not in ("minutes", "minutes_of")}
    return kept if arm.minutes is None else {**kept, "minutes": arm.minutes, "minutes_of": arm.minutes_of}


def tidy(arm: Arm, work: Path) -> None:
    """Removes what a trained arm doesn't need any more: all but its model, its metrics and its log."""
    for name in ("checkpoints", "data"):
        shutil.rmtree(work / arm.folder / "runs" / RUN / name, ignore_errors=True)


def _link_corpora(work: Path, folder: Path) -> None:
    """The arm's folder, where its recipe's paths begin, gets the texts of the track *wiki*."""
    corpora = (work / CORPORA).absolute()
    if not corpora.is_dir():
        raise UserError(f"no folder {corpora}: the track wiki reads its texts there: see {TRACKS['wiki']}")
    with suppress(FileExistsError):
        (folder / CORPORA).symlink_to(corpora, target_is_directory=True)


@contextmanager
def _claim(path: Path, wait: bool) -> Iterator[IO[str] | None]:
    """A lock that lasts as long as this process or one of its commands does: a queue that is killed leaves those."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file


def _commit(arm: Arm, folder: Path) -> str:
    """The commit that the arm was begun with, or begins with now."""
    path = folder / "commit"
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_text(commit_of(arm.commit or "HEAD"))
        if arm.commit is None and changed():
            say(f"warning: {arm.name} is trained by the last commit: changes that aren't committed have no part in it")
    return path.read_text()


def commit_of(name: str) -> str:
    """The commit that a branch, a tag or an abbreviation names. Raises UserError where there is none."""
    found = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if found.returncode:
        raise UserError(f"no commit {name} in {ROOT}")
    return found.stdout.decode().strip()


def changed() -> bool:
    """Whether the code here isn't that of the last commit; results that were added are no code."""
    return bool(
        _git("status", "--porcelain", "--", "src", "benchmarks", ":(exclude)benchmarks/speedrun/*.jsonl").stdout
    )


def commit_here() -> str:
    """The last commit, with `CHANGED` behind it where the code isn't the commit's. Raises UserError without a clone."""
    return commit_of("HEAD") + (CHANGED if changed() else "")


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=False)


def _checkout(commit: str, folder: Path) -> Path:
    """The package's source as the commit has it; made once."""
    target = folder / commit
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{commit}.{os.getpid()}"
        try:
            with (
                disk_errors(target),
                tarfile.open(fileobj=io.BytesIO(_git("archive", commit, "src").stdout)) as archive,
            ):
                archive.extractall(temporary, filter="data")
            with suppress(OSError):  # another process was faster
                temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target / "src"


def _run(words: list[str], code: Path, folder: Path, lock: IO[str]) -> str:
    """A command of sioconv in the arm's folder; what it prints to stdout."""
    environment = {**os.environ, "PYTHONPATH": str(code), "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sioconv", *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            process_group=0,  # what interrupts the queue must not interrupt it while it saves
            pass_fds=[lock.fileno()],
        )
        try:
            printed, _ = process.communicate()
        except BaseException:
            process.terminate()  # it saves and ends
            process.wait()
            raise
    if process.returncode:
        raise UserError(f"sioconv {words[0]} failed with exit code {process.returncode}: see {folder / 'log'}")
    return printed


def _row(arm: Arm, commit: str, figures: dict[str, Any], run: Path) -> dict[str, Any]:
    languages = {name: value["bpb"] for name, value in figures["languages"].items()}
    metrics = [row for row in read_jsonl(run / "metrics.jsonl") if row["stage"] == "pretrain"]
    plan = json.loads((run / "checkpoints" / "pretrain" / "plan.json").read_text(encoding="utf-8"))
    return make_row(
        arm,
        commit,
        languages,
        {name: value["bpb"] for name, value in figures["sources"].items()},
        max(row["seconds"] for row in metrics),
        plan["precision"],
        arm.settings.get("train.threads", torch.get_num_threads()),
        {key: figures[key] for key in ("parameters", "state_bytes")},
        figures.get("copying", {"distances": ()}),
    )
