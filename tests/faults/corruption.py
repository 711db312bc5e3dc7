"""Every file that a run writes, damaged in every way: `python -m tests.faults.corruption OUT PLACES`.

The table is made by walking a run's folder, so that a file which is added later is in it. Two states are tried: a run
whose tuning goes on from a checkpoint, and a finished one that is measured. One place of every file is tried, then the
next of every file, and so on; each round prints what was found so far. The suite takes a sample.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

Try = tuple[str, str, int]  # a file, how it is damaged, and where


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


def make_states(server: Server, folder: Path) -> dict[str, State]:
    """Each state with its folder, which is copied and not changed."""
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
        aside = any("moved aside and begun anew" in answer.said for answer in answers)
        if name.startswith("damaged") or aside or (said and Path(name).name in ("metrics.jsonl", "samples.jsonl")):
            found = (found[0], state.right[1], state.right[2], found[3])  # rows are lost, and that is said
        assert found == state.right, f"{case}: another result in silence: {last.said[-1000:]}"
        return "mended" if said else "harmless"
    finally:
        shutil.rmtree(work)


def rounds(run: Path, count: int) -> Iterator[list[Try]]:
    """What is tried of a run: `count` flips and cuts in each of its files, one of each in a round, far from the last.

    The first round has every file empty and missing.
    """
    files = {name: places((run / name).stat().st_size, count) for name in files_of(run)}
    yield [(name, kind, 0) for name in files for kind in ("missing", "empty")]
    for number in sorted(range(count), key=lambda number: number * 7 % count):
        flips = [(name, "flip", found[number]) for name, found in files.items() if number < len(found)]
        yield flips + [(name, "cut", found[number]) for name, found in files.items() if number + 1 < len(found)]


def main() -> None:
    """See above."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    counts: dict[str, Counter[str]] = {}
    bad = 0
    with serving() as server:
        states = make_states(server, folder)
        walks = {name: rounds(state.folder / RUN, count) for name, state in states.items()}
        for number in range(count + 1):
            for name, walk in walks.items():
                for file, kind, place in next(walk, []):
                    try:
                        found = verdict(server, states[name], folder, file, kind, place)
                    except AssertionError as error:
                        found, bad = "BAD", bad + 1
                        print(f"{name}: {error}", flush=True)
                    counts.setdefault(file, Counter())[found] += 1
                total = sum(counts.values(), Counter[str]())
                print(f"round {number}, {name}: {total.total()} tried, {dict(total)}", flush=True)
    print(json.dumps(counts, indent=1))
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
