"""Every file that a run writes, damaged in every way: `python -m tests.faults.corruption OUT PLACES [STATE …]`.

The table is made by walking folders, so that a file which is added later is in it. Two states of a run are tried: one
whose tuning goes on from a checkpoint, and a finished one that is measured. A third is what people keep beside a run
(`tests/faults/kept.py`). One place of every file is tried, then the next of every file, and so on; each round prints
what was found so far. The suite takes a sample.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.kept import KEPT, commands_for, make_kept, said_of, told
from tests.faults.workplace import (
    RUN,
    Answer,
    Server,
    copy,
    digest,
    files_of,
    flip,
    hidden,
    linked_copy,
    places,
    result,
    rows,
    serving,
    write_workplace,
)

Try = tuple[str, str, int]  # a file, how it is damaged, and where
Command = tuple[str, ...]
STATES = ("going on", "finished", "kept")


@dataclass
class State:
    """A workplace at some moment, and what comes next.

    Args:
        folder: the workplace, which is copied and not changed.
        files: those that are damaged, relative to it.
        commands: what comes next where some file was damaged.
        outcome: what must not be another one in silence, of a workplace and the commands' answers.
        right: the outcome where nothing is damaged, by commands.
    """

    folder: Path
    files: list[str]
    commands: Callable[[str], tuple[Command, ...]]
    outcome: Callable[[Path, Sequence[Answer]], Any]
    right: dict[tuple[Command, ...], Any]


def outcome(folder: Path, _: Sequence[Answer] = ()) -> Any:
    """Of a run: its files, the rows of metrics and samples, the figures of its report."""
    report = folder / RUN / "report/summary.json"
    summary = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    for key in ("minutes", "tokens_per_second", "machine", "versions"):
        summary.pop(key, None)
    return result(folder / RUN), rows(folder / RUN), rows(folder / RUN, "samples.jsonl"), summary


def make_states(server: Server, folder: Path, names: Sequence[str] = STATES) -> dict[str, State]:
    """The states of these names."""
    finished = write_workplace(folder / "finished")
    assert server.run(finished, "finetune", "recipe.yaml").code == 0
    found = {}
    for name in names:
        if name == "kept":
            place = make_kept(server, finished, folder / "kept")
            files = [str(path) for root in KEPT for path in _files(place, root)]
            commands: Callable[[str], tuple[Command, ...]] = commands_for(place)
            judged: Callable[[Path, Sequence[Answer]], Any] = said_of
        else:
            place = finished
            if name == "going on":
                place = copy(finished, folder / "going")
                shutil.rmtree(place / RUN / "model")
                shutil.rmtree(place / RUN / "checkpoints/finetune/step-00000004")
            files = [str(RUN / file) for file in files_of(place / RUN)]
            tune, report = ("finetune", "recipe.yaml"), ("report", "runs/small")
            commands = dict.fromkeys(files, (tune,) if name == "going on" else (tune, report)).__getitem__
            judged = outcome
        found[name] = State(place, files, commands, judged, {})
        for number, each in enumerate(dict.fromkeys(map(commands, files))):
            right = copy(place, folder / f"{name} right {number}")
            answers = [server.run(right, *command) for command in each]
            assert all(answer.code == 0 for answer in answers), answers
            found[name].right[each] = judged(right, answers)
    return found


def _files(folder: Path, root: str) -> list[Path]:
    """The files below `root`, or it itself, relative to the folder."""
    place = folder / root
    return [Path(root)] if place.is_file() else [Path(root) / name for name in files_of(place)]


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
    work = linked_copy(state.folder, folder / "work", name)
    try:
        damage(work / name, kind, place)
        case = f"{name}, {kind} at {place}"
        answers: list[Answer] = []
        for command in state.commands(name):
            answers.append(server.run(work, *command))
            if answers[-1].code:
                break
        last = answers[-1]
        assert "Traceback" not in last.said, f"{case}: {last.said[-2000:]}"
        if last.code:
            assert last.refused, f"{case}: code {last.code}: {last.said[-2000:]}"
            return "refused"
        assert not hidden(work / RUN), case
        right = state.right[state.commands(name)]
        said = any("warning" in answer.said for answer in answers)
        found = state.outcome(work, answers)
        if state.outcome is said_of:
            return told(found, right, said, case)
        aside = any("moved aside and begun anew" in answer.said for answer in answers)
        rows_of = Path(name).name in ("metrics.jsonl", "samples.jsonl")
        if Path(name).name.startswith("damaged") or aside or (said and rows_of):
            found = (found[0], right[1], right[2], found[3])  # rows are lost, and that is said
        assert found == right, f"{case}: another result in silence: {last.said[-1000:]}"
        return "mended" if said else "harmless"
    finally:
        shutil.rmtree(work)


def rounds(state: State, count: int) -> Iterator[list[Try]]:
    """What is tried: `count` flips and cuts in each of the files, one of each in a round, far from the last.

    The first round has every file empty and missing.
    """
    files = {name: places((state.folder / name).stat().st_size, count) for name in state.files}
    yield [(name, kind, 0) for name in files for kind in ("missing", "empty")]
    for number in sorted(range(count), key=lambda number: number * 7 % count):
        flips = [(name, "flip", found[number]) for name, found in files.items() if number < len(found)]
        yield flips + [(name, "cut", found[number]) for name, found in files.items() if number + 1 < len(found)]


def main() -> None:
    """See above."""
    folder, count, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or STATES
    counts: dict[str, Counter[str]] = {}
    bad = 0
    with serving() as server:
        states = make_states(server, folder, names)
        walks = {name: rounds(state, count) for name, state in states.items()}
        before = {name: digest(state.folder) for name, state in states.items()}
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
        assert before == {name: digest(state.folder) for name, state in states.items()}
    print(json.dumps(counts, indent=1))
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
