"""Every file that a run writes, with flipped bits, cut, empty or missing: mended, refused in one line, or harmless.

The table is made by walking a run's folder, so that a file which is added later is in it. Two states are tried: a run
whose tuning goes on from a checkpoint, and a finished one that is measured.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.workplace import (
    RUN,
    Answer,
    Server,
    copy,
    files_of,
    flip,
    hidden,
    places,
    result,
    rows,
    serving,
    write_workplace,
)

TRIED = 20  # places in each file, in the slow suite
FAST = [  # what is tried in the fast one: one of each kind of file, each damaged in another way
    ("going on", "recipe.yaml", "flip"),
    ("going on", "SHA256SUMS", "cut"),
    ("going on", "tokenizer/chat_template.jinja", "flip"),
    ("going on", "data/talks/train/00000.ds.mask", "flip"),
    ("going on", "base/model.safetensors", "flip"),
    ("going on", "checkpoints/finetune/plan.json", "empty"),
    ("going on", "checkpoints/finetune/step-00000002/progress.json", "flip"),
    ("finished", "metrics.jsonl", "flip"),
    ("finished", "model/model.safetensors", "flip"),
]


@dataclass
class State:
    """A run at some moment, the commands that come next, and what they end with where nothing is damaged."""

    folder: Path
    commands: tuple[tuple[str, ...], ...]
    right: Any


def outcome(folder: Path) -> Any:
    """What must not be another one in silence."""
    report = folder / RUN / "report/summary.json"
    summary = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    for key in ("minutes", "tokens_per_second", "machine", "versions"):
        summary.pop(key, None)
    return result(folder / RUN), rows(folder / RUN), rows(folder / RUN, "samples.jsonl"), summary


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture(scope="module")
def states(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, State]:
    """Each state with its folder, which is copied and not changed."""
    folder = tmp_path_factory.mktemp("states")
    finished = write_workplace(folder / "finished")
    assert server.run(finished, "finetune", "recipe.yaml").code == 0
    going = copy(finished, folder / "going")
    shutil.rmtree(going / RUN / "model")
    shutil.rmtree(going / RUN / "checkpoints/finetune/step-00000004")
    tune, report = ("finetune", "recipe.yaml"), ("report", "runs/small")
    found = {}
    for name, place, commands in (("going on", going, (tune,)), ("finished", finished, (tune, report))):
        right = copy(place, folder / f"{name} right")
        assert all(server.run(right, *command).code == 0 for command in commands)
        found[name] = State(place, commands, outcome(right))
    assert found["going on"].right[:3] == found["finished"].right[:3]
    return found


def damage(path: Path, kind: str, place: int = 0) -> None:
    """Changes a file; `place` is where a bit flips, or how much of it stays."""
    if kind == "flip":
        flip(path, place)
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:place])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


def verdict(server: Server, state: State, folder: Path, name: str, kind: str, place: int) -> str:
    """`refused`, `mended` or `harmless`; fails where it is none of them."""
    work = copy(state.folder, folder / "work")
    try:
        damage(work / RUN / name, kind, place)
        case = f"{name}, {kind} at {place}"
        answers: list[Answer] = []
        for command in state.commands:
            answers.append(server.run(work, *command))
            if answers[-1].code:
                break
        last = answers[-1]
        assert "Traceback" not in last.said, f"{case}: {last.said[-2000:]}"
        if last.code:
            assert last.refused, f"{case}: code {last.code}: {last.said[-2000:]}"
            return "refused"
        assert not hidden(work / RUN), case
        said = any("warning" in answer.said for answer in answers)
        found = outcome(work)
        if name.startswith("damaged") or (said and Path(name).name in ("metrics.jsonl", "samples.jsonl")):
            found = (found[0], state.right[1], state.right[2], found[3])  # rows are lost, and that is said
        assert found == state.right, f"{case}: another result in silence: {last.said[-1000:]}"
        return "mended" if said else "harmless"
    finally:
        shutil.rmtree(work)


@pytest.mark.parametrize(("state", "name", "kind"), FAST, ids=lambda value: str(value))
def test_a_damaged_file_is_never_another_result_in_silence(
    server: Server, states: dict[str, State], tmp_path: Path, state: str, name: str, kind: str
) -> None:
    size = (states[state].folder / RUN / name).stat().st_size
    verdict(server, states[state], tmp_path, name, kind, size // 2)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["going on", "finished"])
def test_every_file_in_every_way(server: Server, states: dict[str, State], tmp_path: Path, state: str) -> None:
    """The whole table; what it counts is printed, for docs/reliability.md."""
    counts: dict[str, dict[str, int]] = {}
    for name in files_of(states[state].folder / RUN):
        size = (states[state].folder / RUN / name).stat().st_size
        tries = [("flip", place) for place in places(size, TRIED)]
        tries += [("cut", place) for place in places(size, TRIED)[:-1]] + [("empty", 0), ("missing", 0)]
        for kind, place in tries:
            found = verdict(server, states[state], tmp_path, name, kind, place)
            counted = counts.setdefault(name, {})
            counted[found] = counted.get(found, 0) + 1
    print(json.dumps(counts, indent=1))
    assert counts
