"""Kills and full disks before operations that change a file: `python -m tests.faults.campaign OUT FAULTS STEP FIRST`.

Prints a line for each that didn't end as it must, and at the end how many there were. The suite takes a sample.
With `verbs` as a last word it strikes, instead of a run's stages, what people do with a finished one (`kept.py`).
"""

import shutil
import sys
from pathlib import Path

from sioconv.files import sha256_file
from tests.faults.inputs import make_place
from tests.faults.kept import VERBS
from tests.faults.workplace import RUN, VISIBLE, Server, copy, files_of, hidden, result, rows, serving, write_workplace

Command = tuple[str, ...]
MANY = 60  # operations; of a verb with fewer every one is struck
UNLIKE = ("metrics.jsonl", "samples.jsonl", "keys.txt", "SHA256SUMS", "made.json")
COMMANDS = (("finetune", "recipe.yaml"), ("report", "runs/small"))


def judge(server: Server, fresh: Path, whole: Path, folder: Path, fault: str, at: int) -> list[str]:
    """Strikes a run at one operation, repeats its commands, and says what is not as it must be then.

    Args:
        server: runs the commands.
        fresh: the workplace before.
        whole: the workplace after the same commands without a fault.
        folder: where to try.
        fault: see `Fault`.
        at: the operation's number, over all commands.
    """
    copy(fresh, folder)
    problems: list[str] = []
    for command in COMMANDS:
        struck = server.run(folder, *command, fault=fault, at=at)
        at -= len(struck.operations)
        if fault == "full" and struck.code and not struck.refused:
            problems.append(f"{command[0]}: code {struck.code}: {struck.said[-300:]}")
        if struck.code:
            break
    for command in COMMANDS:
        again = server.run(folder, *command)
        if again.code:
            problems.append(f"again, {command[0]}: code {again.code}: {again.said[-300:]}")
    if left := hidden(folder / RUN):
        problems.append(f"left behind: {left}")
    found, expected = result(folder / RUN), result(whole / RUN)
    if found != expected:
        differing = [name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name)]
        problems.append(f"other results: {sorted(differing)}")
    if rows(folder / RUN) != rows(whole / RUN) or rows(folder / RUN, "samples.jsonl") != rows(
        whole / RUN, "samples.jsonl"
    ):
        problems.append("other rows of metrics or samples")
    if not (folder / RUN / "report/summary.json").is_file():
        problems.append("no report")
    shutil.rmtree(folder)
    return problems


def finished(server: Server, folder: Path) -> tuple[Path, Path, list[str]]:
    """A workplace before and after all commands, and the operations that they made."""
    fresh, operations = write_workplace(folder / "fresh"), []
    whole = copy(fresh, folder / "whole")
    for command in COMMANDS:
        answer = server.run(whole, *command)
        assert answer.code == 0, answer.said
        operations += answer.operations
    return fresh, whole, operations


def outputs(folder: Path) -> dict[str, str]:
    """What stands below runs/, but for times and what is drawn at random."""
    found = {}
    for name in files_of(folder / "runs"):
        file = folder / "runs" / name
        parts = set(Path(name).parts)
        if not name.startswith("small/") and not parts & {*UNLIKE, *VISIBLE, "tensorboard", "checkpoints"}:
            found[name] = sha256_file(file)
    return found


def judge_verb(
    server: Server, made: Path, whole: Path, folder: Path, command: Command, fault: str, at: int
) -> list[str]:
    """The same as `judge` of one command that stands by itself.

    Args:
        server: runs it.
        made: the workplace before.
        whole: the workplace after it without a fault.
        folder: where to try.
        command: what is struck.
        fault: see `Fault`.
        at: the operation's number.
    """
    copy(made, folder)
    problems: list[str] = []
    struck = server.run(folder, *command, fault=fault, at=at)
    if fault == "full" and struck.code and not struck.refused:
        problems.append(f"code {struck.code}: {struck.said[-300:]}")
    again = server.run(folder, *command)
    done = any(words in again.said for words in ("already", "has a key"))  # it was struck behind its last rename
    if again.code and not (again.refused and done):
        problems.append(f"again: code {again.code}: {again.said[-300:]}")
    if left := hidden(folder / "runs"):
        problems.append(f"left behind: {left}")
    if outputs(folder) != outputs(whole):
        problems.append(f"other results: {sorted(dict(outputs(folder).items() ^ outputs(whole).items()))[:5]}")
    shutil.rmtree(folder)
    return problems


def verbs(server: Server, folder: Path, faults: list[str], step: int, first: int) -> tuple[int, int]:
    """Strikes each of `VERBS`; of the longest only every `step`th operation. How many were tried, and how many bad."""
    made, tried, bad = make_place(server, folder / "made"), 0, 0
    for command in VERBS:
        whole = copy(made, folder / "whole")
        answer = server.run(whole, *command)
        assert answer.code == 0, answer.said
        count = len(answer.operations)
        for at in range(first if count > MANY else 0, count, step if count > MANY else 1):
            for fault in faults:
                problems = judge_verb(server, made, whole, folder / "try", command, fault, at)
                tried, bad = tried + 1, bad + bool(problems)
                for problem in problems:
                    print(f"{command[0]}, {fault} before {at} ({answer.operations[at]}): {problem}", flush=True)
        print(f"{command[0]}: {count} operations; {tried} tried, {bad} bad", flush=True)
        shutil.rmtree(whole)
    return tried, bad


def main() -> None:
    """See above."""
    folder, step, first = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])
    if sys.argv[5:] == ["verbs"]:
        with serving() as server:
            verbs(server, folder, sys.argv[2].split(","), step, first)
        return
    tried = bad = 0
    with serving() as server:
        fresh, whole, operations = finished(server, folder)
        print(f"{len(operations)} operations", flush=True)
        for at in range(first, len(operations), step):
            for fault in sys.argv[2].split(","):
                problems = judge(server, fresh, whole, folder / "try", fault, at)
                tried, bad = tried + 1, bad + bool(problems)
                for problem in problems:
                    print(f"{fault} before operation {at} ({operations[at]}): {problem}", flush=True)
                print(f"{tried} tried, {bad} bad", flush=True)


if __name__ == "__main__":
    main()
