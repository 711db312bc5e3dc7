"""A run's folder: what is in it, who works in it, what a killed command has left in it, what made what."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sioconv.checksums import SUMS, read_sealed, write_sealed
from sioconv.data.report import REPORT as SOURCE_REPORT
from sioconv.data.report import STATISTICS
from sioconv.data.shards.pipeline import INPUTS
from sioconv.data.shards.shard_set import INDEX, MANIFEST, MASK, TOKENS
from sioconv.data.tokenizer.report import JSON_FILE, TABLE_FILE
from sioconv.errors import UserError
from sioconv.files import disk_errors, missing, remove_leftovers, shown, sweep
from sioconv.model.initial_state import INITIAL_STATE_FILE
from sioconv.progress import say
from sioconv.train.budget import PLAN
from sioconv.train.metrics import METRICS, SAMPLES

if sys.platform != "win32":
    import fcntl

RECIPE, MADE = "recipe.yaml", "made.json"
TOKENIZER, DATA, CHECKPOINTS, BASE, MODEL, REPORT = "tokenizer", "data", "checkpoints", "base", "model", "report"
TUNING = "tuning"  # what `tune` works in, hidden beside the runs: a copy of one's own conversations
UNFINISHED = ", unfinished"  # behind the stage that had made a result, and is at work on a longer one
SHOWN = 4  # runs in a message
# Below the run's folder, where commands write; and what, so that a user's own hidden files aren't taken for theirs.
FOLDERS = (".", TOKENIZER, f"{CHECKPOINTS}/*", f"{DATA}/*", f"{DATA}/*/train", f"{DATA}/*/heldout")
NAMES = re.compile(
    "|".join(
        [
            *map(re.escape, (RECIPE, MADE, SUMS, METRICS, SAMPLES, INITIAL_STATE_FILE)),
            *map(re.escape, (TOKENIZER, BASE, MODEL, REPORT, PLAN, JSON_FILE, TABLE_FILE)),
            *map(re.escape, (STATISTICS, SOURCE_REPORT, INPUTS, MANIFEST)),
            rf"\d+({'|'.join(map(re.escape, (TOKENS, INDEX, MASK)))})",
            r"step-\d+",
        ]
    )
)


def why_no_run(path: Path) -> str:
    """What to say of a path that is no run, with the runs that may be meant: those below it, or the one it is in."""
    levels = [sorted(path.glob(f"{level}/{RECIPE}")) for level in ("*", "*/*")] if path.is_dir() else []
    runs = [file.parent for files in levels for file in files]
    below = [run for run in runs if not any(part.startswith(".") for part in run.relative_to(path).parts)]
    above = [folder for folder in path.parents if (folder / RECIPE).is_file()] if path.exists() else []
    if below:
        return f"no run at {path}, but below it: give {' or '.join(shown(run) for run in below[:SHOWN])}"
    if above:
        return f"no run at {path}, but it is in one: give {shown(above[0])}"
    why = "it holds no recipe.yaml" if path.exists() else missing(path)
    return f"no run at {path}: {why}: give a folder that `sioconv pretrain` made"


def check_run(path: Path) -> None:
    """Raises UserError, with the runs that may be meant, where a path is no run."""
    if not (path / RECIPE).is_file():
        raise UserError(why_no_run(path))


@contextmanager
def at_work(run: Path) -> Iterator[None]:
    """Holds the lock on a run's folder, and first removes what a killed command has left half-written in it.

    Raises UserError when another process holds it.
    """
    with only_one(run):
        for pattern in FOLDERS:
            for folder in [run] if pattern == "." else sorted(run.glob(pattern)):
                if folder.is_dir():
                    remove_leftovers(folder, NAMES)
        with suppress(OSError):
            sweep(run.parent / TUNING)
        yield


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds a lock on a folder while a run works in it; when the process ends, however it does, the system frees it.

    On Windows, which has no such locks of folders, and on a network's disk without locks it does nothing.

    Raises UserError when another process holds it.
    """
    if sys.platform == "win32":
        yield
        return
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is working in {folder}: wait for it or stop it, or choose another --name"
            ) from error
        except OSError as error:
            say(f"warning: {folder} can't be locked ({error.strerror}): let no other command work in it now")
        yield
    finally:
        os.close(handle)


def made_by(run: Path) -> dict[str, Any]:
    """What each result of a run was made by: name → `stage`, `recipe` (the parts that it depends on) and `inputs`.

    Empty where nothing is known: runs of older versions have no such file.
    """
    try:
        made = read_sealed(run / MADE)
        if not all(isinstance(each, dict) and {"stage", "recipe", "inputs"} <= each.keys() for each in made.values()):
            raise ValueError("it isn't what a run notes")
        return made
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        say(f"warning: {run / MADE} is damaged ({error}): what made the run's models is told by their files")
        return {}


def note_made(run: Path, name: str, stage: str, recipe: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Notes what has made a result."""
    write_sealed(run / MADE, made_by(run) | {name: {"stage": stage, "recipe": recipe, "inputs": inputs}}, indent=1)
